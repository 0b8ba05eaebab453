//! RaBitQ lists: a rotated residual in 1 to 8 bits a coordinate, with an unbiased estimate of its distance and a bound
//! on the estimate's error.
//!
//! In: residuals to a list's centroid, coded one by one (module `rows`, `Backend::rabitq_encode`). Out: blocks of 32 rows; scans that offer rows by the *lower bound* of their
//! distance. The sign bits of a block are scored in registers, four coordinates a look-up ([`fastscan`](super::fastscan));
//! only rows whose lower bound by signs is within the shortlist's bound are scored by all their bits.
//!
//! ```text
//! block     add, mul, err by signs, f32 x 32 each | sign groups, 64 bytes a 16 coordinates
//!           more than one bit: add, mul, err by all bits, f32 x 32 each | planes of row 0, of row 1, ...
//! ```
//!
//! With v the code of a row, r its rotated residual, c the centroid and m a fixed centre, both rotated, the squared
//! distance |q - c|^2 + |r|^2 - 2 <r, q - c> is estimated as |q - c|^2 + add + mul <v, q - m>, where mul = -2 |r|^2 / <v, r>
//! and add = |r|^2 - mul <v, c - m>: one set of tables a query serves all lists, and the error still goes by |q - c|.

pub mod code;
pub mod planes;
pub(crate) mod rows;

use ndarray::{ArrayView2, Axis};

use super::fastscan::{
    BLOCK, Factors, FastScan, GROUP_BYTES, Layout, Probe, QUERIES, Scores, Tables, pack as pack_block,
};
use super::{List, Visit, blocks_at_once, present};
use crate::distance::Isa;
use crate::metric::Metric;
use crate::rotation::Rotation;

/// A quantiser of lists; nothing is trained but the centre.
#[derive(Debug, Clone)]
pub struct Rabitq {
    bits: u8,
    rotation: Rotation,
    /// The centre m (dim), rotated.
    center: Vec<f32>,
    /// Entry t of coordinate j of a look-up: 1 where bit j of t is set, else -1.
    signs: Vec<[f32; 16]>,
    scan: FastScan,
    dot: planes::PlaneDot,
    isa: Isa,
}

/// A query's tables and what its planes are multiplied with.
#[derive(Debug, Clone, Default)]
pub struct RabitqQuery {
    tables: Tables,
    table: Vec<[f32; 16]>,
    /// q - m, rotated, padded by zeros to whole words.
    rotated: Vec<f32>,
    /// Sum of its coordinates.
    sum: f32,
    /// |q - m|.
    norm: f32,
}

impl Rabitq {
    /// Of `bits` bits a coordinate, 1 to 8; the centre is the mean of all centroids `(nlist, dim)`.
    pub fn new(bits: u8, centroids: ArrayView2<'_, f32>, seed: u64) -> Self {
        assert!((1..=8).contains(&bits), "RaBitQ takes 1 to 8 bits");
        let dim = centroids.ncols();
        let mean = centroids.mapv(f64::from).mean_axis(Axis(0));
        let mut center: Vec<f32> = mean.map_or(vec![0.0; dim], |mean| mean.iter().map(|&x| x as f32).collect());
        let rotation = Rotation::new(dim, seed, Isa::best());
        rotation.apply(&mut center);
        Self::assemble(bits, rotation, center)
    }

    fn assemble(bits: u8, rotation: Rotation, center: Vec<f32>) -> Self {
        let pattern = |d: usize| std::array::from_fn(|t| if t >> (d % 4) & 1 == 1 { 1.0 } else { -1.0 });
        let signs = (0..rotation.dim()).map(pattern).collect();
        let isa = Isa::best();
        Self { bits, rotation, center, signs, scan: FastScan::new(isa), dot: planes::PlaneDot::new(isa), isa }
    }

    fn dim(&self) -> usize {
        self.rotation.dim()
    }

    fn layout(&self) -> Layout {
        let (factors, groups) = (Factors::AddMulErr, self.dim().div_ceil(16));
        let signs = factors.bytes() + groups * GROUP_BYTES;
        let all = if self.bits > 1 { factors.bytes() + BLOCK * planes::row_bytes(self.dim(), self.bits) } else { 0 };
        Layout { factors, groups, stride: signs + all }
    }

    /// Bytes of a list of `rows` rows.
    pub fn list_bytes(&self, rows: u64) -> u64 {
        rows.div_ceil(BLOCK as u64) * self.layout().stride as u64
    }

    /// Appends the blocks of a list whose rows have these `codes`, [`row_bytes`](Self::row_bytes) each.
    pub fn encode_list(&self, codes: &[u8], out: &mut Vec<u8>) {
        let (layout, dim, width) = (self.layout(), self.dim(), planes::row_bytes(self.dim(), self.bits));
        for rows in codes.chunks(BLOCK * self.row_bytes()) {
            let start = out.len();
            out.resize(start + layout.stride, 0);
            let (signs, all) = out[start..].split_at_mut(layout.factors.bytes() + layout.groups * GROUP_BYTES);
            let planes = |row: usize| &rows[row * self.row_bytes() + self.planes_at()..][..width];
            let present = rows.len() / self.row_bytes();
            for (row, bytes) in rows.chunks_exact(self.row_bytes()).enumerate() {
                set_factors(signs, row, &bytes[..12]);
                if self.bits > 1 {
                    set_factors(all, row, &bytes[12..24]);
                    all[layout.factors.bytes() + row * width..][..width].copy_from_slice(planes(row));
                }
            }
            for missing in present..BLOCK {
                set_factors(signs, missing, bytemuck::cast_slice(&[f32::INFINITY, 0.0, 0.0]));
            }
            let signs_at = width - width / usize::from(self.bits);
            let nibble = |row: usize, sub: usize| planes(row)[signs_at + sub / 2] >> (4 * (sub % 2)) & 15;
            pack_block(present, dim.div_ceil(4), nibble, &mut signs[layout.factors.bytes()..]);
        }
    }

    /// Prepares a query (dim).
    pub fn prepare(&self, query: &[f32], prepared: &mut RabitqQuery) {
        let rotated = &mut prepared.rotated;
        rotated.clear();
        rotated.extend_from_slice(query);
        self.rotation.apply(rotated);
        rotated.iter_mut().zip(&self.center).for_each(|(q, m)| *q -= m);
        prepared.sum = rotated.iter().sum();
        prepared.norm = rotated.iter().map(|q| q * q).sum::<f32>().sqrt();
        let dim = self.dim();
        let widths = (0..dim.div_ceil(4)).map(|sub| 4.min(dim - 4 * sub));
        prepared.tables.assign_products(rotated, &self.signs, widths, &mut prepared.table, self.isa);
        rotated.resize(16 * planes::words(dim), 0.0);
    }

    /// Offers the rows of a list to the visitors' shortlists by the lower bound of their ordering distance (squared L2;
    /// minus the dot product), with the upper bound beside it.
    pub fn scan(&self, visits: &mut [Visit<'_>], list: List<'_>, metric: Metric, scores: &mut Scores) {
        let layout = self.layout();
        let at_once = blocks_at_once(layout.stride);
        for (chunk, blocks) in list.bytes.chunks(at_once * layout.stride).enumerate() {
            for some in visits.chunks_mut(QUERIES) {
                fn probe<'a>(visit: &Visit<'a>, metric: Metric) -> Probe<'a> {
                    let (query, bound) = (&visit.query.rabitq, visit.shortlist.bound());
                    let gap = if metric == Metric::InnerProduct { query.norm } else { visit.base.max(0.0).sqrt() };
                    Probe { tables: &query.tables, base: visit.base, gap, bound }
                }
                let probes: [Probe<'_>; QUERIES] = std::array::from_fn(|q| probe(&some[q.min(some.len() - 1)], metric));
                self.scan.score(&probes[..some.len()], layout, blocks, scores);
                for (q, (visit, probe)) in some.iter_mut().zip(&probes).enumerate() {
                    for (number, block) in blocks.chunks_exact(layout.stride).enumerate() {
                        let start = (chunk * at_once + number) * BLOCK;
                        let mut mask = scores.masks[q][number] & present(list.rows - start);
                        while mask != 0 {
                            let row = mask.trailing_zeros() as usize;
                            let by_signs = scores.scores[q][number][row];
                            let position = list.position(start + row);
                            // The bound may have fallen since the block was scored.
                            if by_signs - probe.gap * factor(block, 2, row) <= visit.shortlist.bound() {
                                let (estimate, off) = self.estimate(&visit.query.rabitq, probe, block, row, by_signs);
                                visit.shortlist.push_between(estimate - off, estimate + off, position);
                            }
                            mask &= mask - 1;
                        }
                    }
                }
            }
        }
    }

    /// A row's estimate by all its bits, and what it may be off by.
    #[inline(always)]
    fn estimate(&self, query: &RabitqQuery, probe: &Probe<'_>, block: &[u8], row: usize, by_signs: f32) -> (f32, f32) {
        if self.bits == 1 {
            return (by_signs, probe.gap * factor(block, 2, row));
        }
        let layout = self.layout();
        let all = &block[layout.factors.bytes() + layout.groups * GROUP_BYTES..];
        let width = planes::row_bytes(self.dim(), self.bits);
        let codes = &all[layout.factors.bytes() + row * width..][..width];
        let middle = ((1u32 << self.bits) as f32 - 1.0) / 2.0;
        let product = self.dot.dot(codes, &query.rotated) - middle * query.sum;
        (probe.base + (factor(all, 0, row) + factor(all, 1, row) * product), probe.gap * factor(all, 2, row))
    }

    /// Serialises: u32 bits, the rotation, the centre, f32.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = u32::from(self.bits).to_le_bytes().to_vec();
        bytes.extend(self.rotation.to_bytes());
        bytes.extend(self.center.iter().flat_map(|x| x.to_le_bytes()));
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote for `bits` bits and `dim` coordinates; the error says what does not
    /// fit.
    pub fn from_bytes(bytes: &[u8], bits: u8, dim: usize) -> Result<Self, String> {
        let length = 4 + Rotation::byte_length(dim) + 4 * dim;
        if bytes.len() != length || bytes[..4] != u32::from(bits).to_le_bytes() || !(1..=8).contains(&bits) {
            return Err(format!(
                "a quantiser of {} bytes, not RaBitQ of {bits} bits and {dim} coordinates",
                bytes.len()
            ));
        }
        let (rotation, center) = bytes[4..].split_at(Rotation::byte_length(dim));
        let center = center.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok(Self::assemble(bits, Rotation::from_bytes(rotation, dim, Isa::best())?, center))
    }
}

/// Writes add, mul and err of a row, f32, to factors at the start of `block`.
fn set_factors(block: &mut [u8], row: usize, factors: &[u8]) {
    for (kind, factor) in factors.chunks_exact(4).enumerate() {
        block[4 * (kind * BLOCK + row)..][..4].copy_from_slice(factor);
    }
}

/// Factor `kind` (add, mul, err) of a row, of factors at the start of `block`.
#[inline(always)]
fn factor(block: &[u8], kind: usize, row: usize) -> f32 {
    let at = 4 * (kind * BLOCK + row);
    f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// add, mul and err of a row (see the module).
fn factors(
    r: &[f32],
    toward: &[f32],
    center: &[f32],
    codes: &[u8],
    bits: u8,
    coded: code::Coded,
    metric: Metric,
) -> [f32; 3] {
    let sum = |terms: &mut dyn Iterator<Item = f64>| terms.sum::<f64>();
    match metric {
        Metric::L2 | Metric::Cosine => {
            let mul = -2.0 * coded.rescale;
            let middle = (f64::from(1u32 << bits) - 1.0) / 2.0;
            let square = sum(&mut r.iter().map(|&x| f64::from(x).powi(2)));
            let product = sum(&mut codes.iter().zip(toward).map(|(&u, &t)| (f64::from(u) - middle) * f64::from(t)));
            [(square - f64::from(mul) * product) as f32, mul, 2.0 * coded.error]
        }
        // -q.r = -m.r - (q - m).r, of which the first term is exact.
        Metric::InnerProduct => {
            let at_center = sum(&mut r.iter().zip(center).map(|(&x, &m)| f64::from(x) * f64::from(m)));
            [-at_center as f32, -coded.rescale, coded.error]
        }
    }
}

#[cfg(test)]
mod tests;
