//! A random rotation in O(dim log dim): rounds of random sign flips and fast Hadamard transforms.
//!
//! In: a vector of `dim` coordinates. Out: the same vector rotated, so that its energy is spread evenly
//! and every coordinate behaves like a Gaussian one, which is what scalar codes of few bits want
//! (Ailon and Chazelle, SIAM J. Comput. 2009; RaBitQ, SIGMOD 2024). Where `dim` is no power of two, the rounds alternate
//! between the first and the last 2^p coordinates, which overlap by more than half or cover everything.
//!
//! Sums are made in the same order on every instruction set: results are bit-identical.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::distance::Isa;

/// Rounds where one transform covers all coordinates, and where two must overlap.
const ROUNDS_WHOLE: usize = 2;
const ROUNDS_OVERLAPPING: usize = 6;

/// An orthogonal map of `dim` coordinates, determined by `dim` and a seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    dim: usize,
    /// Coordinates that one transform mixes: the largest power of two up to `dim`.
    block: usize,
    /// One sign (1 or -1) a round and coordinate.
    signs: Vec<f32>,
    isa: Isa,
}

impl Rotation {
    /// The rotation of `dim` (at least 1) coordinates that `seed` determines.
    pub fn new(dim: usize, seed: u64, isa: Isa) -> Self {
        let block = 1 << dim.max(1).ilog2();
        let rounds = if block == dim { ROUNDS_WHOLE } else { ROUNDS_OVERLAPPING };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let signs = (0..rounds * dim).map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect();
        Self { dim, block, signs, isa }
    }

    /// Rotates `x` `(dim)` in place.
    ///
    /// # Panics
    /// When `x` has another length.
    pub fn apply(&self, x: &mut [f32]) {
        assert_eq!(x.len(), self.dim);
        #[cfg(target_arch = "x86_64")]
        match self.isa.0 {
            // SAFETY: an `Isa` is proof that its instructions are available.
            crate::distance::Level::Avx512 => return unsafe { apply_avx512(self, x) },
            // SAFETY: as above.
            crate::distance::Level::Avx2 => return unsafe { apply_avx2(self, x) },
            crate::distance::Level::Scalar => {}
        }
        apply(self, x);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn apply_avx512(rotation: &Rotation, x: &mut [f32]) {
    apply(rotation, x);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn apply_avx2(rotation: &Rotation, x: &mut [f32]) {
    apply(rotation, x);
}

/// Compiled once for each instruction set that calls it.
#[inline(always)]
fn apply(rotation: &Rotation, x: &mut [f32]) {
    let (dim, block) = (rotation.dim, rotation.block);
    let scale = 1.0 / (block as f32).sqrt();
    for (round, signs) in rotation.signs.chunks_exact(dim).enumerate() {
        let first = if round % 2 == 0 { 0 } else { dim - block };
        let (mixed, signs) = (&mut x[first..first + block], &signs[first..first + block]);
        for (x, sign) in mixed.iter_mut().zip(signs) {
            *x *= sign * scale;
        }
        hadamard(mixed);
    }
}

/// Unnormalised Walsh-Hadamard transform of 2^p coordinates in place.
#[inline(always)]
fn hadamard(x: &mut [f32]) {
    let mut half = x.len() / 2;
    while half >= 16 {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half /= 2;
    }
    let (whole, rest) = x.as_chunks_mut::<16>();
    for lanes in whole {
        within::<8>(lanes);
        within::<4>(lanes);
        within::<2>(lanes);
        within::<1>(lanes);
    }
    // Fewer than sixteen coordinates in all.
    let mut half = rest.len() / 2;
    while half >= 1 {
        for pair in rest.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half /= 2;
    }
}

/// One stage inside sixteen lanes, as a permutation and a sum, which a vector unit does in two instructions.
#[inline(always)]
fn within<const HALF: usize>(lanes: &mut [f32; 16]) {
    let old = *lanes;
    for (i, lane) in lanes.iter_mut().enumerate() {
        let sign = if i & HALF == 0 { 1.0 } else { -1.0 };
        *lane = old[i ^ HALF] + sign * old[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn norms_and_products_are_kept_on_every_isa(
            pairs in prop::collection::vec((-100i32..100, -100i32..100), 1..700),
            seed in any::<u64>(),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().map(|&(a, b)| (a as f32, b as f32)).unzip();
            let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
            let mut reference: Option<Vec<f32>> = None;
            for isa in Isa::supported() {
                let rotation = Rotation::new(a.len(), seed, isa);
                let (mut ra, mut rb) = (a.clone(), b.clone());
                rotation.apply(&mut ra);
                rotation.apply(&mut rb);
                let size = (dot(&a, &a) * dot(&b, &b)).sqrt() + 1.0;
                prop_assert!((dot(&ra, &rb) - dot(&a, &b)).abs() <= 1e-5 * size);
                prop_assert!((dot(&ra, &ra) - dot(&a, &a)).abs() <= 1e-5 * (dot(&a, &a) + 1.0));
                prop_assert_eq!(reference.get_or_insert_with(|| ra.clone()), &ra);
            }
        }
    }

    #[test]
    fn the_energy_of_one_coordinate_is_spread() {
        for dim in [16, 64, 100, 128, 200, 384, 960] {
            let rotation = Rotation::new(dim, 7, Isa::best());
            for at in [0, dim / 2, dim - 1] {
                let mut x = vec![0.0; dim];
                x[at] = 1.0;
                rotation.apply(&mut x);
                let largest = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
                assert!(largest < 5.0 / (dim as f32).sqrt(), "dim {dim}, coordinate {at}: {largest}");
            }
        }
    }
}
