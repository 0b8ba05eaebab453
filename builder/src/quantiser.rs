//! Training of the product quantiser that both kinds of index use.

use kiln_kernels::distance::inverse_norm;
use kiln_kernels::pq::{CodeBits, PqTraining, ProductQuantizer};
use kiln_kernels::{Backend, Metric, Rows};
use ndarray::{Array2, ArrayView2, s};
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use crate::error::BuilderError;

/// Rows that a quantiser is trained on at most.
const SAMPLE_ROWS: usize = 65_536;

/// Share of the sample held out to decide whether a rotation pays.
const HELD_OUT: f64 = 0.2;

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
    scaled(rows, &sample_rows(rows.len(), SAMPLE_ROWS, seed), metric)
}

/// The chosen rows as f32, unit length under cosine.
pub(crate) fn scaled(rows: &Rows, chosen: &[usize], metric: Metric) -> Array2<f32> {
    let mut sample = rows.view().select(chosen).view().to_f32();
    if metric == Metric::Cosine {
        for mut row in sample.outer_iter_mut() {
            let inverse = inverse_norm(&row.to_vec());
            row.mapv_inplace(|x| x * inverse);
        }
    }
    sample
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
    let seen = (sample.nrows() as f64 * (1.0 - HELD_OUT)).ceil() as usize;
    let (seen, unseen) = (sample.slice(s![..seen, ..]), sample.slice(s![seen.., ..]));
    let plain = ProductQuantizer::train(backend, seen, training)?;
    let rotated = ProductQuantizer::train_opq(backend, seen, training, OPQ_ROUNDS)?;
    let (plain_error, rotated_error) = (plain.error(backend, unseen)?, rotated.error(backend, unseen)?);
    let keep = rotated_error < plain_error;
    tracing::info!(
        "OPQ: held-out squared error {rotated_error:.4} against {plain_error:.4} without a rotation; the rotation is {}",
        if keep { "kept" } else { "dropped" }
    );
    Ok(if keep { rotated } else { plain })
}
