//! Lists of row ids, as `.npy`.
//!
//! In: a file. Out: the ids as they stand there, in its order, repeats included.

use std::path::Path;

use crate::error::DatasetError;
use crate::flat::open_sized;
use crate::npy::Header;
use crate::truth::read_cells;

/// Reads a list of ids from a `.npy` file of `<u8`, `<i8`, `<u4` or `<i4`.
///
/// # Errors
/// When it is no such list, or an id is negative.
pub fn open_ids(path: &Path) -> Result<Vec<u64>, DatasetError> {
    let (file, size) = open_sized(path)?;
    let header = Header::read_list(&file, path, size)?;
    let width = match header.descr.as_str() {
        "<i4" | "<u4" => 4,
        "<i8" | "<u8" => 8,
        other => {
            return Err(DatasetError::invalid(
                path,
                format!("its cells are {other}; ids are read as <u8, <i8, <u4 or <i4"),
                "save ids.astype('uint64') instead",
            ));
        }
    };
    header.check_size(path, width, size)?;
    let (cells, at) = (header.rows as usize, header.offset);
    let signed: Vec<i64> = match header.descr.as_str() {
        "<u8" => return read_cells(&file, path, at, cells, u64::from_le_bytes),
        "<u4" => read_cells(&file, path, at, cells, |b| i64::from(u32::from_le_bytes(b)))?,
        "<i4" => read_cells(&file, path, at, cells, |b| i64::from(i32::from_le_bytes(b)))?,
        _ => read_cells(&file, path, at, cells, i64::from_le_bytes)?,
    };
    let unsigned = |(place, &id): (usize, &i64)| {
        u64::try_from(id).map_err(|_| {
            DatasetError::invalid(path, format!("entry {place} is {id}, which is no id"), "leave negative numbers out")
        })
    };
    signed.iter().enumerate().map(unsigned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(descr: &str, shape: &str, cells: &[u8]) -> Vec<u8> {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = (text.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], text.as_bytes(), cells].concat()
    }

    fn read(bytes: &[u8]) -> Result<Vec<u64>, String> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("ids.npy");
        std::fs::write(&path, bytes).expect("written");
        open_ids(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn whole_numbers_of_four_kinds_are_read_in_order() {
        let wide = [7u64, 3, 7].map(u64::to_le_bytes).concat();
        let narrow = [7u32, 3, 7].map(u32::to_le_bytes).concat();
        for (descr, cells) in [("<u8", &wide), ("<i8", &wide), ("<u4", &narrow), ("<i4", &narrow)] {
            for shape in ["(3,)", "(3, 1)", "(1, 3)"] {
                assert_eq!(read(&npy(descr, shape, cells)), Ok(vec![7, 3, 7]), "{descr} {shape}");
            }
            assert_eq!(read(&npy(descr, "(0,)", &[])), Ok(vec![]), "{descr}");
        }
        assert_eq!(read(&npy("<u8", "(1,)", &u64::MAX.to_le_bytes())), Ok(vec![u64::MAX]));
    }

    #[test]
    fn what_is_no_list_of_ids_is_refused() {
        let cells = [1i64, -2].map(i64::to_le_bytes).concat();
        for (bytes, says) in [
            (npy("<i8", "(2,)", &cells), "entry 1 is -2"),
            (npy("<f8", "(2,)", &cells), "astype('uint64')"),
            (npy("<u8", "(2, 2)", &cells), "no list"),
            (npy("<u8", "(3,)", &cells), "cut off"),
            (npy("<u8", "()", &cells), "no list"),
            (b"nonsense".to_vec(), "one-dimensional"),
        ] {
            let message = read(&bytes).expect_err("refused");
            assert!(message.contains("ids.npy") && message.contains(says), "{message}");
        }
    }
}
