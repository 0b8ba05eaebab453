//! Candidates on their way from groups of clusters to the units of rows that they belong to.
//!
//! A segment holds the lists of some rows of one unit: a header of row numbers within the unit and of list lengths in
//! bytes, then the lists. A list is ascending by (key, id): each candidate is the difference of its key to the one before,
//! seven bits a byte, and its id in as few bytes as the largest takes. About five bytes a candidate.

/// Lists of some rows of one unit.
#[derive(Default)]
pub(super) struct Segment {
    rows: Vec<u32>,
    lengths: Vec<u32>,
    lists: Vec<u8>,
}

/// Bytes that ids below `n` take.
pub(super) fn id_bytes(n: usize) -> usize {
    let bits = usize::BITS - n.saturating_sub(1).leading_zeros();
    bits.div_ceil(8).max(1) as usize
}

impl Segment {
    /// Appends the list of a row: candidates as `key << 32 | id`, ascending.
    pub(super) fn push(&mut self, row: u32, candidates: &[u64], id_bytes: usize) {
        let before = self.lists.len();
        let mut last = 0u16;
        for &candidate in candidates {
            let (key, id) = ((candidate >> 32) as u16, candidate as u32);
            let mut difference = key - last;
            while difference >= 0x80 {
                self.lists.push(difference as u8 | 0x80);
                difference >>= 7;
            }
            self.lists.push(difference as u8);
            self.lists.extend_from_slice(&id.to_le_bytes()[..id_bytes]);
            last = key;
        }
        self.rows.push(row);
        self.lengths.push((self.lists.len() - before) as u32);
    }

    /// Whether it holds no list.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Hands over the segment's bytes.
    pub(super) fn write<E>(&self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        sink(&(self.rows.len() as u32).to_le_bytes())?;
        sink(bytemuck::cast_slice(&self.rows))?;
        sink(bytemuck::cast_slice(&self.lengths))?;
        sink(&self.lists)
    }

    /// The rows of a segment's bytes, each with where its list lies; `None` where they do not fit together.
    pub(super) fn lists(bytes: &[u8]) -> Option<Vec<(u32, std::ops::Range<usize>)>> {
        let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let count = word(0)? as usize;
        let mut at = 4usize.checked_add(count.checked_mul(8)?)?;
        let lists = (0..count).map(|i| {
            let (row, length) = (word(4 + 4 * i)?, word(4 + 4 * (count + i))? as usize);
            let list = at..at + length;
            at += length;
            Some((row, list))
        });
        let lists: Vec<_> = lists.collect::<Option<_>>()?;
        (at == bytes.len()).then_some(lists)
    }
}

/// Appends the candidates of a list, as [`Segment::push`] was given them.
pub(super) fn read_list(mut list: &[u8], id_bytes: usize, out: &mut Vec<u64>) {
    let mut key = 0u16;
    while !list.is_empty() {
        let (mut difference, mut shift) = (0u16, 0);
        while let Some((&byte, rest)) = list.split_first() {
            list = rest;
            difference |= u16::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        key += difference;
        let mut id = [0; 4];
        let (bytes, rest) = list.split_at(id_bytes);
        id[..id_bytes].copy_from_slice(bytes);
        list = rest;
        out.push(u64::from(key) << 32 | u64::from(u32::from_le_bytes(id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_spilled_is_read(
            lists in prop::collection::vec(prop::collection::vec((any::<u16>(), 0u32..70_000), 0..40), 0..20),
        ) {
            let width = id_bytes(70_000);
            let (mut segment, mut bytes) = (Segment::default(), Vec::new());
            let sorted = |list: &Vec<(u16, u32)>| {
                let mut list: Vec<u64> = list.iter().map(|&(key, id)| u64::from(key) << 32 | u64::from(id)).collect();
                list.sort_unstable();
                list
            };
            let expected: Vec<Vec<u64>> = lists.iter().map(sorted).collect();
            expected.iter().zip(0..).for_each(|(list, row)| segment.push(3 * row, list, width));
            segment.write(|part| { bytes.extend_from_slice(part); Ok::<(), ()>(()) }).expect("infallible");
            let found = Segment::lists(&bytes).expect("whole");
            prop_assert_eq!(found.len(), expected.len());
            for ((i, (row, range)), expected) in found.into_iter().enumerate().zip(&expected) {
                let mut list = Vec::new();
                read_list(&bytes[range], width, &mut list);
                prop_assert_eq!((row, &list), (3 * i as u32, expected));
            }
            prop_assert!(Segment::lists(&bytes[..bytes.len() - 1]).is_none());
        }
    }

    #[test]
    fn ids_take_as_few_bytes_as_the_largest() {
        assert_eq!([1, 256, 257, 1 << 16, (1 << 16) + 1, 1 << 24, (1 << 24) + 1].map(id_bytes), [1, 1, 2, 2, 3, 3, 4]);
    }
}
