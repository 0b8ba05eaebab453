//! Matrices of vectors, one row a vector, whose element type is known at run time.
//!
//! In: typed `ndarray` matrices or raw little-endian bytes. Out: the same, dispatched to typed code
//! once, at the edge, by [`dispatch_rows!`](crate::dispatch_rows). Rows are always contiguous.

use std::ops::Range;

use half::f16;
use ndarray::{Array2, ArrayView2, Axis, s};

use crate::element::{DType, Element};

/// An owned, contiguous, row-major matrix `(n, dim)` of one element type.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// 32-bit floats.
    F32(Array2<f32>),
    /// 16-bit floats.
    F16(Array2<f16>),
    /// Unsigned bytes.
    U8(Array2<u8>),
    /// Signed bytes.
    I8(Array2<i8>),
}

/// A borrowed, contiguous, row-major matrix `(n, dim)` of one element type.
#[derive(Debug, Clone)]
pub enum RowsView<'a> {
    /// 32-bit floats.
    F32(ArrayView2<'a, f32>),
    /// 16-bit floats.
    F16(ArrayView2<'a, f16>),
    /// Unsigned bytes.
    U8(ArrayView2<'a, u8>),
    /// Signed bytes.
    I8(ArrayView2<'a, i8>),
}

/// Runs `$body` with `$view` bound to the typed `ArrayView2` inside a [`RowsView`]: the one place
/// where the element type turns from a value into a type.
#[macro_export]
macro_rules! dispatch_rows {
    ($rows:expr, $view:ident => $body:expr) => {
        match $rows {
            $crate::RowsView::F32($view) => $body,
            $crate::RowsView::F16($view) => $body,
            $crate::RowsView::U8($view) => $body,
            $crate::RowsView::I8($view) => $body,
        }
    };
}

/// Runs `$body` with `$T` bound to the element type that a [`DType`] names.
#[macro_export]
macro_rules! dispatch_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::F16 => {
                type $T = $crate::f16;
                $body
            }
            $crate::DType::U8 => {
                type $T = u8;
                $body
            }
            $crate::DType::I8 => {
                type $T = i8;
                $body
            }
        }
    };
}

impl Rows {
    /// A matrix `(n, dim)` of zeros.
    pub fn zeros(dtype: DType, n: usize, dim: usize) -> Self {
        // Zeroed by the allocator: pages that are never written cost nothing.
        dispatch_dtype!(dtype, T => {
            let cells = bytemuck::zeroed_vec::<T>(n * dim);
            T::into_rows(Array2::from_shape_vec((n, dim), cells).expect("n * dim cells fill an (n, dim) matrix"))
        })
    }

    /// Rows from raw little-endian bytes of exactly `n * dim * dtype.bytes()` bytes; `None` when the
    /// length differs. The bytes need no alignment.
    pub fn from_bytes(dtype: DType, n: usize, dim: usize, bytes: &[u8]) -> Option<Self> {
        let mut rows = Self::zeros(dtype, n, dim);
        if bytes.len() != n * dim * dtype.bytes() {
            return None;
        }
        rows.as_bytes_mut().copy_from_slice(bytes);
        Some(rows)
    }

    /// A borrowed view of all rows.
    pub fn view(&self) -> RowsView<'_> {
        match self {
            Rows::F32(m) => RowsView::F32(m.view()),
            Rows::F16(m) => RowsView::F16(m.view()),
            Rows::U8(m) => RowsView::U8(m.view()),
            Rows::I8(m) => RowsView::I8(m.view()),
        }
    }

    /// The number of rows, `n`.
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of coordinates in a row.
    pub fn dim(&self) -> usize {
        self.view().dim()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.view().dtype()
    }

    /// All rows as raw bytes, row-major, in the machine's (little-endian) order.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Rows::F32(m) => bytemuck::cast_slice(contiguous(m)),
            Rows::F16(m) => bytemuck::cast_slice(contiguous(m)),
            Rows::U8(m) => contiguous(m),
            Rows::I8(m) => bytemuck::cast_slice(contiguous(m)),
        }
    }

    /// All rows as mutable raw bytes: how readers fill a matrix without a second copy.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        const OWNED: &str = "Rows are contiguous by construction";
        match self {
            Rows::F32(m) => bytemuck::cast_slice_mut(m.as_slice_mut().expect(OWNED)),
            Rows::F16(m) => bytemuck::cast_slice_mut(m.as_slice_mut().expect(OWNED)),
            Rows::U8(m) => m.as_slice_mut().expect(OWNED),
            Rows::I8(m) => bytemuck::cast_slice_mut(m.as_slice_mut().expect(OWNED)),
        }
    }
}

fn contiguous<T: Element>(matrix: &Array2<T>) -> &[T] {
    matrix.as_slice().expect("Rows are contiguous by construction")
}

impl<'a> RowsView<'a> {
    /// The number of rows, `n`.
    pub fn len(&self) -> usize {
        dispatch_rows!(self, v => v.nrows())
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of coordinates in a row.
    pub fn dim(&self) -> usize {
        dispatch_rows!(self, v => v.ncols())
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            RowsView::F32(_) => DType::F32,
            RowsView::F16(_) => DType::F16,
            RowsView::U8(_) => DType::U8,
            RowsView::I8(_) => DType::I8,
        }
    }

    /// The sub-matrix of a contiguous range of rows.
    ///
    /// # Panics
    /// When the range ends past the last row.
    pub fn slice(&self, rows: Range<usize>) -> RowsView<'a> {
        match self {
            RowsView::F32(v) => RowsView::F32((*v).slice_move(s![rows, ..])),
            RowsView::F16(v) => RowsView::F16((*v).slice_move(s![rows, ..])),
            RowsView::U8(v) => RowsView::U8((*v).slice_move(s![rows, ..])),
            RowsView::I8(v) => RowsView::I8((*v).slice_move(s![rows, ..])),
        }
    }

    /// Row `i` as raw little-endian bytes.
    pub fn row_bytes(&self, i: usize) -> &'a [u8] {
        fn bytes<'a, T: Element>(view: &ArrayView2<'a, T>, i: usize) -> &'a [u8] {
            let row = (*view).slice_move(s![i, ..]);
            bytemuck::cast_slice(row.to_slice().expect("rows are contiguous"))
        }
        dispatch_rows!(self, v => bytes(v, i))
    }

    /// The chosen rows, copied in the order given.
    pub fn select(&self, indices: &[usize]) -> Rows {
        dispatch_rows!(self, v => Element::into_rows(v.select(Axis(0), indices)))
    }

    /// An owned copy.
    pub fn to_rows(&self) -> Rows {
        dispatch_rows!(self, v => Element::into_rows(v.to_owned()))
    }

    /// All coordinates as f32 `(n, dim)`, exactly.
    pub fn to_f32(&self) -> Array2<f32> {
        dispatch_rows!(self, v => v.mapv(Element::to_f32))
    }

    /// The first row that holds a NaN or an infinity, with its coordinate, if any.
    pub fn first_nonfinite(&self) -> Option<(usize, usize)> {
        if self.dtype().is_integer() {
            return None;
        }
        dispatch_rows!(self, v => v
            .indexed_iter()
            .find(|(_, x)| !x.to_f32().is_finite())
            .map(|(at, _)| at))
    }
}
