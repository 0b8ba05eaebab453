//! What the geometry of some rows takes from the set that they are part of.
//!
//! In: all rows once, block by block. Out: a [`Whole`], with which [`crate::Backend::upload_part`] makes a part resident
//! so that every distance, and on the processor every choice among neighbours, is what it would be among all rows.

use std::sync::OnceLock;

use crate::cpu::sketch::Sketch;
use crate::dispatch_rows;
use crate::distance::squared_norm;
use crate::element::DType;
use crate::metric::Metric;
use crate::rows::{Rows, RowsView};

/// Rows of the sample at most.
pub const SAMPLE: usize = 1024;

/// What is known of all rows when only some are resident.
#[derive(Debug, Clone)]
pub struct Whole {
    n: usize,
    metric: Metric,
    /// Every `n.div_ceil(SAMPLE)`-th row, from the first.
    sample: Rows,
    /// Under inner product the row of largest norm, the first of several.
    longest: Option<Rows>,
    largest_squared: f64,
    /// The processor's, made when it is first needed.
    sketch: OnceLock<Sketch>,
}

impl Whole {
    /// Of `n` rows, none of which was seen yet.
    pub fn new(n: usize, dim: usize, dtype: DType, metric: Metric) -> Self {
        let sample = Rows::zeros(dtype, n.div_ceil(Self::step_of(n)), dim);
        Self { n, metric, sample, longest: None, largest_squared: 0.0, sketch: OnceLock::new() }
    }

    /// What [`sample`](Self::sample) and [`longest`](Self::longest) of another held.
    pub fn from_parts(n: usize, metric: Metric, sample: Rows, longest: Option<Rows>) -> Self {
        let squared = |rows: &Rows| dispatch_rows!(rows.view(), v => squared_norm(crate::cpu::row(&v, 0)));
        let largest_squared = longest.as_ref().map_or(0.0, squared);
        Self { n, metric, sample, longest, largest_squared, sketch: OnceLock::new() }
    }

    fn step_of(n: usize) -> usize {
        n.div_ceil(SAMPLE).max(1)
    }

    /// Looks at rows from number `first` on; every row is to be seen once, in any order of blocks.
    pub fn add(&mut self, first: usize, rows: &RowsView<'_>) {
        let step = Self::step_of(self.n);
        let row_bytes = rows.dim() * rows.dtype().bytes();
        for at in (first.next_multiple_of(step)..first + rows.len()).step_by(step) {
            let to = at / step * row_bytes;
            self.sample.as_bytes_mut()[to..to + row_bytes].copy_from_slice(rows.row_bytes(at - first));
        }
        if self.metric != Metric::InnerProduct {
            return;
        }
        dispatch_rows!(rows, v => {
            for i in 0..v.nrows() {
                let squared = squared_norm(crate::cpu::row(v, i));
                if squared > self.largest_squared {
                    self.largest_squared = squared;
                    self.longest = Some(rows.select(&[i]));
                }
            }
        });
    }

    /// Every so many-th row, [`SAMPLE`] at most.
    pub fn sample(&self) -> &Rows {
        &self.sample
    }

    /// Under inner product the longest row, unless all are zero.
    pub fn longest(&self) -> Option<&Rows> {
        self.longest.as_ref()
    }

    /// The largest squared norm, under inner product; else 0.
    pub fn largest_squared(&self) -> f64 {
        self.largest_squared
    }

    /// The processor's sketch of all rows.
    pub(crate) fn sketch(&self, make: impl FnOnce(&Rows) -> Sketch) -> &Sketch {
        self.sketch.get_or_init(|| make(&self.sample))
    }
}
