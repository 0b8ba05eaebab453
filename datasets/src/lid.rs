//! How hard a set is: its local intrinsic dimension.
//!
//! In: rows and a backend. Out: an estimate for each of a sample of rows. The estimator is the maximum-likelihood one
//! (Levina and Bickel, NIPS 2004; Amsaleg et al., KDD 2015): with r_1 <= ... <= r_k the distances of the k nearest
//! other rows, `(k - 1) / sum over i < k of ln(r_k / r_i)`. Neighbours at distance zero (duplicates) carry no
//! information and are left out. A set's figure is the median over its sample.

use kiln_kernels::{Backend, Metric, Progress};

use crate::error::DatasetError;
use crate::exact::exact_truth;
use crate::recipe::hash;
use crate::source::{MemorySource, RowSource, gather_rows};

/// Neighbours that an estimate rests on.
pub const LID_NEIGHBOURS: usize = 100;
const SAMPLE: u64 = 5;

/// Estimates of the local intrinsic dimension at a sample of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalDimension {
    /// One estimate a sampled row, ascending. Rows with fewer than two distinct neighbours are left out.
    pub estimates: Vec<f64>,
}

impl LocalDimension {
    /// The median of the estimates, `None` when there are none.
    pub fn median(&self) -> Option<f64> {
        let middle = self.estimates.len().checked_sub(1)?;
        Some((self.estimates[middle / 2] + self.estimates[middle.div_ceil(2)]) / 2.0)
    }

    /// The mean of the estimates, `None` when there are none.
    pub fn mean(&self) -> Option<f64> {
        (!self.estimates.is_empty()).then(|| self.estimates.iter().sum::<f64>() / self.estimates.len() as f64)
    }
}

/// Estimates the local intrinsic dimension (Euclidean) at `sample` rows of `source`, drawn by `seed`, from their
/// [`LID_NEIGHBOURS`] nearest other rows.
///
/// # Errors
/// When the source cannot be read or the backend refuses.
pub fn local_dimension<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    sample: usize,
    seed: u64,
    memory_budget_bytes: u64,
    progress: &dyn Progress,
) -> Result<LocalDimension, DatasetError> {
    let ids: Vec<u64> = (0..sample as u64).map(|i| hash(seed, SAMPLE, i, 0) % source.len().max(1)).collect();
    let queries = MemorySource::new(gather_rows(source, &ids)?, source.path());
    // One more: the nearest row to a row of the set is itself.
    let truth = exact_truth(backend, source, &queries, Metric::L2, LID_NEIGHBOURS + 1, memory_budget_bytes, progress)?;
    let distances = truth.distances.expect("exact truth states its distances");
    let mut estimates: Vec<f64> =
        distances.rows().into_iter().filter_map(|row| estimate_dimension(row.iter().map(|&d| f64::from(d)))).collect();
    estimates.sort_by(f64::total_cmp);
    Ok(LocalDimension { estimates })
}

/// The estimate at one point from the ascending distances (not squared) of its nearest rows; `None` when fewer than two
/// distinct ones are positive.
pub fn estimate_dimension(distances: impl Iterator<Item = f64>) -> Option<f64> {
    let positive: Vec<f64> = distances.filter(|&d| d > 0.0 && d.is_finite()).collect();
    let (&last, others) = positive.split_last()?;
    let sum: f64 = others.iter().map(|&d| (last / d).ln()).sum();
    (sum > 0.0).then(|| others.len() as f64 / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_dimension_is_recovered() {
        // In d dimensions the i-th of k neighbours of a uniform density lies near (i / k)^(1 / d).
        for dimension in [2.0, 8.0, 32.0] {
            let distances = (1..=1000).map(|i| (f64::from(i) / 1000.0).powf(1.0 / dimension));
            let estimate = estimate_dimension(distances).unwrap();
            assert!((estimate / dimension - 1.0).abs() < 0.01, "{estimate} for {dimension}");
        }
    }

    #[test]
    fn duplicates_carry_no_information() {
        assert_eq!(estimate_dimension([0.0, 0.0, 0.0].into_iter()), None);
        assert_eq!(estimate_dimension([0.0, 1.0, 2.0].into_iter()), estimate_dimension([1.0, 2.0].into_iter()));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(LocalDimension { estimates: vec![1.0, 2.0, 4.0, 9.0] }.median(), Some(3.0));
        assert_eq!(LocalDimension { estimates: vec![] }.median(), None);
    }
}
