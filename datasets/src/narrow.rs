//! Rows of f32 that a smaller type holds exactly, served as that type.
//!
//! In: a source of f32 rows. Out: [`narrowest`], the smallest type that loses no bit of any value, found by reading
//! the rows once, and [`Narrowed`], the source served as that type in bounded blocks. SIFT sets come as f32 and hold
//! whole numbers below 256; embeddings that were computed in half precision come as f32 too.

use std::ops::Range;
use std::path::Path;

use kiln_kernels::{DType, Rows, f16};

use crate::error::DatasetError;
use crate::source::{RowSource, blocks};

/// Types that f32 rows may be narrowed to, the first choice first: bytes have the fastest kernels.
const CHOICES: [DType; 3] = [DType::U8, DType::I8, DType::F16];

/// Bits of an f32's fraction that f16 has no room for.
const FRACTION_LOST: u32 = (1 << 13) - 1;
/// Biased exponents of the f32 values that are normal numbers in f16: 2^-14 to 2^15.
const NORMAL_IN_F16: std::ops::RangeInclusive<u32> = 113..=142;

/// The smallest element type that holds every value of `source` exactly, bit for bit: u8, i8, f16, or the source's own.
/// Rows are read block by block, `advance` is called with the rows of each, and reading ends where nothing smaller
/// is left: for most sets of floats within the first block. Only rows of f32 are narrowed.
///
/// # Errors
/// As [`RowSource::read`].
pub fn narrowest(source: &dyn RowSource, mut advance: impl FnMut(u64)) -> Result<DType, DatasetError> {
    if source.dtype() != DType::F32 {
        return Ok(source.dtype());
    }
    let mut choices = CHOICES.to_vec();
    for block in blocks(source, 0..source.len()) {
        let Rows::F32(rows) = source.read(block.clone())? else { return Ok(source.dtype()) };
        let values = rows.as_slice().expect("rows are contiguous by construction");
        choices.retain(|&choice| holds(choice, values));
        if choices.is_empty() {
            break;
        }
        advance(block.end - block.start);
    }
    Ok(choices.first().copied().unwrap_or(DType::F32))
}

/// The first row of `source` with a value that `dtype` does not hold exactly, and that value. Only rows of f32 are
/// looked at. `advance` is called with the rows of each block.
///
/// # Errors
/// As [`RowSource::read`].
pub fn first_lost(
    source: &dyn RowSource,
    dtype: DType,
    mut advance: impl FnMut(u64),
) -> Result<Option<(u64, f32)>, DatasetError> {
    for block in blocks(source, 0..source.len()) {
        let Rows::F32(rows) = source.read(block.clone())? else { return Ok(None) };
        let lost = rows.indexed_iter().find(|&(_, &x)| !holds(dtype, &[x]));
        if let Some(((row, _), &value)) = lost {
            return Ok(Some((block.start + row as u64, value)));
        }
        advance(block.end - block.start);
    }
    Ok(None)
}

/// Whether `dtype` holds every one of these values: the sign of a zero too, which bytes have not.
fn holds(dtype: DType, values: &[f32]) -> bool {
    match dtype {
        DType::U8 => values.iter().all(|&x| f32::from(x as u8).to_bits() == x.to_bits()),
        DType::I8 => values.iter().all(|&x| f32::from(x as i8).to_bits() == x.to_bits()),
        DType::F16 => values.iter().all(|&x| survives_f16(x)),
        DType::F32 => true,
    }
}

fn survives_f16(x: f32) -> bool {
    let bits = x.to_bits();
    // Zeros, subnormals and what overflows are rare: they are left to the conversion itself.
    bits & FRACTION_LOST == 0
        && (NORMAL_IN_F16.contains(&(bits >> 23 & 0xff)) || f16::from_f32(x).to_f32().to_bits() == bits)
}

/// A source of f32 rows, served as a smaller type that holds them exactly.
pub struct Narrowed<'a> {
    source: &'a dyn RowSource,
    dtype: DType,
}

impl<'a> Narrowed<'a> {
    /// Serves `source` as `dtype`, which [`narrowest`] has found for it; its own type is served as it is.
    pub fn new(source: &'a dyn RowSource, dtype: DType) -> Self {
        Self { source, dtype }
    }

    /// Converts a block; a value that is not held means that the file changed since it was looked at.
    fn narrow(&self, rows: Rows, first: u64) -> Result<Rows, DatasetError> {
        let (Rows::F32(wide), true) = (&rows, self.dtype != DType::F32) else { return Ok(rows) };
        let lost =
            |row: &ndarray::ArrayView1<'_, f32>| !holds(self.dtype, row.as_slice().expect("rows are contiguous"));
        if let Some(row) = wide.outer_iter().position(|row| lost(&row)) {
            return Err(DatasetError::invalid(
                self.source.path(),
                format!("row {} no longer holds values that {} holds exactly", first + row as u64, self.dtype),
                "leave the file alone while it is read, or add --keep-dtype",
            ));
        }
        Ok(match self.dtype {
            DType::U8 => Rows::U8(wide.mapv(|x| x as u8)),
            DType::I8 => Rows::I8(wide.mapv(|x| x as i8)),
            DType::F16 => Rows::F16(wide.mapv(f16::from_f32)),
            DType::F32 => rows,
        })
    }
}

impl RowSource for Narrowed<'_> {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn dim(&self) -> usize {
        self.source.dim()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn path(&self) -> &Path {
        self.source.path()
    }

    fn read(&self, rows: Range<u64>) -> Result<Rows, DatasetError> {
        // Wide rows are held a block at a time, however many narrow ones are asked for.
        let whole = blocks(self.source, rows.clone()).next().is_none_or(|block| block == rows);
        if whole || self.dtype == self.source.dtype() {
            return self.narrow(self.source.read(rows.clone())?, rows.start);
        }
        let mut all = Rows::zeros(self.dtype, (rows.end - rows.start) as usize, self.dim());
        for block in blocks(self.source, rows.clone()) {
            let narrow = self.narrow(self.source.read(block.clone())?, block.start)?;
            let at = (block.start - rows.start) as usize * self.dim() * self.dtype.bytes();
            all.as_bytes_mut()[at..at + narrow.as_bytes().len()].copy_from_slice(narrow.as_bytes());
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};

    use super::*;
    use crate::source::{MemorySource, read_all};

    fn source(values: &[f32]) -> MemorySource {
        let mut rows = Array2::from_elem((values.len() + 2, 3), 7.0f32);
        rows.slice_mut(s![1..=values.len(), 1]).iter_mut().zip(values).for_each(|(cell, &x)| *cell = x);
        MemorySource::new(Rows::F32(rows), "rows")
    }

    #[test]
    fn the_smallest_type_that_loses_nothing_is_found() {
        let largest_f16 = 65504.0;
        let least_f16 = 2f32.powi(-24);
        for (values, expected) in [
            (&[0.0, 255.0][..], DType::U8),
            (&[-128.0, 127.0], DType::I8),
            (&[-1.0, 128.0], DType::F16),
            (&[-129.0, 0.0], DType::F16),
            (&[256.0, 0.0], DType::F16),
            (&[0.5, 1.0], DType::F16),
            (&[-0.0, 1.0], DType::F16),
            (&[largest_f16, least_f16, -least_f16], DType::F16),
            (&[3.0 * least_f16, 1023.0 * least_f16, 2f32.powi(-14)], DType::F16),
            (&[2049.0, 0.0], DType::F32),
            (&[65536.0, 0.0], DType::F32),
            (&[1e-8, 0.0], DType::F32),
            (&[1.5 * least_f16, 0.0], DType::F32),
            (&[least_f16 / 2.0, 0.0], DType::F32),
            (&[f32::MIN_POSITIVE / 2.0, 0.0], DType::F32),
            (&[f32::MAX, 0.0], DType::F32),
            (&[0.1, 0.0], DType::F32),
        ] {
            assert_eq!(narrowest(&source(values), |_| ()).expect("read"), expected, "{values:?}");
        }
    }

    #[test]
    fn the_first_value_that_is_lost_is_found() {
        let rows = source(&[1.0, 0.5, 2.5, 300.0]);
        for (dtype, expected) in
            [(DType::U8, Some((2, 0.5))), (DType::I8, Some((2, 0.5))), (DType::F16, None), (DType::F32, None)]
        {
            assert_eq!(first_lost(&rows, dtype, |_| ()).expect("read"), expected, "{dtype}");
        }
        assert_eq!(first_lost(&source(&[1.0, -1.0]), DType::U8, |_| ()).expect("read"), Some((2, -1.0)));
    }

    #[test]
    fn every_half_survives_and_its_neighbours_do_not() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            if half.is_finite() {
                let exact = half.to_f32();
                assert!(survives_f16(exact), "{exact}");
                assert!(!survives_f16(f32::from_bits(exact.to_bits() ^ 1)), "{exact}");
            }
        }
    }

    #[test]
    fn what_is_served_has_the_same_values() {
        // Blocks of 8 MiB: three of them, so that a read crosses their borders.
        let (n, dim) = (70_000, 64);
        let rows = Array2::from_shape_fn((n, dim), |(i, j)| ((i * 7 + j * 13) % 256) as f32);
        let source = MemorySource::new(Rows::F32(rows.clone()), "rows");
        let mut seen = 0;
        assert_eq!(narrowest(&source, |rows| seen += rows).expect("read"), DType::U8);
        assert_eq!(seen, n as u64);
        for dtype in [DType::U8, DType::F16, DType::F32] {
            let narrowed = Narrowed::new(&source, dtype);
            assert_eq!((narrowed.len(), narrowed.dim(), narrowed.dtype()), (n as u64, dim, dtype));
            let all = read_all(&narrowed, |_| ()).expect("read");
            assert!(all.dtype() == dtype && all.view().to_f32() == rows, "{dtype}");
            let some = narrowed.read(5..69_999).expect("read");
            assert!(some.dtype() == dtype && some.view().to_f32() == rows.slice(s![5..69_999, ..]), "{dtype}");
        }
        assert!(Narrowed::new(&source, DType::U8).read(3..n as u64 + 1).is_err());
        let message = Narrowed::new(&source, DType::I8).read(0..10).expect_err("255 is no i8").to_string();
        assert!(message.contains("row ") && message.contains("i8") && message.contains("--keep-dtype"), "{message}");
    }

    #[test]
    fn other_types_are_left_alone_and_reading_ends_early() {
        let bytes = MemorySource::new(Rows::I8(Array2::zeros((3, 2))), "rows");
        assert_eq!(narrowest(&bytes, |_| panic!("nothing is read")).expect("i8"), DType::I8);
        let mut rows = Array2::<f32>::zeros((70_000, 64));
        rows[(0, 0)] = 0.1;
        let floats = MemorySource::new(Rows::F32(rows), "rows");
        assert_eq!(narrowest(&floats, |_| panic!("one block is enough")).expect("f32"), DType::F32);
    }
}
