//! Where a search of an `inline` index starts: the nearest of a sample of rows.
//!
//! In: rows. Out: section `nav`, the sampled rows' positions and codes relative to the mean of all rows, as if a node at
//! the mean had them for neighbours. A query scores all of them, which costs less than the hops it saves.

use kiln_kernels::Scored;
use kiln_kernels::edge_codes::{EdgeCodes, EdgeQuery, LANES, NO_NEIGHBOR, block_bytes};

use crate::quantiser::sample_rows;

/// Rows sampled at most, and one in so many of fewer rows: to score them must cost less than the hops that it saves. On
/// 53,230 rows 256 answer 15% more queries than 1,024 at recall .95; on 736,862 rows 1,024 are best.
const SAMPLE: usize = 1024;
const ROWS_A_SAMPLED: usize = 208;
const SAMPLE_OF_FEW: usize = 128;

/// Bits a coordinate of their codes.
const BITS: u8 = 2;

/// The sampled rows.
pub(crate) struct EntryTable {
    codes: EdgeCodes,
    ids: Vec<u32>,
    blocks: Vec<u8>,
}

impl EntryTable {
    /// Rows to sample from `n`: first the graph's entry, from which all are reached, then others, ascending.
    pub(crate) fn rows(n: usize, seed: u64, entry: usize) -> Vec<usize> {
        let sample = (n / ROWS_A_SAMPLED).clamp(SAMPLE_OF_FEW, SAMPLE);
        let others = sample_rows(n, sample, seed).into_iter().filter(|&row| row != entry);
        std::iter::once(entry).chain(others).take(sample).collect()
    }

    /// The codes that the table uses beside the edges' own.
    pub(crate) fn codes(edges: &EdgeCodes) -> EdgeCodes {
        edges.with_bits(BITS)
    }

    /// Places for so many sampled rows.
    pub(crate) fn places(rows: usize) -> usize {
        rows.next_multiple_of(LANES)
    }

    /// The section: u32 places, one u32 position a place, then the blocks.
    pub(crate) fn to_bytes(positions: &[u32], blocks: &[u8]) -> Vec<u8> {
        let mut ids = positions.to_vec();
        ids.resize(Self::places(positions.len()), NO_NEIGHBOR);
        let mut bytes = (ids.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(bytemuck::cast_slice(&ids));
        bytes.extend_from_slice(blocks);
        bytes
    }

    /// Reads the section of an index of `n` nodes; the error says what does not fit.
    pub(crate) fn from_bytes(bytes: &[u8], edges: &EdgeCodes, n: u32) -> Result<Self, String> {
        let words = bytes.as_chunks::<4>().0;
        let places = words.first().map_or(0, |b| u32::from_le_bytes(*b)) as usize;
        let expected = places
            .checked_mul(4 + block_bytes(edges.dim(), BITS) / LANES)
            .and_then(|bytes| bytes.checked_add(4))
            .filter(|_| places > 0 && places.is_multiple_of(LANES));
        if expected != Some(bytes.len()) {
            return Err(format!("section nav has {} bytes, not those of {places} rows", bytes.len()));
        }
        let ids: Vec<u32> = words[1..=places].iter().map(|b| u32::from_le_bytes(*b)).collect();
        if let Some(wrong) = ids.iter().find(|&&id| id >= n && id != NO_NEIGHBOR) {
            return Err(format!("section nav names node {wrong} of {n}"));
        }
        Ok(Self { codes: Self::codes(edges), ids, blocks: bytes[4 + 4 * places..].to_vec() })
    }

    /// Leaves in `found` the graph's entry and the sampled row that is nearest, both by their codes: a search that starts
    /// at both reaches everything, and loses nothing when nearer rows soon push the entry out.
    fn nearest(&self, query: &EdgeQuery, found: &mut Vec<Scored>) {
        let blocks = self.blocks.chunks_exact(self.codes.block_bytes());
        let mut best: Option<Scored> = None;
        for (at, (ids, block)) in self.ids.chunks_exact(LANES).zip(blocks).enumerate() {
            // The first block is found whole, with the entry in its first place; of the others what is nearer.
            let (start, bound) = (found.len(), best.map_or(f32::INFINITY, |best| best.distance));
            self.codes.neighbors_below(query, query.from_center(), bound, ids, block, found);
            let nearest = found[start..].iter().copied().min();
            best = [best, nearest].into_iter().flatten().min();
            found.truncate(if at == 0 { 1.min(found.len()) } else { start });
        }
        found.extend(best.filter(|best| found.iter().all(|entry| entry.id != best.id)));
    }

    /// As [`nearest`](Self::nearest); where codes that overflowed tell nothing, `entry`. Returns how many were scored.
    pub(crate) fn nearest_or(&self, entry: u32, query: &EdgeQuery, found: &mut Vec<Scored>) -> usize {
        self.nearest(query, found);
        if found.is_empty() {
            found.push(Scored { distance: f32::INFINITY, id: entry });
        }
        self.len()
    }

    /// Rows that are scored.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        (4 * self.ids.len() + self.blocks.len()) as u64
    }
}
