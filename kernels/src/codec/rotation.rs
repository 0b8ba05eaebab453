//! A random rotation in O(dim log dim): random signs and fast Hadamard transforms, in rounds.
//!
//! In: a vector (dim), any dim. Out: the rotated vector, of the same length but for rounding. Where dim is no power of
//! two, rounds transform the first and the last 2^k coordinates by turns (2^k the largest power of two within dim); the
//! two blocks overlap, so that after a few rounds every coordinate has met every other. Each round is orthogonal: signs
//! on the diagonal, then a Hadamard matrix divided by the root of its size (Ailon and Chazelle, SIAM J. Comput. 2009).

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::distance::{Isa, Level};

/// Rounds: two see every coordinate, two more spread what the overlap left uneven.
const ROUNDS: usize = 4;

/// A rotation of `dim` coordinates.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    dim: usize,
    /// `(ROUNDS, dim)`: 1 or -1.
    signs: Vec<f32>,
    isa: Isa,
}

impl Rotation {
    /// The rotation that `seed` draws.
    pub fn new(dim: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let signs = (0..ROUNDS * dim).map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect();
        Self { dim, signs, isa: Isa::best() }
    }

    /// Coordinates of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rotates `x` (dim) in place.
    pub fn apply(&self, x: &mut [f32]) {
        assert_eq!(x.len(), self.dim, "a vector of another dimension");
        match self.isa.0 {
            // SAFETY: an `Isa` of this level exists only where its features were probed.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { apply_avx512(&self.signs, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { apply_avx2(&self.signs, x) },
            _ => apply(&self.signs, x),
        }
    }

    /// Serialises: u32 dim, then a bit a sign, set where it is negative, by round and coordinate.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = (self.dim as u32).to_le_bytes().to_vec();
        for eight in self.signs.chunks(8) {
            bytes.push(eight.iter().rev().fold(0, |bits, &sign| bits << 1 | u8::from(sign < 0.0)));
        }
        bytes
    }

    /// Bytes of a rotation of `dim` coordinates.
    pub fn byte_length(dim: usize) -> usize {
        4 + (ROUNDS * dim).div_ceil(8)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; the error says what does not fit.
    pub fn from_bytes(bytes: &[u8], dim: usize) -> Result<Self, String> {
        let (head, bits) = bytes.split_first_chunk::<4>().ok_or("the rotation is cut short")?;
        if u32::from_le_bytes(*head) as usize != dim || bytes.len() != Self::byte_length(dim) {
            return Err(format!("a rotation of {} coordinates, not {dim}", u32::from_le_bytes(*head)));
        }
        let signs = (0..ROUNDS * dim).map(|i| if bits[i / 8] >> (i % 8) & 1 == 1 { -1.0 } else { 1.0 }).collect();
        Ok(Self { dim, signs, isa: Isa::best() })
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn apply_avx512(signs: &[f32], x: &mut [f32]) {
    apply(signs, x);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn apply_avx2(signs: &[f32], x: &mut [f32]) {
    apply(signs, x);
}

#[inline(always)]
fn apply(signs: &[f32], x: &mut [f32]) {
    let dim = x.len();
    if dim == 0 {
        return;
    }
    let block = 1usize << dim.ilog2();
    let scale = 1.0 / (block as f32).sqrt();
    for (round, signs) in signs.chunks_exact(dim).enumerate() {
        x.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
        let start = if round % 2 == 0 { 0 } else { dim - block };
        let block = &mut x[start..start + block];
        hadamard(block);
        block.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Hadamard transform of a power of two of values, not scaled.
#[inline(always)]
fn hadamard(x: &mut [f32]) {
    // The short strides within sixteen values at a time: these loops unroll and vectorise.
    let mut width = 1;
    let (sixteens, _) = x.as_chunks_mut::<16>();
    for chunk in sixteens {
        for step in [1, 2, 4, 8] {
            let old = *chunk;
            for i in 0..16 {
                let pair = old[i ^ step];
                chunk[i] = if i & step == 0 { old[i] + pair } else { pair - old[i] };
            }
        }
        width = 16;
    }
    while width < x.len() {
        for pair in x.chunks_exact_mut(2 * width) {
            let (a, b) = pair.split_at_mut(width);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        width *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    /// The rotation as a matrix, from its definition, in f64.
    fn plain(rotation: &Rotation) -> Array2<f64> {
        let dim = rotation.dim;
        let block = 1usize << dim.ilog2();
        let mut product = Array2::<f64>::eye(dim);
        for (round, signs) in rotation.signs.chunks_exact(dim).enumerate() {
            let start = if round % 2 == 0 { 0 } else { dim - block };
            let step = Array2::from_shape_fn((dim, dim), |(i, j)| {
                let sign = f64::from(signs[j]);
                let within = |i: usize| (start..start + block).contains(&i);
                if within(i) && within(j) {
                    let parity = ((i - start) & (j - start)).count_ones() % 2;
                    sign * if parity == 0 { 1.0 } else { -1.0 } / (block as f64).sqrt()
                } else {
                    sign * f64::from(u8::from(i == j))
                }
            });
            product = step.dot(&product);
        }
        product
    }

    #[test]
    fn it_is_its_matrix_and_orthogonal() {
        for dim in [1, 2, 3, 7, 16, 24, 33, 96, 128] {
            let rotation = Rotation::new(dim, 5);
            let matrix = plain(&rotation);
            let identity = matrix.dot(&matrix.t());
            assert!(identity.indexed_iter().all(|((i, j), x)| (x - f64::from(u8::from(i == j))).abs() < 1e-12));
            for isa in Isa::supported() {
                let rotation = Rotation { isa, ..rotation.clone() };
                for j in 0..dim {
                    let mut unit = vec![0.0; dim];
                    unit[j] = 1.0;
                    rotation.apply(&mut unit);
                    let near = unit.iter().zip(matrix.column(j)).all(|(&x, y)| (f64::from(x) - y).abs() < 1e-6);
                    assert!(near, "dim {dim}, column {j}, {}", isa.name());
                }
            }
        }
    }

    #[test]
    fn the_energy_of_one_coordinate_spreads_over_all() {
        for dim in [64, 100, 384, 1000] {
            let rotation = Rotation::new(dim, 7);
            for j in (0..dim).step_by(13) {
                let mut unit = vec![0.0; dim];
                unit[j] = 1.0;
                rotation.apply(&mut unit);
                let squares: Vec<f32> = unit.iter().map(|x| x * x).collect();
                assert!((squares.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                // Even spread would be 1 / dim each; a random unit vector's largest is about 2 ln(dim) / dim.
                let largest = squares.iter().copied().fold(0.0, f32::max);
                assert!(largest < 32.0 / dim as f32, "dim {dim}, coordinate {j}: {largest}");
            }
        }
    }

    #[test]
    fn it_survives_storage() {
        for dim in [1, 5, 100] {
            let rotation = Rotation::new(dim, 1);
            assert_eq!(Rotation::from_bytes(&rotation.to_bytes(), dim).unwrap(), rotation);
            assert!(Rotation::from_bytes(&rotation.to_bytes(), dim + 1).is_err());
        }
    }
}
