//! Element types: what one coordinate of a vector can be.

use bytemuck::Pod;
use half::f16;
use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use crate::rows::{Rows, RowsView};

/// The type of one coordinate, as stored and computed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
}

impl DType {
    /// Size of one coordinate in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 => 2,
            DType::U8 | DType::I8 => 1,
        }
    }

    /// True when every value of the type is finite (bytes hold no NaN).
    pub const fn is_integer(self) -> bool {
        matches!(self, DType::U8 | DType::I8)
    }

    /// The name used in files and messages: `f32`, `f16`, `u8`, `i8`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::U8 => "u8",
            DType::I8 => "i8",
        }
    }
}

impl std::str::FromStr for DType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [DType::F32, DType::F16, DType::U8, DType::I8];
        let found = all.into_iter().find(|dtype| dtype.name() == name);
        found.ok_or_else(|| format!("unknown element type {name:?}: use f32, f16, u8 or i8"))
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One coordinate: `f32`, `f16`, `u8` or `i8`. Sealed: the set is closed by [`DType`].
pub trait Element: Pod + Send + Sync + PartialEq + std::fmt::Debug + sealed::Sealed {
    /// The runtime name of this type.
    const DTYPE: DType;

    /// The value as f32, exactly.
    fn to_f32(self) -> f32;

    /// Wraps a typed matrix `(n, dim)` into the dtype-erased [`Rows`].
    fn into_rows(matrix: Array2<Self>) -> Rows;

    /// The typed view of `rows`, or `None` when the element type differs.
    fn view<'a>(rows: &RowsView<'a>) -> Option<ArrayView2<'a, Self>>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for u8 {}
    impl Sealed for i8 {}
}

macro_rules! element {
    ($type:ty, $variant:ident, $to_f32:expr) => {
        impl Element for $type {
            const DTYPE: DType = DType::$variant;

            #[inline(always)]
            fn to_f32(self) -> f32 {
                let convert: fn($type) -> f32 = $to_f32;
                convert(self)
            }

            fn into_rows(matrix: Array2<Self>) -> Rows {
                // Only a matrix in another layout is copied.
                Rows::$variant(if matrix.is_standard_layout() {
                    matrix
                } else {
                    matrix.as_standard_layout().into_owned()
                })
            }

            fn view<'a>(rows: &RowsView<'a>) -> Option<ArrayView2<'a, Self>> {
                match rows {
                    RowsView::$variant(view) => Some(view.clone()),
                    _ => None,
                }
            }
        }
    };
}

element!(f32, F32, |x| x);
element!(f16, F16, |x| x.to_f32());
element!(u8, U8, f32::from);
element!(i8, I8, f32::from);
