//! Codes of a graph node's neighbours, relative to the node, for scoring all of them in one sequential read.
//!
//! In: a node's vector and those of its neighbours. Out: 1 to 4 (or 8) bits a coordinate and two factors a
//! neighbour, packed in blocks of sixteen; and from a query, one number a neighbour: its estimated distance.
//!
//! The idea is SymphonyQG's (Gou et al., SIGMOD 2025): what is coded is the difference between neighbour and node,
//! after a random rotation, and the estimator is RaBitQ's (Gao and Long, SIGMOD 2024; with more bits, SIGMOD 2025).
//! With r the rotated difference x - c, o its code as a vector of centred levels and g = |r|^2 / (o.r),
//! (x - c).(q - c) is estimated by g o.(q - c), without bias where the error o - r/g is uncorrelated with q, and
//!
//! ```text
//! |q - x|^2 = |q - c|^2 + |x - c|^2 - 2 (x - c).(q - c)
//!           ~ |q - c|^2 + [|x - c|^2 + 2 g o.c] - 2 g o.q
//! ```
//!
//! The bracket and -2 g are the neighbour's two factors, kept as f16. The first term is exact: it is the node's own
//! distance, known when the node is visited. Cosine halves everything; inner product leaves out what does not depend
//! on q.o. Deviations: levels are equidistant, with a step that is optimal for Gaussian coordinates, where RaBitQ
//! searches for the best step of each vector; the product with the query is by integers (its coordinates as i8 times
//! levels as u8), not by look-up tables: with VNNI instructions it costs the same and needs no table.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod encode;
mod scalar;

use crate::distance::{Isa, inverse_norm};
use crate::metric::Metric;
use crate::rotation::Rotation;
use crate::topk::Scored;

pub(crate) use encode::gaussian_step;
pub use encode::{EdgeEncoder, EdgeTraining};

/// Neighbours of one block.
pub const LANES: usize = 16;

/// An id in a place without a neighbour.
pub const NO_NEIGHBOR: u32 = u32::MAX;

/// Bytes of the two factors of a block.
const FACTOR_BYTES: usize = 2 * 2 * LANES;

/// What the codes of an index have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct EdgeCodes {
    dim: usize,
    bits: u8,
    metric: Metric,
    rotation: Rotation,
    /// The rotated mean of the rows `(dim)`, taken off queries and nodes; zero under inner product.
    center: Vec<f32>,
    /// Units of the f16 factors.
    additive_unit: f32,
    multiplicative_unit: f32,
    isa: Isa,
}

/// A query against [`EdgeCodes`].
#[derive(Debug, Clone)]
pub struct EdgeQuery {
    /// Rotated coordinates over `unit`, zeros up to [`EdgeCodes::padded_dim`].
    coordinates: Vec<i8>,
    /// Sum of the coordinates, in units.
    sum: f32,
    /// What one of the coordinates stands for.
    unit: f32,
    /// Ordering distance to the center of the codes.
    from_center: f32,
}

impl EdgeQuery {
    /// The query's distance to the center of the codes, as [`EdgeCodes::neighbors_below`] wants it for a node that lies
    /// there.
    pub fn from_center(&self) -> f32 {
        self.from_center
    }
}

impl EdgeCodes {
    /// Bits a coordinate.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// How rows are compared.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Coordinates a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The rotation of rows.
    pub(crate) fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// What is taken off queries and nodes `(dim)`, rotated.
    pub(crate) fn center(&self) -> &[f32] {
        &self.center
    }

    /// Units of the additive and the multiplicative factors.
    pub(crate) fn units(&self) -> [f32; 2] {
        [self.additive_unit, self.multiplicative_unit]
    }

    /// Coordinates in a code: a multiple of 32, so that words of every width are whole.
    pub fn padded_dim(&self) -> usize {
        self.dim.next_multiple_of(32)
    }

    /// The same codes at another width: queries that these prepare fit those too.
    ///
    /// # Panics
    /// When `bits` is none of [`WIDTHS`].
    pub fn with_bits(&self, bits: u8) -> Self {
        assert!(WIDTHS.contains(&bits), "codes of {bits} bits");
        Self { bits, ..self.clone() }
    }

    /// Bytes of the codes and factors of sixteen neighbours.
    pub fn block_bytes(&self) -> usize {
        block_bytes(self.dim, self.bits)
    }

    /// Rotates the first `dim` coordinates of `vector` `(padded_dim)` in place, for [`EdgeEncoder::encode`]. Under cosine it
    /// is of unit length or zero; the padding is zero.
    ///
    /// # Panics
    /// When `vector` has another length.
    pub fn rotate(&self, vector: &mut [f32]) {
        assert_eq!(vector.len(), self.padded_dim());
        self.rotation.apply(&mut vector[..self.dim]);
    }

    /// Prepares `query` `(dim)`, whose memory is used up. Under cosine only its direction counts.
    pub fn prepare(&self, mut query: Vec<f32>) -> EdgeQuery {
        if self.metric == Metric::Cosine {
            let inverse = inverse_norm(&query);
            query.iter_mut().for_each(|x| *x *= inverse);
        }
        self.rotation.apply(&mut query);
        let mut largest = [0f32; LANES];
        query.iter_mut().zip(&self.center).for_each(|(x, center)| *x -= center);
        for chunk in query.chunks(LANES) {
            for (largest, x) in largest.iter_mut().zip(chunk) {
                *largest = if x.abs() > *largest { x.abs() } else { *largest };
            }
        }
        let largest = largest.into_iter().fold(0.0, f32::max);
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        // Adding 1.5 x 2^23 rounds to an integer and leaves it in the lowest bits.
        let mut coordinates: Vec<i8> = query.iter().map(|x| (x * inverse + 12_582_912.0).to_bits() as i8).collect();
        let sum = coordinates.iter().map(|&x| i32::from(x)).sum::<i32>() as f32;
        coordinates.resize(self.padded_dim(), 0);
        let squared: f32 = query.iter().map(|x| x * x).sum();
        let from_center = match self.metric {
            Metric::L2 => squared,
            Metric::Cosine => 0.5 * squared,
            Metric::InnerProduct => 0.0,
        };
        EdgeQuery { coordinates, sum, unit: largest / 127.0, from_center }
    }

    /// Appends to `found` every neighbour whose estimated distance is below `bound`, in the order of their places.
    ///
    /// `base` is the query's exact ordering distance to the node, `ids` one u32 a place, and `blocks`
    /// [`block_bytes`](Self::block_bytes) for each sixteen places. A place without a neighbour is never found.
    ///
    /// # Panics
    /// When `blocks` and `ids` are not those of the same number of whole blocks.
    #[inline]
    pub fn neighbors_below(
        &self,
        query: &EdgeQuery,
        base: f32,
        bound: f32,
        ids: &[u32],
        blocks: &[u8],
        found: &mut Vec<Scored>,
    ) {
        assert_eq!(ids.len() % LANES, 0);
        assert_eq!(blocks.len(), ids.len() / LANES * self.block_bytes());
        assert_eq!(query.coordinates.len(), self.padded_dim());
        let scan = Scan {
            coordinates: &query.coordinates,
            offset: middle(self.bits) * query.sum,
            unit: query.unit * self.multiplicative_unit,
            additive_unit: self.additive_unit,
            base,
            bound,
        };
        #[cfg(target_arch = "x86_64")]
        match self.isa.0 {
            // SAFETY: an `Isa` is proof that its instructions are available; the lengths were checked above.
            crate::distance::Level::Avx512 => return unsafe { avx512::scan(self.bits, scan, ids, blocks, found) },
            // SAFETY: as above.
            crate::distance::Level::Avx2 => return unsafe { avx2::scan(self.bits, scan, ids, blocks, found) },
            crate::distance::Level::Scalar => {}
        }
        scalar::scan(self.bits, scan, ids, blocks, found);
    }

    /// Serialises: u32 dim, u32 bits, f32 x 2 units, f32 center `(dim)`, the rotation's signs; little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = (self.dim as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&u32::from(self.bits).to_le_bytes());
        for x in [self.additive_unit, self.multiplicative_unit].iter().chain(&self.center) {
            bytes.extend_from_slice(&x.to_le_bytes());
        }
        bytes.extend_from_slice(&self.rotation.to_bytes());
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; the error says what does not fit.
    pub fn from_bytes(bytes: &[u8], dim: usize, metric: Metric, isa: Isa) -> Result<Self, String> {
        let expected = 16 + 4 * dim + Rotation::byte_length(dim);
        if bytes.len() != expected {
            return Err(format!("the codes' parameters have {} bytes, {expected} expected", bytes.len()));
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let bits = u8::try_from(word(4)).ok().filter(|bits| WIDTHS.contains(bits));
        let bits = bits.ok_or_else(|| format!("codes of {} bits", word(4)))?;
        if word(0) as usize != dim {
            return Err(format!("codes of {} coordinates in an index of {dim}", word(0)));
        }
        let (floats, signs) = bytes[8..].split_at(8 + 4 * dim);
        let floats: Vec<f32> = floats.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if let Some(wrong) = floats.iter().find(|x| !x.is_finite()) {
            return Err(format!("the codes' parameters hold {wrong}"));
        }
        let rotation = Rotation::from_bytes(signs, dim, isa)?;
        let (additive_unit, multiplicative_unit, center) = (floats[0], floats[1], floats[2..].to_vec());
        Ok(Self { dim, bits, metric, rotation, center, additive_unit, multiplicative_unit, isa })
    }
}

/// Widths that codes may have.
pub const WIDTHS: [u8; 5] = [1, 2, 3, 4, 8];

/// Bytes of a block of codes of `dim` coordinates and `bits` bits, with their factors.
pub fn block_bytes(dim: usize, bits: u8) -> usize {
    dim.next_multiple_of(32) * usize::from(bits) / 8 * LANES + FACTOR_BYTES
}

/// The level that stands for zero: levels run from 0 to 2^bits - 1.
fn middle(bits: u8) -> f32 {
    (((1u32 << bits) - 1) as f32) / 2.0
}

/// A code of `bits` bits is stored as one or two planes: its width in bits, and how far its values are shifted.
/// Words of three bits would straddle bytes, so they are kept as two and one.
fn planes(bits: u8) -> &'static [(u32, u32)] {
    match bits {
        1 => &[(1, 0)],
        2 => &[(2, 0)],
        3 => &[(2, 0), (1, 2)],
        4 => &[(4, 0)],
        _ => &[(8, 0)],
    }
}

/// What a scan of one node needs of its query.
#[derive(Clone, Copy)]
struct Scan<'a> {
    /// Of the query, padded.
    coordinates: &'a [i8],
    /// What the middle level adds to every product.
    offset: f32,
    /// Unit of a product of levels and coordinates, times that of the multiplicative factor.
    unit: f32,
    additive_unit: f32,
    base: f32,
    bound: f32,
}

#[cfg(test)]
mod tests;
