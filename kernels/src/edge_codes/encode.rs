//! Encoding a node's neighbours.
//!
//! In: vectors as f32. Out: the bytes that [`EdgeCodes::neighbors_below`] reads. Sums run over sixteen lanes in a
//! fixed order on every instruction set: the bytes do not depend on it.

use half::f16;

use super::{EdgeCodes, LANES, WIDTHS, middle, planes};
use crate::distance::Isa;
use crate::metric::Metric;
use crate::rotation::Rotation;

/// Step of an equidistant quantiser with 2^bits levels, in standard deviations, with the least squared error for a
/// Gaussian (Max, IRE Trans. Information Theory 1960, table II; 8 bits by the same minimisation).
pub(crate) fn gaussian_step(bits: u8) -> f32 {
    match bits {
        1 => 1.596,
        2 => 0.9957,
        3 => 0.5860,
        4 => 0.3352,
        _ => 0.0308,
    }
}

/// What codes are fitted to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EdgeTraining<'a> {
    /// Mean of the rows `(dim)`, of unit length rows under cosine; not used under inner product.
    pub mean: &'a [f32],
    /// Largest distance of a row from the mean, or under inner product largest norm.
    pub radius: f32,
    /// Bits a coordinate, one of [`WIDTHS`].
    pub bits: u8,
    /// How rows are compared.
    pub metric: Metric,
    /// Seed of the rotation.
    pub seed: u64,
}

impl EdgeCodes {
    /// Codes for rows with this mean and radius.
    ///
    /// # Panics
    /// When `bits` is none of [`WIDTHS`].
    pub fn train(training: EdgeTraining<'_>, isa: Isa) -> Self {
        let EdgeTraining { mean, radius, bits, metric, seed } = training;
        assert!(WIDTHS.contains(&bits), "codes of {bits} bits");
        let dim = mean.len();
        let rotation = Rotation::new(dim, seed, isa);
        let mut center = mean.to_vec();
        match metric {
            Metric::InnerProduct => center.fill(0.0),
            Metric::L2 | Metric::Cosine => rotation.apply(&mut center),
        }
        // Differences are at most two radii long; g o is at most 1 / cos times as long, where cos, between a vector
        // and its code, stays above .5 for all but adversarial vectors. What still overflows is clamped.
        let radius = if radius > 0.0 { radius } else { 1.0 };
        let largest = f16::MAX.to_f32() / 2.0;
        let additive_unit = 12.0 * radius * radius / largest;
        let multiplicative_unit = 16.0 * radius / (dim as f32).sqrt() / largest;
        Self { dim, bits, metric, rotation, center, additive_unit, multiplicative_unit, isa }
    }
}

/// Encodes nodes one after another; working memory is kept.
#[derive(Debug, Clone)]
pub struct EdgeEncoder<'a> {
    codes: &'a EdgeCodes,
    difference: Vec<f32>,
    levels: Vec<u8>,
}

/// The two factors of a neighbour, before they are rounded.
struct Factors {
    additive: f32,
    multiplicative: f32,
}

impl<'a> EdgeEncoder<'a> {
    /// An encoder for `codes`.
    pub fn new(codes: &'a EdgeCodes) -> Self {
        let padded = codes.padded_dim();
        Self { codes, difference: vec![0.0; padded], levels: vec![0; padded] }
    }

    /// Writes the blocks of neighbour places, sixteen a block, to `blocks`, which is zero. `node`, and what `neighbor` gives
    /// for a place that has a neighbour, are vectors `(padded_dim)` that [`EdgeCodes::rotate`] has rotated: a row is the
    /// neighbour of many nodes, and is rotated once.
    ///
    /// # Panics
    /// When `blocks` is not a number of whole blocks.
    pub fn encode<'r>(&mut self, node: &[f32], neighbor: impl Fn(usize) -> Option<&'r [f32]>, blocks: &mut [u8]) {
        let codes = self.codes;
        let is_zero = |vector: &[f32]| codes.metric == Metric::Cosine && vector.iter().all(|&x| x == 0.0);
        let zero_node = is_zero(node);
        assert_eq!(blocks.len() % codes.block_bytes(), 0);
        for (block, bytes) in blocks.chunks_exact_mut(codes.block_bytes()).enumerate() {
            let (packed, factors) = bytes.split_at_mut(codes.block_bytes() - super::FACTOR_BYTES);
            for lane in 0..LANES {
                let mut factor = Factors { additive: f32::INFINITY, multiplicative: 0.0 };
                if let Some(neighbor) = neighbor(block * LANES + lane) {
                    // A zero row is at distance 1 from everything, where half a squared distance says 1/2.
                    let correction = 0.5 * (f32::from(u8::from(is_zero(neighbor))) - f32::from(u8::from(zero_node)));
                    factor = self.quantise(node, neighbor);
                    factor.additive += correction;
                    pack(codes.bits, &self.levels, lane, packed);
                }
                put(factors, lane, factor.additive / codes.additive_unit);
                put(factors, LANES + lane, factor.multiplicative / codes.multiplicative_unit);
            }
        }
    }

    /// Codes `neighbor - node`, both rotated, into `self.levels`.
    fn quantise(&mut self, node: &[f32], neighbor: &[f32]) -> Factors {
        #[cfg(target_arch = "x86_64")]
        match self.codes.isa.0 {
            // SAFETY: an `Isa` is proof that its instructions are available.
            crate::distance::Level::Avx512 => return unsafe { quantise_avx512(self, node, neighbor) },
            // SAFETY: as above.
            crate::distance::Level::Avx2 => return unsafe { quantise_avx2(self, node, neighbor) },
            crate::distance::Level::Scalar => {}
        }
        quantise(self, node, neighbor)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn quantise_avx512(encoder: &mut EdgeEncoder<'_>, node: &[f32], neighbor: &[f32]) -> Factors {
    quantise(encoder, node, neighbor)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn quantise_avx2(encoder: &mut EdgeEncoder<'_>, node: &[f32], neighbor: &[f32]) -> Factors {
    quantise(encoder, node, neighbor)
}

/// Compiled once for each instruction set that calls it.
#[inline(always)]
fn quantise(encoder: &mut EdgeEncoder<'_>, node: &[f32], neighbor: &[f32]) -> Factors {
    let EdgeEncoder { codes, difference, levels } = encoder;
    let top = ((1u32 << codes.bits) - 1) as f32;
    let middle = middle(codes.bits);
    // The padding of both is zero, and so is that of the difference.
    let mut squares = [0f32; LANES];
    let vectors = neighbor.as_chunks::<LANES>().0.iter().zip(node.as_chunks::<LANES>().0);
    for (r, (x, c)) in difference.as_chunks_mut::<LANES>().0.iter_mut().zip(vectors) {
        for lane in 0..LANES {
            r[lane] = x[lane] - c[lane];
            squares[lane] += r[lane] * r[lane];
        }
    }
    let squared = sum(squares);
    let deviation = (squared / codes.dim as f32).sqrt();
    let inverse = if deviation > 0.0 { 1.0 / (gaussian_step(codes.bits) * deviation) } else { 0.0 };
    let (mut with_difference, mut with_node) = ([0f32; LANES], [0f32; LANES]);
    let chunks = difference.as_chunks::<LANES>().0.iter().zip(node.as_chunks::<LANES>().0);
    for ((r, c), levels) in chunks.zip(levels.as_chunks_mut::<LANES>().0) {
        for lane in 0..LANES {
            let level = (r[lane] * inverse + (middle + 0.5)).clamp(0.0, top + 0.5).floor().min(top);
            levels[lane] = level as u8;
            let centred = level - middle;
            with_difference[lane] += centred * r[lane];
            with_node[lane] += centred * c[lane];
        }
    }
    let (with_difference, with_node) = (sum(with_difference), sum(with_node));
    // A copy of the node: no direction, and its distance is the node's own.
    let g = if with_difference > 0.0 { squared / with_difference } else { 0.0 };
    let with_center = sum_products(levels, &codes.center, middle);
    // The centred coordinates of the query are its rotated ones less `center`, and so must the node's be.
    let with_node = with_node - with_center;
    match codes.metric {
        Metric::L2 => Factors { additive: squared + 2.0 * g * with_node, multiplicative: -2.0 * g },
        Metric::Cosine => Factors { additive: 0.5 * squared + g * with_node, multiplicative: -g },
        Metric::InnerProduct => Factors { additive: 0.0, multiplicative: -g },
    }
}

/// Sum of centred levels times `weights` `(dim)`.
#[inline(always)]
fn sum_products(levels: &[u8], weights: &[f32], middle: f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (weights, weights_rest) = weights.as_chunks::<LANES>();
    let (levels, levels_rest) = levels.split_at(weights.len() * LANES);
    for (levels, weights) in levels.as_chunks::<LANES>().0.iter().zip(weights) {
        for lane in 0..LANES {
            sums[lane] += (f32::from(levels[lane]) - middle) * weights[lane];
        }
    }
    let rest = levels_rest.iter().zip(weights_rest).map(|(&level, weight)| (f32::from(level) - middle) * weight);
    sum(sums) + rest.sum::<f32>()
}

/// The lanes added in pairs.
#[inline(always)]
fn sum(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Writes a neighbour's levels to its lane of a block.
fn pack(bits: u8, levels: &[u8], lane: usize, packed: &mut [u8]) {
    let mut plane_at = 0;
    for &(width, shift) in planes(bits) {
        let per_byte = 8 / width as usize;
        let mask = 0x0101_0101 * ((1u32 << width) - 1);
        for (word, parts) in levels.as_chunks::<4>().0.chunks_exact(per_byte).enumerate() {
            let mut packed_word = 0u32;
            for (part, four) in parts.iter().enumerate() {
                packed_word |= (u32::from_le_bytes(*four) >> shift & mask) << (part as u32 * width);
            }
            let at = plane_at + (word * LANES + lane) * 4;
            packed[at..at + 4].copy_from_slice(&packed_word.to_le_bytes());
        }
        plane_at += levels.len() * width as usize / 8 * LANES;
    }
}

/// Rounds a factor to f16; infinity stays, other values are kept finite.
fn put(factors: &mut [u8], at: usize, value: f32) {
    let rounded = match value {
        f32::INFINITY => f16::INFINITY,
        _ => f16::from_f32(value.clamp(-f16::MAX.to_f32(), f16::MAX.to_f32())),
    };
    factors[2 * at..2 * at + 2].copy_from_slice(&rounded.to_le_bytes());
}
