//! Eight-bit scalar quantisation, one range a coordinate.
//!
//! In: rows as f32. Out: a byte a coordinate, and scores of 32 rows at a time by exact byte products. Coordinate d of a
//! row is coded as c with x' = least_d + step_d c, so |x_d - x'_d| <= step_d / 2 for rows within the trained ranges.
//! A query enters as signed bytes of -2 q_d step_d; the error of a score is bounded by [`Sq8Query::error_bound`].

use ndarray::ArrayView2;

use super::bytes::{Weights, block_bytes};

/// Trained ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct Sq8 {
    least: Vec<f32>,
    step: Vec<f32>,
}

/// A query against codes: a code's dot product with the query, times a factor, is about `bias + scale * sum`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sq8Query {
    /// Signed bytes, four coordinates a group, zero past the last.
    pub weights: Vec<Weights>,
    /// One step of a sum.
    pub scale: f32,
    /// The score of a sum of zero.
    pub bias: f32,
    dim: usize,
}

/// Codes are taken relative to the middle of their range, so that rounding of the query weighs little.
const MIDDLE: f32 = 128.0;

impl Sq8 {
    /// The range of every coordinate of `sample` `(n, dim)`; without rows all ranges are empty.
    pub fn train(sample: ArrayView2<'_, f32>) -> Self {
        let dim = sample.ncols();
        let (mut least, mut most) = (vec![f32::INFINITY; dim], vec![f32::NEG_INFINITY; dim]);
        for row in sample.outer_iter() {
            for (d, &x) in row.iter().enumerate() {
                (least[d], most[d]) = (least[d].min(x), most[d].max(x));
            }
        }
        if sample.nrows() == 0 {
            (least, most) = (vec![0.0; dim], vec![0.0; dim]);
        }
        let step = least.iter().zip(&most).map(|(l, m)| (m - l) / 255.0).collect();
        Self { least, step }
    }

    /// Coordinates of a row.
    pub fn dim(&self) -> usize {
        self.least.len()
    }

    /// Groups of four coordinates.
    pub fn groups(&self) -> usize {
        self.dim().div_ceil(4)
    }

    /// Bytes of a block of 32 rows.
    pub fn block_bytes(&self) -> usize {
        block_bytes(self.groups())
    }

    /// The code of coordinate `d` at `x`; values past the range take its end.
    #[inline(always)]
    pub fn encode(&self, d: usize, x: f32) -> u8 {
        if self.step[d] > 0.0 { ((x - self.least[d]) / self.step[d]).round() as u8 } else { 0 }
    }

    /// What a code stands for.
    #[inline(always)]
    pub fn decode(&self, d: usize, code: u8) -> f32 {
        self.least[d] + self.step[d] * f32::from(code)
    }

    /// Prepares `factor` times the dot product with `query` (dim).
    pub fn prepare(&self, query: &[f32], factor: f32, prepared: &mut Sq8Query) {
        let weight = |d: usize| factor * query[d] * self.step[d];
        let largest = (0..query.len()).map(|d| weight(d).abs()).fold(0.0, f32::max);
        let (scale, inverse) = if largest > 0.0 { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) };
        prepared.weights.clear();
        prepared.weights.resize(self.groups(), [0; 4]);
        (prepared.scale, prepared.dim) = (scale, query.len());
        // What the codes' middles add is known exactly; only distances from the middle meet the rounded query.
        let mut bias = 0.0;
        for (d, &q) in query.iter().enumerate() {
            // By way of i32 and half away from zero: a call of the C library a coordinate would cost more than all the rest.
            let scaled = weight(d) * inverse;
            let rounded = (scaled + 0.5f32.copysign(scaled)) as i32 as f32;
            prepared.weights[d / 4][d % 4] = rounded as i8;
            bias += factor * q * self.least[d] + MIDDLE * (weight(d) - scale * rounded);
        }
        prepared.bias = bias;
    }

    /// Serialises: u32 dim, the least values, the steps; little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = (self.dim() as u32).to_le_bytes().to_vec();
        bytes.extend(self.least.iter().chain(&self.step).flat_map(|x| x.to_le_bytes()));
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; the error says what does not fit.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let (head, floats) = bytes.split_first_chunk::<4>().ok_or("the quantiser is cut short")?;
        let dim = u32::from_le_bytes(*head) as usize;
        let floats: Vec<f32> = floats.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if dim == 0 || bytes.len() as u64 != 4 + 8 * dim as u64 {
            return Err(format!("a scalar quantiser of {dim} coordinates in {} bytes", bytes.len()));
        }
        let (least, step) = floats.split_at(dim);
        Ok(Self { least: least.to_vec(), step: step.to_vec() })
    }
}

impl Sq8Query {
    /// What a score may differ by from the product with the decoded row: half a step of the query in each coordinate,
    /// times the largest distance of a code from its middle (and f32 rounding).
    pub fn error_bound(&self) -> f32 {
        0.5 * self.scale * MIDDLE * self.dim as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::bytes::{ByteProbe, ByteScan, pack};
    use crate::codec::fastscan::{BLOCK, FACTOR_BYTES, Scores};
    use crate::distance::Isa;
    use ndarray::Array2;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    proptest! {
        #[test]
        fn codes_and_scores_are_within_their_bounds(dim in 1usize..50, seed: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let rows = Array2::from_shape_fn((BLOCK, dim), |(_, d)| (rng.random::<f32>() - 0.3) * (1 + d % 5) as f32);
            let sq8 = Sq8::train(rows.view());
            let mut decoded = rows.clone();
            for ((_, d), x) in decoded.indexed_iter_mut() {
                let near = sq8.decode(d, sq8.encode(d, *x));
                prop_assert!((near - *x).abs() <= sq8.step[d] * 0.5001 + 1e-6);
                *x = near;
            }
            let mut block = vec![0; sq8.block_bytes()];
            pack(BLOCK, dim, |row, d| sq8.encode(d, rows[(row, d)]), &mut block[FACTOR_BYTES..]);
            let query: Vec<f32> = (0..dim).map(|_| rng.random::<f32>() * 4.0 - 2.0).collect();
            let mut prepared = Sq8Query::default();
            sq8.prepare(&query, -2.0, &mut prepared);
            let probe = ByteProbe { weights: &prepared.weights, base: prepared.bias, scale: prepared.scale, bound: 0.0 };
            let mut scores = Scores::default();
            ByteScan::new(Isa::best()).score(&[probe], sq8.groups(), &block, &mut scores);
            for row in 0..BLOCK {
                let exact: f32 = -2.0 * query.iter().zip(decoded.row(row)).map(|(q, x)| q * x).sum::<f32>();
                let score = scores.scores[0][0][row];
                prop_assert!((score - exact).abs() <= prepared.error_bound() + 1e-4 * dim as f32, "{score} {exact}");
            }
        }
    }

    #[test]
    fn ranges_survive_storage() {
        let sq8 = Sq8::train(Array2::from_shape_fn((9, 5), |(i, j)| (i * j) as f32).view());
        assert_eq!(Sq8::from_bytes(&sq8.to_bytes()).unwrap(), sq8);
        assert!(Sq8::from_bytes(&sq8.to_bytes()[..20]).is_err());
        assert!(Sq8::from_bytes(&[]).is_err());
        assert_eq!((sq8.step[0], sq8.encode(0, 7.0), sq8.decode(0, 0)), (0.0, 0, 0.0));
    }
}
