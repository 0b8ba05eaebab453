//! Training of the product quantiser that both kinds of index use.

use kiln_kernels::distance::quantiser_rows;
use kiln_kernels::pq::{CodeBits, PqTraining, ProductQuantizer};
use kiln_kernels::{Backend, Metric, Rows};
use ndarray::{Array2, ArrayView2, Axis};
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use crate::error::BuilderError;

/// Rows that a quantiser is trained on at most.
pub(crate) const SAMPLE_ROWS: usize = 65_536;

/// One row in so many is held out to decide whether a rotation pays.
const HELD_OUT_EVERY: usize = 5;

/// Lloyd iterations a sub-space, and alternations of a rotation.
const ITERATIONS: usize = 12;
const OPQ_ROUNDS: usize = 12;

/// What the user chose of the quantiser.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuantiserParams {
    pub m: usize,
    pub bits: CodeBits,
    pub opq: bool,
    pub seed: u64,
}

/// A seeded sample of row numbers, ascending.
pub(crate) fn sample_rows(n: usize, at_most: usize, seed: u64) -> Vec<usize> {
    let mut chosen = index::sample(&mut ChaCha8Rng::seed_from_u64(seed), n, at_most.min(n)).into_vec();
    chosen.sort_unstable();
    chosen
}

/// A training sample as f32, unit length under cosine.
pub(crate) fn sample(rows: &Rows, metric: Metric, seed: u64) -> Array2<f32> {
    chosen_rows(rows, &sample_rows(rows.len(), SAMPLE_ROWS, seed), metric)
}

/// The chosen rows as quantisers see them.
pub(crate) fn chosen_rows(rows: &Rows, chosen: &[usize], metric: Metric) -> Array2<f32> {
    quantiser_rows(&rows.view().select(chosen).view(), metric)
}

/// Trains on `sample` `(n, dim)`. With `opq` a rotation is trained too, and kept only if it lowers the
/// error on rows that neither saw.
pub(crate) fn train_quantiser<B: Backend>(
    backend: &B,
    sample: ArrayView2<'_, f32>,
    params: QuantiserParams,
) -> Result<ProductQuantizer, BuilderError> {
    let training = PqTraining { m: params.m, bits: params.bits, iterations: ITERATIONS, seed: params.seed };
    if !params.opq {
        return Ok(ProductQuantizer::train(backend, sample, training)?);
    }
    let rows = |held_out: bool| -> Vec<usize> {
        (0..sample.nrows()).filter(|row| row.is_multiple_of(HELD_OUT_EVERY) == held_out).collect()
    };
    let (seen, unseen) = (sample.select(Axis(0), &rows(false)), sample.select(Axis(0), &rows(true)));
    let (seen, unseen) = (if seen.is_empty() { sample } else { seen.view() }, unseen.view());
    let plain = ProductQuantizer::train(backend, seen, training)?;
    let rotated = ProductQuantizer::train_opq(backend, seen, training, OPQ_ROUNDS)?;
    let (plain_error, rotated_error) = (plain.error(backend, unseen)?, rotated.error(backend, unseen)?);
    let keep = rotated_error < plain_error;
    tracing::info!(
        "OPQ: held-out squared error {rotated_error:.4} against {plain_error:.4} without a rotation; the rotation is {}",
        if keep { "kept" } else { "dropped" }
    );
    // The winner is trained again on every row.
    Ok(match keep {
        true => ProductQuantizer::train_opq(backend, sample, training, OPQ_ROUNDS)?,
        false => ProductQuantizer::train(backend, sample, training)?,
    })
}
