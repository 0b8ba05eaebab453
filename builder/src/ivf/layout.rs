//! The `codec` and `lists` sections of an IVF-PQ index.
//!
//! `codec`: u64 length of the quantiser, the quantiser, then the centroids `(nlist, dim)` f32.
//!
//! `lists`: the directory, `(offset u64, count u64)` a list with offsets relative to the section, padded
//! to a page; then each list on a page boundary, as its [`Codec`] lays it out. Positions count on
//! from list to list, so a code's position is implicit.

use kiln_kernels::codec::{Codec, CodecKind};
use ndarray::Array2;

use crate::file::{PAGE, u64_at};

/// Where a list lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListEntry {
    /// Byte offset within the section.
    pub offset: u64,
    /// Codes in the list.
    pub count: u64,
    /// Position of its first code.
    pub first: u64,
}

/// Bytes of the directory, whole pages.
pub(crate) fn directory_bytes(nlist: usize) -> u64 {
    (16 * nlist).next_multiple_of(PAGE) as u64
}

/// Lays lists of these sizes one after another, each on a page boundary.
pub(crate) fn lay_out(counts: &[u64], list_bytes: impl Fn(u64) -> u64) -> Vec<ListEntry> {
    let (mut offset, mut first) = (directory_bytes(counts.len()), 0);
    counts
        .iter()
        .map(|&count| {
            let entry = ListEntry { offset, count, first };
            offset += list_bytes(count).next_multiple_of(PAGE as u64);
            first += count;
            entry
        })
        .collect()
}

/// The directory's bytes.
pub(crate) fn encode_directory(lists: &[ListEntry]) -> Vec<u8> {
    lists.iter().flat_map(|l| [l.offset, l.count]).flat_map(u64::to_le_bytes).collect()
}

/// Reads a directory and checks it against the number of rows and the section's length.
pub(crate) fn decode_directory(
    bytes: &[u8],
    n: u64,
    list_bytes: impl Fn(u64) -> u64,
    section_bytes: u64,
) -> Result<Vec<ListEntry>, String> {
    let mut first = 0u64;
    let mut lists = Vec::with_capacity(bytes.len() / 16);
    for entry in bytes.chunks_exact(16) {
        let (offset, count) = (u64_at(entry, 0), u64_at(entry, 8));
        // A count beyond the rows is refused before anything is computed of it.
        let end = (count <= n).then(|| list_bytes(count)).and_then(|bytes| bytes.checked_add(offset));
        if offset % PAGE as u64 != 0 || end.is_none_or(|end| end > section_bytes) {
            return Err(format!("list {} does not lie within its section", lists.len()));
        }
        lists.push(ListEntry { offset, count, first });
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
        let list_bytes = |count: u64| 12 * count;
        let lists = lay_out(&[3, 0, 5000], list_bytes);
        assert!(lists.iter().all(|l| l.offset % PAGE as u64 == 0));
        let bytes = encode_directory(&lists);
        let end = lists[2].offset + list_bytes(5000);
        assert_eq!(decode_directory(&bytes, 5003, list_bytes, end).unwrap(), lists);
        assert!(decode_directory(&bytes, 5002, list_bytes, end).is_err());
        assert!(decode_directory(&bytes, 5003, list_bytes, end - 1).is_err());
    }
}
