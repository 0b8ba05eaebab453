//! Matrices in .npy files: one row a vector, C order.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use bytemuck::Pod;
use diskann_utils::views::rowmajor::Owned;

use crate::Result;

pub type Rows<T> = Owned<T>;

pub enum Dtype {
    F32,
    U8,
    I8,
}

pub fn dtype(path: &Path) -> Result<Dtype> {
    let header = read_header(&mut open(path)?, path)?;
    match text_after(&header, "'descr': '").split('\'').next() {
        Some("<f4") => Ok(Dtype::F32),
        Some("|u1") => Ok(Dtype::U8),
        Some("|i1") => Ok(Dtype::I8),
        _ => Err(format!("{}: neither float32 nor bytes: {header}", path.display()).into()),
    }
}

/// All of a file whose type of elements is known to be `T`.
pub fn read<T: Pod>(path: &Path) -> Result<Rows<T>> {
    let mut file = open(path)?;
    let header = read_header(&mut file, path)?;
    let (rows, dim) = shape(&header).ok_or_else(|| format!("{}: no matrix in C order: {header}", path.display()))?;
    let mut elements = vec![T::zeroed(); rows * dim].into_boxed_slice();
    file.read_exact(bytemuck::cast_slice_mut(&mut elements))?;
    Ok(Owned::try_from_data(elements, rows, dim).map_err(|error| error.as_static())?)
}

/// `ids` (n, k), -1 for none.
pub fn write_ids(path: &Path, ids: &[i32], k: usize) -> Result<()> {
    let mut header = format!("{{'descr': '<i4', 'fortran_order': False, 'shape': ({}, {k}), }}", ids.len() / k);
    // Padded so that the elements begin at a multiple of 64 bytes.
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header = format!("{header:<width$}\n", width = length - 1);
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&u16::try_from(length)?.to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.write_all(bytemuck::cast_slice(ids))?;
    Ok(file.flush()?)
}

fn open(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::new(File::open(path).map_err(|error| format!("{}: {error}", path.display()))?))
}

/// The dictionary at the beginning of a file, of version 1, which is what NumPy writes for plain matrices.
fn read_header(file: &mut impl Read, path: &Path) -> Result<String> {
    let mut start = [0; 10];
    file.read_exact(&mut start)?;
    if start[..7] != *b"\x93NUMPY\x01" {
        return Err(format!("{}: not a .npy file of version 1", path.display()).into());
    }
    let mut header = vec![0; u16::from_le_bytes([start[8], start[9]]).into()];
    file.read_exact(&mut header)?;
    Ok(String::from_utf8(header)?.trim_end().to_owned())
}

/// (rows, columns); None unless it is a matrix in C order.
fn shape(header: &str) -> Option<(usize, usize)> {
    if !text_after(header, "'fortran_order': ").starts_with("False") {
        return None;
    }
    let (inside, _) = text_after(header, "'shape': (").split_once(')')?;
    let (rows, columns) = inside.split_once(", ")?;
    Some((rows.parse().ok()?, columns.parse().ok()?))
}

fn text_after<'a>(text: &'a str, mark: &str) -> &'a str {
    text.split_once(mark).map_or("", |(_, after)| after)
}
