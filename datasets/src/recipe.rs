//! The integers behind synthetic rows.
//!
//! In: a seed and counters. Out: hash values, near-Gaussian integers, and orthonormal bases as integers. Everything
//! here is defined by integer operations, or by IEEE additions, multiplications, divisions and square roots in a
//! fixed order, so that every machine and every device computes the same bits.

/// Multipliers of the counters (odd; from the fractional part of the golden ratio and its powers).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
const SILVER: u64 = 0xD1B5_4A32_D192_ED03;
const BRONZE: u64 = 0x8CB9_2BA7_2F3D_8DD7;

/// Fractional bits of a near-Gaussian integer: its standard deviation is `1 << GAUSSIAN_BITS`.
pub(crate) const GAUSSIAN_BITS: u32 = 10;
/// Fractional bits of a basis entry.
pub(crate) const BASIS_BITS: u32 = 12;

/// The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection that mixes all 64 bits.
fn finalise(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A 64-bit hash of (seed, stream, a, b): a counter-based generator, so that any value is had without those before it.
pub(crate) fn hash(seed: u64, stream: u64, a: u64, b: u64) -> u64 {
    let key = finalise(seed.wrapping_add(GOLDEN.wrapping_mul(stream + 1)));
    let row = finalise(key ^ a.wrapping_mul(SILVER));
    finalise(row.wrapping_add(b.wrapping_add(1).wrapping_mul(BRONZE)))
}

/// The sum of the four 16-bit halves of a word, minus its mean: standard deviation 37,837.
fn centred_sum(word: u64) -> i32 {
    let sum = (word & 0xFFFF) + (word >> 16 & 0xFFFF) + (word >> 32 & 0xFFFF) + (word >> 48);
    sum as i32 - 131_070
}

/// A near-Gaussian integer: twelve 16-bit uniforms summed (Irwin and Hall), which has variance one in units of
/// `1 << GAUSSIAN_BITS`, and lies within six of them.
pub(crate) fn gaussian(seed: u64, stream: u64, a: u64, b: u64) -> i32 {
    let sum: i32 = (0..3).map(|word| centred_sum(hash(seed, stream, a, 3 * b + word))).sum();
    // The sum's standard deviation is 65,536: keep ten fractional bits, rounding half up.
    (sum + 32) >> 6
}

/// A near-Gaussian integer from one word, cheaper and shorter-tailed: `three_quarters` of a deviation for
/// cluster centres, in units of `1 << GAUSSIAN_BITS`.
pub(crate) fn centre(seed: u64, stream: u64, a: u64, b: u64) -> i32 {
    // 1,330 / 65,536 scales 37,837 to 768, three quarters of 1,024.
    (centred_sum(hash(seed, stream, a, b)) * 1_330 + (1 << 15)) >> 16
}

/// `columns` orthonormal vectors of `dim` coordinates as integers with [`BASIS_BITS`] fractional bits, laid out
/// `(dim, columns)` row-major. Random near-Gaussian vectors are made orthonormal by modified Gram-Schmidt in f64, in
/// the order written here, then rounded.
pub(crate) fn basis(seed: u64, stream: u64, number: u64, dim: usize, columns: usize) -> Vec<i16> {
    let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(columns);
    for column in 0..columns {
        let mut vector: Vec<f64> = (0..dim)
            .map(|coordinate| f64::from(gaussian(seed, stream, number, (column * dim + coordinate) as u64)))
            .collect();
        // Twice: one pass leaves what rounding made of nearly dependent vectors.
        for _ in 0..2 {
            for earlier in &vectors {
                let along = dot(&vector, earlier);
                vector.iter_mut().zip(earlier).for_each(|(x, &e)| *x -= along * e);
            }
        }
        let length = dot(&vector, &vector).sqrt();
        vector.iter_mut().for_each(|x| *x /= length);
        vectors.push(vector);
    }
    let scale = f64::from(1 << BASIS_BITS);
    (0..dim).flat_map(|coordinate| vectors.iter().map(move |v| (v[coordinate] * scale + 0.5).floor() as i16)).collect()
}

/// The sum of products from the first coordinate to the last.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (x, y)| sum + x * y)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values come from a second implementation, in Python. They may never change: published sets depend on them.
    #[test]
    fn the_recipe_is_fixed() {
        assert_eq!([hash(1, 2, 3, 4), hash(1, 2, 4, 3)], [0x5B73F6D62FC3DB33, 0xA4C2EB902E7536A1]);
        assert_eq!([gaussian(7, 1, 0, 0), gaussian(7, 1, 1, 0), gaussian(7, 1, 0, 1)], [1307, -135, 125]);
    }

    #[test]
    fn gaussians_have_unit_variance() {
        let draws: Vec<f64> = (0..100_000).map(|i| f64::from(gaussian(3, 0, i, 5)) / 1024.0).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01, "mean {mean}, variance {variance}");
        let centres: Vec<f64> = (0..100_000).map(|i| f64::from(centre(3, 0, i, 5)) / 768.0).collect();
        let variance = centres.iter().map(|x| x * x).sum::<f64>() / centres.len() as f64;
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
    }

    #[test]
    fn bases_are_orthonormal() {
        let (dim, columns) = (24, 24);
        let entries = basis(1, 2, 3, dim, columns);
        let unit = f64::from(1 << BASIS_BITS);
        for a in 0..columns {
            for b in 0..columns {
                let product: f64 = (0..dim)
                    .map(|d| f64::from(entries[d * columns + a]) * f64::from(entries[d * columns + b]) / (unit * unit))
                    .sum();
                let expected = if a == b { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 2e-3, "({a}, {b}): {product}");
            }
        }
    }
}
