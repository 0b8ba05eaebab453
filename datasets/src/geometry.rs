//! Distances in f64, for judging: slow, obvious, and independent of every backend.
//!
//! In: two rows as f64. Out: the distance that users see, as [`Metric`] defines it.

use kiln_kernels::{Element, Metric, RowsView, dispatch_rows};

/// A row with its squared length.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    /// The coordinates.
    pub coordinates: Vec<f64>,
    /// The sum of their squares.
    pub squared_norm: f64,
}

impl Point {
    /// Row `i` of `rows`.
    pub(crate) fn of(rows: &RowsView<'_>, i: usize) -> Self {
        let coordinates: Vec<f64> = dispatch_rows!(rows, v => v.row(i).iter().map(|x| f64::from(x.to_f32())).collect());
        let squared_norm = coordinates.iter().map(|x| x * x).sum();
        Self { coordinates, squared_norm }
    }

    /// The reported distance to `other`: Euclidean, minus the dot product, or 1 - cos.
    pub(crate) fn distance(&self, other: &Self, metric: Metric) -> f64 {
        let pairs = || self.coordinates.iter().zip(&other.coordinates);
        match metric {
            Metric::L2 => pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
            Metric::InnerProduct => -pairs().map(|(a, b)| a * b).sum::<f64>(),
            Metric::Cosine => {
                let norms = (self.squared_norm * other.squared_norm).sqrt();
                if norms == 0.0 { 1.0 } else { 1.0 - pairs().map(|(a, b)| a * b).sum::<f64>() / norms }
            }
        }
    }
}
