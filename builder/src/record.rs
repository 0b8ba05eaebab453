//! Scoring vectors as they lie in a file ([`VectorRecord`]).

use kiln_kernels::distance::{Isa, Kernels, QueryGeometry, inverse_norm};
use kiln_kernels::nodes::VectorRecord;
use kiln_kernels::{DType, Metric, RowsView, f16};

use crate::error::BuilderError;

/// A query against records: typed once when the search begins, then a plain call a record.
pub(crate) enum RecordScorer {
    F32(Typed<f32, f32>),
    F16(Typed<f16, f16>),
    U8(Typed<u8, u8>),
    I8(Typed<i8, i8>),
    F32OnF16(Typed<f32, f16>),
    F32OnU8(Typed<f32, u8>),
    F32OnI8(Typed<f32, i8>),
}

/// A query of type `A` against records of type `T`.
pub(crate) struct Typed<A, T> {
    record: VectorRecord,
    geometry: QueryGeometry<A, T>,
    query: Vec<A>,
    query_inverse_norm: f32,
}

impl<A: Kernels, T: Kernels> Typed<A, T> {
    fn new(record: VectorRecord, query: Vec<A>, geometry: QueryGeometry<A, T>) -> Self {
        let query_inverse_norm = inverse_norm(&query);
        Self { record, geometry, query, query_inverse_norm }
    }

    /// Ordering distance to a record. Records start on four-byte boundaries of page-aligned memory; a
    /// record that does not (joined from two pages) is copied first.
    #[inline(always)]
    pub(crate) fn distance(&self, record: &[u8]) -> f32 {
        let bytes = &record[..self.record.dim * size_of::<T>()];
        let norm = match self.record.metric {
            Metric::Cosine => {
                let at = self.record.coordinates();
                f32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
            }
            Metric::L2 | Metric::InnerProduct => 1.0,
        };
        match bytemuck::try_cast_slice::<u8, T>(bytes) {
            Ok(row) => self.geometry.distance(&self.query, self.query_inverse_norm, row, norm),
            Err(_) => {
                let row: Vec<T> = bytemuck::pod_collect_to_vec(bytes);
                self.geometry.distance(&self.query, self.query_inverse_norm, &row, norm)
            }
        }
    }
}

/// Runs `$body` with `$typed` bound to the typed scorer inside a [`RecordScorer`].
macro_rules! dispatch_scorer {
    ($scorer:expr, $typed:ident => $body:expr) => {
        match $scorer {
            $crate::record::RecordScorer::F32($typed) => $body,
            $crate::record::RecordScorer::F16($typed) => $body,
            $crate::record::RecordScorer::U8($typed) => $body,
            $crate::record::RecordScorer::I8($typed) => $body,
            $crate::record::RecordScorer::F32OnF16($typed) => $body,
            $crate::record::RecordScorer::F32OnU8($typed) => $body,
            $crate::record::RecordScorer::F32OnI8($typed) => $body,
        }
    };
}
pub(crate) use dispatch_scorer;

impl RecordScorer {
    /// Ordering distance to a record.
    #[inline(always)]
    pub(crate) fn distance(&self, record: &[u8]) -> f32 {
        dispatch_scorer!(self, typed => typed.distance(record))
    }

    /// Prepares a query `(1, dim)`. A query of another element type than the records is taken as f32; f32
    /// values that the records' byte type holds exactly are narrowed, which changes no distance.
    pub(crate) fn new(record: VectorRecord, query: &RowsView<'_>) -> Result<Self, BuilderError> {
        if query.len() != 1 || query.dim() != record.dim {
            return Err(BuilderError::Mismatch(format!(
                "a query of {} coordinates against an index of {}: use queries of the same data set",
                query.dim(),
                record.dim
            )));
        }
        if let Some((_, coordinate)) = query.first_nonfinite() {
            return Err(BuilderError::Mismatch(format!(
                "a query's coordinate {coordinate} is not finite: remove that query"
            )));
        }
        let isa = Isa::best();
        let metric = record.metric;
        let widened = || query.to_f32().into_raw_vec_and_offset().0;
        Ok(match (record.dtype, query) {
            (DType::F32, _) => Self::F32(Typed::new(record, widened(), QueryGeometry::same(metric, isa))),
            (DType::F16, RowsView::F16(v)) => {
                Self::F16(Typed::new(record, v.iter().copied().collect(), QueryGeometry::same(metric, isa)))
            }
            (DType::F16, _) => Self::F32OnF16(Typed::new(record, widened(), QueryGeometry::widened(metric, isa))),
            (DType::U8, _) => {
                let query = widened();
                match narrow(&query, |x| x as u8) {
                    Some(bytes) => Self::U8(Typed::new(record, bytes, QueryGeometry::same(metric, isa))),
                    None => Self::F32OnU8(Typed::new(record, query, QueryGeometry::widened(metric, isa))),
                }
            }
            (DType::I8, _) => {
                let query = widened();
                match narrow(&query, |x| x as i8) {
                    Some(bytes) => Self::I8(Typed::new(record, bytes, QueryGeometry::same(metric, isa))),
                    None => Self::F32OnI8(Typed::new(record, query, QueryGeometry::widened(metric, isa))),
                }
            }
        })
    }
}

/// The values as bytes, if every one is held exactly (`as` saturates, so a value out of range differs).
fn narrow<T: Kernels>(query: &[f32], cast: impl Fn(f32) -> T) -> Option<Vec<T>> {
    query.iter().map(|&x| Some(cast(x)).filter(|narrowed| narrowed.to_f32() == x)).collect()
}
