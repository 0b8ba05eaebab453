//! Dot products of codes kept as bit planes with an f32 query.
//!
//! A row's codes of b bits lie as b planes, the lowest bit first, each a bit a coordinate in 16-bit words: whatever b,
//! a plane is added under masks, sixteen coordinates at a time.

use crate::distance::{Isa, Level};

/// 16-bit words of one plane.
pub fn words(dim: usize) -> usize {
    dim.div_ceil(16)
}

/// Bytes of a row of `bits` planes.
pub fn row_bytes(dim: usize, bits: u8) -> usize {
    2 * words(dim) * usize::from(bits)
}

/// Packs `codes` (dim) as planes into `out`.
pub fn pack(codes: &[u8], bits: u8, out: &mut [u8]) {
    out.fill(0);
    let plane_bytes = 2 * words(codes.len());
    for (plane, bytes) in out.chunks_exact_mut(plane_bytes).enumerate().take(usize::from(bits)) {
        for (d, &code) in codes.iter().enumerate() {
            bytes[d / 8] |= (code >> plane & 1) << (d % 8);
        }
    }
}

/// Plane products compiled for one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct PlaneDot(unsafe fn(&[u8], &[f32]) -> f32);

impl PlaneDot {
    /// The products of `isa`; without AVX-512's masks the portable code is used.
    pub fn new(isa: Isa) -> Self {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Self(dot_avx512),
            _ => Self(dot),
        }
    }

    /// Sum of code times query over the coordinates of a row; the query is padded by zeros to whole words.
    #[inline]
    pub fn dot(&self, planes: &[u8], query: &[f32]) -> f32 {
        assert!(query.len().is_multiple_of(16) && (query.is_empty() || planes.len().is_multiple_of(query.len() / 8)));
        // SAFETY: `new` chose the function for an `Isa` that was probed; the planes are whole (above).
        unsafe { (self.0)(planes, query) }
    }
}

/// The slow, obvious twin.
fn dot(planes: &[u8], query: &[f32]) -> f32 {
    let mut sum = 0.0;
    for (plane, bytes) in planes.chunks_exact((query.len() / 8).max(1)).enumerate() {
        let set = query.iter().enumerate().filter(|(d, _)| bytes[d / 8] >> (d % 8) & 1 == 1);
        sum += (1u32 << plane) as f32 * set.map(|(_, q)| q).sum::<f32>();
    }
    sum
}

/// # Safety
/// AVX-512 F is available, the query has a multiple of sixteen coordinates, and planes are whole.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn dot_avx512(planes: &[u8], query: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let words = query.len() / 16;
    let mut sum = _mm512_setzero_ps();
    // From the highest plane down, doubling: Horner's rule.
    for plane in planes.chunks_exact((2 * words).max(1)).rev() {
        let mut ones = [_mm512_setzero_ps(); 2];
        for (word, bits) in plane.as_chunks::<2>().0.iter().enumerate() {
            // SAFETY: the query has sixteen coordinates for every word.
            let q = unsafe { _mm512_loadu_ps(query.as_ptr().add(16 * word)) };
            let ones = &mut ones[word % 2];
            *ones = _mm512_mask_add_ps(*ones, u16::from_le_bytes(*bits), *ones, q);
        }
        sum = _mm512_add_ps(_mm512_add_ps(sum, sum), _mm512_add_ps(ones[0], ones[1]));
    }
    _mm512_reduce_add_ps(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    proptest! {
        #[test]
        fn every_isa_agrees_with_the_codes(dim in 1usize..150, bits in 1u8..=8, seed: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let codes: Vec<u8> = (0..dim).map(|_| (u32::from(rng.random::<u8>()) >> (8 - bits)) as u8).collect();
            let mut query: Vec<f32> = (0..dim).map(|_| rng.random::<f32>() - 0.5).collect();
            let exact: f32 = codes.iter().zip(&query).map(|(&c, q)| f32::from(c) * q).sum();
            query.resize(16 * words(dim), 0.0);
            let mut planes = vec![1; row_bytes(dim, bits)];
            pack(&codes, bits, &mut planes);
            for isa in Isa::supported() {
                let got = PlaneDot::new(isa).dot(&planes, &query);
                prop_assert!((got - exact).abs() < 1e-4 * dim as f32 * f32::from(1u16 << bits) / 4.0, "{} {got} {exact}", isa.name());
            }
        }
    }
}
