//! Product quantisation, 4 bits a sub-space, in blocks for in-register look-ups.
//!
//! In: residuals of rows to their list's centroid. Out: blocks of [`fastscan`](super::fastscan) codes with one factor a
//! row. One set of tables a query serves every list: with c the centroid, r' the decoded residual and m a fixed centre,
//!
//! ```text
//! |q - c - r'|^2 = |q - c|^2 + (|r'|^2 + 2 (c - m).r') - 2 (q - m).r'
//! -q.(c + r')    = -q.c      + (-m.r')                 -   (q - m).r'
//! ```
//!
//! where the middle term belongs to the row and is exact; only the last is looked up. The centre keeps the tables'
//! range, and with it their rounding, small where rows lie far from the origin.

use ndarray::{ArrayView2, Axis};

use super::fastscan::{
    BLOCK, FACTOR_BYTES, Factors, FastScan, GROUP_BYTES, Layout, Probe, QUERIES, Scores, Tables, pack,
};
use super::{List, Visit, blocks_at_once};
use crate::distance::Isa;
use crate::metric::Metric;
use crate::pq::{CodeBits, ProductQuantizer};

/// A trained quantiser with what scanning its blocks needs.
#[derive(Debug, Clone)]
pub struct Pq4 {
    pq: ProductQuantizer,
    /// The centre m (dim), rotated.
    center: Vec<f32>,
    /// Centroids of every sub-space, `(width, 16)` each: one coordinate of all sixteen is contiguous.
    transposed: Vec<[f32; 16]>,
    scan: FastScan,
    isa: Isa,
}

/// A query's tables.
#[derive(Debug, Clone, Default)]
pub struct Pq4Query {
    tables: Tables,
    table: Vec<[f32; 16]>,
}

impl Pq4 {
    /// From a quantiser of four bits, trained on residuals, and the mean of all centroids `(nlist, dim)`.
    pub fn new(pq: ProductQuantizer, centroids: ArrayView2<'_, f32>) -> Self {
        let mean = centroids.mapv(f64::from).mean_axis(Axis(0));
        let mean: Vec<f32> = mean.map_or(vec![0.0; pq.dim()], |mean| mean.iter().map(|&x| x as f32).collect());
        let center = pq.rotate(&mean);
        Self::with_center(pq, center)
    }

    fn with_center(pq: ProductQuantizer, center: Vec<f32>) -> Self {
        debug_assert_eq!(pq.bits(), CodeBits::Four);
        let mut transposed = Vec::with_capacity(pq.dim());
        for sub in 0..pq.m() {
            let (width, centroids) = (pq.subspace(sub).len(), pq.subspace_centroids(sub));
            transposed.extend((0..width).map(|d| std::array::from_fn(|c| centroids[c * width + d])));
        }
        let isa = Isa::best();
        Self { pq, center, transposed, scan: FastScan::new(isa), isa }
    }

    /// The product quantiser.
    pub fn product(&self) -> &ProductQuantizer {
        &self.pq
    }

    fn layout(&self) -> Layout {
        let groups = self.pq.m().div_ceil(4);
        Layout { factors: Factors::Add, groups, stride: FACTOR_BYTES + groups * GROUP_BYTES }
    }

    /// Bytes of a list of `rows` rows.
    pub fn list_bytes(&self, rows: u64) -> u64 {
        rows.div_ceil(BLOCK as u64) * self.layout().stride as u64
    }

    /// Appends the blocks of a list: `codes` `(rows, m / 2 bytes)` as the product quantiser gives them, around
    /// `centroid` (dim).
    pub fn encode_list(&self, codes: &[u8], centroid: &[f32], metric: Metric, out: &mut Vec<u8>) {
        let (layout, width) = (self.layout(), self.pq.code_bytes());
        // Codes describe rotated residuals, so everything else is rotated too; dot products do not change.
        let centroid = self.pq.rotate(centroid);
        let (square, toward): (f32, Vec<f32>) = match metric {
            Metric::L2 | Metric::Cosine => {
                (1.0, centroid.iter().zip(&self.center).map(|(c, m)| 2.0 * (c - m)).collect())
            }
            Metric::InnerProduct => (0.0, self.center.iter().map(|m| -m).collect()),
        };
        let squares = self.pq.l2_table(&vec![0.0; self.pq.dim()]);
        let products = self.pq.dot_table(&toward);
        let table: Vec<f32> = squares.iter().zip(&products).map(|(r, p)| square * r - p).collect();
        for rows in codes.chunks(BLOCK * width) {
            let start = out.len();
            out.resize(start + layout.stride, 0);
            let (factors, groups) = out[start..].split_at_mut(FACTOR_BYTES);
            let mut factors = factors.as_chunks_mut::<4>().0.iter_mut();
            for (code, factor) in rows.chunks_exact(width).zip(&mut factors) {
                *factor = self.pq.score(&table, code).to_le_bytes();
            }
            factors.for_each(|missing| *missing = f32::INFINITY.to_le_bytes());
            let code_at = |row: usize, sub: usize| self.pq.code_at(&rows[row * width..][..width], sub) as u8;
            pack(rows.len() / width, self.pq.m(), code_at, groups);
        }
    }

    /// Prepares a query (dim).
    pub fn prepare(&self, query: &[f32], metric: Metric, prepared: &mut Pq4Query) {
        let factor = if metric == Metric::InnerProduct { -1.0 } else { -2.0 };
        let mut rotated = self.pq.rotate(query);
        rotated.iter_mut().zip(&self.center).for_each(|(q, m)| *q = factor * (*q - m));
        let widths = (0..self.pq.m()).map(|sub| self.pq.subspace(sub).len());
        prepared.tables.assign_products(&rotated, &self.transposed, widths, &mut prepared.table, self.isa);
    }

    /// Offers the rows of a list to the visitors' shortlists by estimated ordering distance (squared L2; minus the dot
    /// product).
    pub fn scan(&self, visits: &mut [Visit<'_>], list: List<'_>, scores: &mut Scores) {
        let layout = self.layout();
        let at_once = blocks_at_once(layout.stride);
        for (chunk, blocks) in list.bytes.chunks(at_once * layout.stride).enumerate() {
            let (start, count) = (chunk * at_once * BLOCK, blocks.len() / layout.stride);
            for some in visits.chunks_mut(QUERIES) {
                fn probe<'a>(visit: &Visit<'a>) -> Probe<'a> {
                    let bound = visit.shortlist.bound();
                    Probe { tables: &visit.query.pq4.tables, base: visit.base, gap: 0.0, bound }
                }
                let probes: [Probe<'_>; QUERIES] = std::array::from_fn(|q| probe(&some[q.min(some.len() - 1)]));
                self.scan.score(&probes[..some.len()], layout, blocks, scores);
                for (q, visit) in some.iter_mut().enumerate() {
                    visit.offer(&scores.scores[q][..count], &scores.masks[q][..count], start, list);
                }
            }
        }
    }

    /// Serialises: the product quantiser, then the centre, f32.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.pq.to_bytes();
        bytes.extend(self.center.iter().flat_map(|x| x.to_le_bytes()));
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote for rows of `dim` coordinates; the error says what does not fit.
    pub fn from_bytes(bytes: &[u8], dim: usize) -> Result<Self, String> {
        let at = bytes.len().checked_sub(4 * dim).ok_or("the quantiser is cut short")?;
        let (pq, center) = bytes.split_at(at);
        let pq = ProductQuantizer::from_bytes(pq)?;
        if pq.bits() != CodeBits::Four || pq.dim() != dim {
            return Err(format!("a quantiser of {} bits and {} coordinates", u8::from(pq.bits()), pq.dim()));
        }
        Ok(Self::with_center(pq, center.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }
}
