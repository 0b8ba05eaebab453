//! The `codec` and `lists` sections of an IVF-PQ index.
//!
//! `codec`: u64 length of the quantiser, the quantiser, then the centroids `(nlist, dim)` f32.
//!
//! `lists`: the directory, `(offset u64, count u32, spilled u32)` a list with offsets relative to the section, padded
//! to a page; then each list on a page boundary: its own rows and then the spilled, as its [`Codec`] lays them out, and
//! the positions of the spilled, u32. Own positions count on from list to list, so they are implicit.

use kiln_kernels::codec::{Codec, CodecKind};
use ndarray::Array2;

use crate::file::{PAGE, u32_at, u64_at};

/// Where a list lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListEntry {
    /// Byte offset within the section.
    pub offset: u64,
    /// Rows that have their place in the list.
    pub count: u64,
    /// Rows of other lists that are coded here too.
    pub spilled: u64,
    /// Position of its first code.
    pub first: u64,
}

/// Bytes of the directory, whole pages.
pub(crate) fn directory_bytes(nlist: usize) -> u64 {
    (16 * nlist).next_multiple_of(PAGE) as u64
}

impl ListEntry {
    /// Rows that are coded in the list.
    pub(crate) fn rows(&self) -> u64 {
        self.count + self.spilled
    }

    /// Bytes of the list: its codes, then the positions of the spilled rows.
    pub(crate) fn bytes(&self, codec: &Codec) -> u64 {
        codec.list_bytes(self.rows()) + 4 * self.spilled
    }
}

/// Lays lists of so many own and spilled rows one after another, each on a page boundary.
pub(crate) fn lay_out(counts: &[u64], spilled: &[u64], codec: &Codec) -> Vec<ListEntry> {
    let (mut offset, mut first) = (directory_bytes(counts.len()), 0);
    counts
        .iter()
        .zip(spilled)
        .map(|(&count, &spilled)| {
            let entry = ListEntry { offset, count, spilled, first };
            offset += entry.bytes(codec).next_multiple_of(PAGE as u64);
            first += count;
            entry
        })
        .collect()
}

/// The directory's bytes.
pub(crate) fn encode_directory(lists: &[ListEntry]) -> Vec<u8> {
    lists.iter().flat_map(|l| [l.offset, l.count | l.spilled << 32]).flat_map(u64::to_le_bytes).collect()
}

/// Reads a directory and checks it against the number of rows and the section's length.
pub(crate) fn decode_directory(
    bytes: &[u8],
    n: u64,
    codec: &Codec,
    section_bytes: u64,
) -> Result<Vec<ListEntry>, String> {
    let mut first = 0u64;
    let mut lists = Vec::with_capacity(bytes.len() / 16);
    for entry in bytes.chunks_exact(16) {
        let (offset, count, spilled) = (u64_at(entry, 0), u64::from(u32_at(entry, 8)), u64::from(u32_at(entry, 12)));
        let entry = ListEntry { offset, count, spilled, first };
        // Counts beyond the rows are refused before anything is computed of them.
        let end = (count <= n && spilled <= n).then(|| entry.bytes(codec)).and_then(|b| b.checked_add(offset));
        if offset % PAGE as u64 != 0 || end.is_none_or(|end| end > section_bytes) {
            return Err(format!("list {} does not lie within its section", lists.len()));
        }
        lists.push(entry);
        first = first.saturating_add(count);
    }
    if first != n {
        return Err(format!("the lists hold {first} rows, {n} expected"));
    }
    Ok(lists)
}

/// The `codec` section's bytes.
pub(crate) fn encode_codec(codec: &Codec, centroids: &Array2<f32>) -> Vec<u8> {
    let codec = codec.to_bytes();
    let mut bytes = (codec.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&codec);
    bytes.extend(centroids.iter().flat_map(|x| x.to_le_bytes()));
    bytes
}

/// Reads the `codec` section of an index of `nlist` lists and `dim` coordinates.
pub(crate) fn decode_codec(
    bytes: &[u8],
    kind: CodecKind,
    nlist: usize,
    dim: usize,
) -> Result<(Codec, Array2<f32>), String> {
    let cut = || "section codec is cut short".to_string();
    let length = u64_at(bytes.get(..8).ok_or_else(cut)?, 0) as usize;
    let (quantiser, centroids) = bytes[8..].split_at_checked(length).ok_or_else(cut)?;
    let codec = Codec::from_bytes(kind, quantiser, dim)?;
    let floats: Vec<f32> = centroids.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let centroids = Array2::from_shape_vec((nlist, dim), floats).map_err(|_| cut())?;
    Ok((codec, centroids))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_survives_storage_and_is_checked() {
        let pq = kiln_kernels::pq::ProductQuantizer::train(
            &kiln_kernels::CpuBackend::new(),
            Array2::zeros((3, 8)).view(),
            kiln_kernels::pq::PqTraining { m: 8, bits: kiln_kernels::pq::CodeBits::Eight, iterations: 1, seed: 1 },
        );
        let codec = Codec::Pq(pq.expect("trained"));
        let lists = lay_out(&[3, 0, 5000], &[0, 2, 7], &codec);
        assert!(lists.iter().all(|l| l.offset % PAGE as u64 == 0));
        let bytes = encode_directory(&lists);
        let end = lists[2].offset + lists[2].bytes(&codec);
        assert_eq!(decode_directory(&bytes, 5003, &codec, end).unwrap(), lists);
        assert!(decode_directory(&bytes, 5002, &codec, end).is_err());
        assert!(decode_directory(&bytes, 5003, &codec, end - 1).is_err());
    }
}
