//! The code of one vector: RaBitQ (Gao and Long, SIGMOD 2024) and its extension to more bits (Gao, Gou, Xu, Yang, Long
//! and Wong, SIGMOD 2025).
//!
//! In: a rotated residual r (dim), bits b in 1..=8. Out: unsigned codes u of b bits, standing for the direction of
//! v = u - (2^b - 1) / 2, and what the estimator wants of r: for any y,
//!
//! ```text
//! <r, y> is estimated by |r|^2 <v, y> / <v, r>, off by at most
//! EPSILON_0 |r| |y| sqrt((1 - c^2) / c^2) / sqrt(dim - 1),  c = <v, r> / (|v| |r|)
//! ```
//!
//! without bias over random rotations, and within the bound but for a share of them that falls as exp(-EPSILON_0^2 / 2).

/// Of the published bound. The paper's choice; about 3% of estimates fall beyond it on either side, below and above.
pub const EPSILON_0: f32 = 1.9;

/// Scales of the grid that are tried for each vector, where there is more than one bit.
///
/// Deviation: the paper sweeps every scale at which a coordinate changes its code; the best of a fine grid is within a
/// thousandth of it and costs a small share.
const SCALES: usize = 24;

/// One vector's factors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coded {
    /// |r|^2 / <v, r>: times <v, y> it estimates <r, y>. 0 for a zero vector.
    pub rescale: f32,
    /// The bound of the estimate's error, a unit of |y|.
    pub error: f32,
}

/// Codes `r` with `bits` bits into `codes` (dim).
pub fn encode(r: &[f32], bits: u8, codes: &mut [u8]) -> Coded {
    let levels = 1u32 << (bits - 1);
    let largest = r.iter().fold(0f32, |m, x| m.max(x.abs()));
    if largest == 0.0 {
        codes.fill(levels as u8);
        return Coded { rescale: 0.0, error: 0.0 };
    }
    let mut best = (f64::NEG_INFINITY, 0.0);
    if levels > 1 {
        // From all coordinates within the range to the largest cut off at a third.
        for step in 0..SCALES {
            let scale = levels as f32 / largest * (0.95 + 2.0 * step as f32 / SCALES as f32);
            let (vr, vv) = products(r, scale, levels);
            let cosine = vr / vv.sqrt();
            if cosine > best.0 {
                best = (cosine, scale);
            }
        }
    }
    for (code, &x) in codes.iter_mut().zip(r) {
        let magnitude = magnitude(x, best.1, levels) as u32;
        // v = +-(magnitude + 1/2) as an unsigned code.
        *code = if x >= 0.0 { levels + magnitude } else { levels - 1 - magnitude } as u8;
    }
    let (vr, vv) = products(r, best.1, levels);
    let rr: f64 = r.iter().map(|&x| f64::from(x).powi(2)).sum();
    let cosine_squared = (vr * vr / (vv * rr)).min(1.0);
    let spread = ((1.0 - cosine_squared) / cosine_squared).sqrt() / (r.len().max(2) as f64 - 1.0).sqrt();
    Coded { rescale: (rr / vr) as f32, error: (f64::from(EPSILON_0) * rr.sqrt() * spread) as f32 }
}

#[inline(always)]
fn magnitude(x: f32, scale: f32, levels: u32) -> f32 {
    (x.abs() * scale).min(levels as f32 - 1.0).trunc()
}

/// <v, r> and |v|^2 of the code at a scale.
#[inline(always)]
fn products(r: &[f32], scale: f32, levels: u32) -> (f64, f64) {
    let (mut vr, mut vv) = (0f64, 0f64);
    for some in r.chunks(64) {
        let (mut some_vr, mut some_vv) = (0f32, 0f32);
        for &x in some {
            let v = magnitude(x, scale, levels) + 0.5;
            some_vr += v * x.abs();
            some_vv += v * v;
        }
        vr += f64::from(some_vr);
        vv += f64::from(some_vv);
    }
    (vr, vv)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::Rotation;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Over random rotations: the mean of estimate / |r||y| - cos, the share of errors beyond the bound, and the mean
    /// absolute error.
    fn estimates(dim: usize, bits: u8) -> (f64, f64, f64) {
        let mut rng = ChaCha8Rng::seed_from_u64(dim as u64);
        let r: Vec<f32> = (0..dim).map(|i| (rng.random::<f32>() - 0.4) * (1 + i % 7) as f32).collect();
        let y: Vec<f32> = r.iter().map(|x| x * 0.5 + rng.random::<f32>() - 0.5).collect();
        let norm = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let exact: f64 = r.iter().zip(&y).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        let (trials, size) = (3000, norm(&r) * norm(&y));
        let (mut sum, mut beyond, mut off) = (0.0, 0, 0.0);
        for seed in 0..trials {
            let rotation = Rotation::new(dim, seed, crate::distance::Isa::best());
            let (mut r, mut y) = (r.clone(), y.clone());
            rotation.apply(&mut r);
            rotation.apply(&mut y);
            let mut codes = vec![0; dim];
            let coded = encode(&r, bits, &mut codes);
            let middle = (f64::from(1u32 << bits) - 1.0) / 2.0;
            let vy: f64 = codes.iter().zip(&y).map(|(&u, &y)| (f64::from(u) - middle) * f64::from(y)).sum();
            let error = f64::from(coded.rescale) * vy - exact;
            sum += error / size;
            off += (error / size).abs();
            beyond += u64::from(error.abs() > f64::from(coded.error) * norm(&y));
        }
        (sum / trials as f64, beyond as f64 / trials as f64, off / trials as f64)
    }

    #[test]
    fn estimates_are_unbiased_and_within_the_bound() {
        let mut last = f64::INFINITY;
        for bits in 1..=8 {
            for dim in [96, 128] {
                let (bias, beyond, off) = estimates(dim, bits);
                assert!(bias.abs() < 0.1 * off + 1e-5, "{bits} bits, dim {dim}: bias {bias} beside an error of {off}");
                // Two-sided at 1.9 standard deviations of a normal distribution: 5.7%.
                assert!(beyond < 0.08, "{bits} bits, dim {dim}: {beyond} of all estimates are beyond the bound");
                if dim == 128 {
                    assert!(off < 0.7 * last, "{bits} bits: {off} after {last}");
                    last = off;
                }
            }
        }
    }

    #[test]
    fn a_zero_vector_and_one_coordinate_have_codes() {
        for bits in 1..=8 {
            let mut codes = [0];
            assert_eq!(encode(&[0.0], bits, &mut codes), Coded { rescale: 0.0, error: 0.0 });
            let coded = encode(&[-3.0], bits, &mut codes);
            let v = f32::from(codes[0]) - ((1u32 << bits) as f32 - 1.0) / 2.0;
            assert!((coded.rescale * v + 3.0).abs() < 1e-5 && coded.error == 0.0, "{bits} bits: {coded:?}, {v}");
        }
    }
}
