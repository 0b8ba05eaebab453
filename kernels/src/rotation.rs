//! A random rotation in O(dim log dim): rounds of random sign flips and fast Hadamard transforms.
//!
//! In: a vector of `dim` coordinates. Out: the same vector rotated, so that its energy is spread evenly
//! and every coordinate behaves like a Gaussian one, which is what scalar codes of few bits want
//! (Ailon and Chazelle, SIAM J. Comput. 2009; RaBitQ, SIGMOD 2024). Where `dim` is no power of two, the rounds alternate
//! between the first and the last 2^p coordinates, which overlap by more than half or cover everything.
//!
//! Sums are made in the same order on every instruction set: results are bit-identical.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

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
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let signs = (0..signs(dim)).map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect();
        Self { dim, block: block(dim), signs, isa }
    }

    /// Coordinates of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Coordinates that one transform mixes, a power of two: the first ones in even rounds, the last ones in odd rounds.
    pub(crate) fn block(&self) -> usize {
        self.block
    }

    /// Rounds of signs and transforms.
    pub(crate) fn rounds(&self) -> usize {
        self.signs.len() / self.dim
    }

    /// Serialises: a bit a sign, set where it is negative, by round and coordinate.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bits = |eight: &[f32]| eight.iter().rev().fold(0, |bits, &sign| bits << 1 | u8::from(sign < 0.0));
        self.signs.chunks(8).map(bits).collect()
    }

    /// Bytes of a rotation of `dim` coordinates.
    pub fn byte_length(dim: usize) -> usize {
        signs(dim).div_ceil(8)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; the error says what does not fit.
    pub fn from_bytes(bytes: &[u8], dim: usize, isa: Isa) -> Result<Self, String> {
        if bytes.len() != Self::byte_length(dim) {
            return Err(format!("a rotation of {} bytes, {} expected", bytes.len(), Self::byte_length(dim)));
        }
        let signs = (0..signs(dim)).map(|i| if bytes[i / 8] >> (i % 8) & 1 == 1 { -1.0 } else { 1.0 }).collect();
        Ok(Self { dim, block: block(dim), signs, isa })
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
        apply(self, x, sixteen);
    }
}

/// Coordinates that one transform mixes.
fn block(dim: usize) -> usize {
    1 << dim.max(1).ilog2()
}

/// Signs of a rotation of `dim` coordinates.
fn signs(dim: usize) -> usize {
    dim * if block(dim) == dim { ROUNDS_WHOLE } else { ROUNDS_OVERLAPPING }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn apply_avx512(rotation: &Rotation, x: &mut [f32]) {
    apply(rotation, x, |lanes| sixteen_avx512(lanes));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn apply_avx2(rotation: &Rotation, x: &mut [f32]) {
    apply(rotation, x, |lanes| sixteen_avx2(lanes));
}

/// Compiled once for each instruction set that calls it; `sixteen` transforms sixteen coordinates.
#[inline(always)]
fn apply(rotation: &Rotation, x: &mut [f32], sixteen: impl Fn(&mut [f32; 16])) {
    let (dim, block) = (rotation.dim, rotation.block);
    let scale = 1.0 / (block as f32).sqrt();
    for (round, signs) in rotation.signs.chunks_exact(dim).enumerate() {
        let first = if round % 2 == 0 { 0 } else { dim - block };
        let (mixed, signs) = (&mut x[first..first + block], &signs[first..first + block]);
        for (x, sign) in mixed.iter_mut().zip(signs) {
            *x *= sign * scale;
        }
        hadamard(mixed, &sixteen);
    }
}

/// Unnormalised Walsh-Hadamard transform of 2^p coordinates in place.
#[inline(always)]
fn hadamard(x: &mut [f32], sixteen: impl Fn(&mut [f32; 16])) {
    let mut half = x.len() / 2;
    // Two stages at a time, while the four numbers that they mix are in registers.
    while half >= 32 {
        for four in x.chunks_exact_mut(2 * half) {
            let (low, high) = four.split_at_mut(half);
            let ((a, b), (c, d)) = (low.split_at_mut(half / 2), high.split_at_mut(half / 2));
            for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
                let (ac, bd, a_c, b_d) = (*a + *c, *b + *d, *a - *c, *b - *d);
                (*a, *b, *c, *d) = (ac + bd, ac - bd, a_c + b_d, a_c - b_d);
            }
        }
        half /= 4;
    }
    if half >= 16 {
        stage(x, half);
    }
    let (whole, rest) = x.as_chunks_mut::<16>();
    for lanes in whole {
        sixteen(lanes);
    }
    // Fewer than sixteen coordinates in all.
    let mut half = rest.len() / 2;
    while half >= 1 {
        stage(rest, half);
        half /= 2;
    }
}

/// Sums and differences of coordinates `half` apart.
#[inline(always)]
fn stage(x: &mut [f32], half: usize) {
    for pair in x.chunks_exact_mut(2 * half) {
        let (low, high) = pair.split_at_mut(half);
        for (a, b) in low.iter_mut().zip(high) {
            (*a, *b) = (*a + *b, *a - *b);
        }
    }
}

/// The transform of sixteen coordinates. Twin of those below, which permute, add and subtract.
fn sixteen(lanes: &mut [f32; 16]) {
    [8, 4, 2, 1].into_iter().for_each(|half| stage(lanes, half));
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn sixteen_avx512(lanes: &mut [f32; 16]) {
    // `minus` marks the lanes of differences: what was there is taken from its partner.
    let stage = |x, partner, minus| _mm512_mask_sub_ps(_mm512_add_ps(partner, x), minus, partner, x);
    // SAFETY: sixteen floats are read from and written to an array of sixteen.
    unsafe {
        let x = _mm512_loadu_ps(lanes.as_ptr());
        let x = stage(x, _mm512_shuffle_f32x4::<0b01_00_11_10>(x, x), 0xFF00);
        let x = stage(x, _mm512_shuffle_f32x4::<0b10_11_00_01>(x, x), 0xF0F0);
        let x = stage(x, _mm512_permute_ps::<0b01_00_11_10>(x), 0xCCCC);
        let x = stage(x, _mm512_permute_ps::<0b10_11_00_01>(x), 0xAAAA);
        _mm512_storeu_ps(lanes.as_mut_ptr(), x);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn sixteen_avx2(lanes: &mut [f32; 16]) {
    let eight = |x| {
        let partner = _mm256_permute2f128_ps::<0x01>(x, x);
        let x = _mm256_blend_ps::<0xF0>(_mm256_add_ps(partner, x), _mm256_sub_ps(partner, x));
        let partner = _mm256_permute_ps::<0b01_00_11_10>(x);
        let x = _mm256_blend_ps::<0xCC>(_mm256_add_ps(partner, x), _mm256_sub_ps(partner, x));
        let partner = _mm256_permute_ps::<0b10_11_00_01>(x);
        _mm256_blend_ps::<0xAA>(_mm256_add_ps(partner, x), _mm256_sub_ps(partner, x))
    };
    // SAFETY: twice eight floats are read from and written to an array of sixteen.
    unsafe {
        let (low, high) = (_mm256_loadu_ps(lanes.as_ptr()), _mm256_loadu_ps(lanes.as_ptr().add(8)));
        _mm256_storeu_ps(lanes.as_mut_ptr(), eight(_mm256_add_ps(low, high)));
        _mm256_storeu_ps(lanes.as_mut_ptr().add(8), eight(_mm256_sub_ps(low, high)));
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

    /// The definition: signs, then sums and differences of coordinates half a block apart, a quarter, ... one.
    fn plainly(rotation: &Rotation, x: &mut [f32]) {
        let (dim, block) = (rotation.dim, rotation.block);
        for (round, signs) in rotation.signs.chunks_exact(dim).enumerate() {
            let first = if round % 2 == 0 { 0 } else { dim - block };
            let x = &mut x[first..first + block];
            for (i, x) in x.iter_mut().enumerate() {
                *x *= signs[first + i] * (1.0 / (block as f32).sqrt());
            }
            for half in (0..block.ilog2()).rev().map(|p| 1 << p) {
                for i in (0..block).filter(|i| i & half == 0) {
                    (x[i], x[i + half]) = (x[i] + x[i + half], x[i] - x[i + half]);
                }
            }
        }
    }

    #[test]
    fn every_isa_computes_the_definition_to_the_bit() {
        let numbers = |n: usize| (0..n).map(|i| ((i * i + 7) % 1013) as f32 / 100.0 - 5.0).collect::<Vec<f32>>();
        for dim in (1..70).chain([128, 200, 256, 384, 512, 960, 1024, 1536]) {
            let mut expected = numbers(dim);
            plainly(&Rotation::new(dim, 3, Isa::SCALAR), &mut expected);
            for isa in Isa::supported() {
                let mut got = numbers(dim);
                Rotation::new(dim, 3, isa).apply(&mut got);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
                assert_eq!(bits(&got), bits(&expected), "dim {dim}, {}", isa.name());
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

    #[test]
    fn it_survives_storage() {
        for dim in [1, 5, 64, 100] {
            let rotation = Rotation::new(dim, 1, Isa::best());
            assert_eq!(Rotation::from_bytes(&rotation.to_bytes(), dim, Isa::best()), Ok(rotation.clone()));
            assert!(Rotation::from_bytes(&rotation.to_bytes(), dim + 8, Isa::best()).is_err());
        }
    }
}
