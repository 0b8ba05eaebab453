//! Lists of eight-bit scalar codes.
//!
//! In: residuals to a list's centroid. Out: blocks of 32 rows, one f32 factor a row and then byte codes
//! ([`bytes`](super::bytes)). The factor is that of [`pq4`](super::pq4), with the decoded residual in its place.

use ndarray::{ArrayView2, Axis};

use super::bytes::{ByteProbe, ByteScan, pack};
use super::fastscan::{BLOCK, FACTOR_BYTES, QUERIES, Scores};
use super::sq8::{Sq8, Sq8Query};
use super::{List, ListRows, Visit, blocks_at_once};
use crate::distance::Isa;
use crate::metric::Metric;

/// Trained ranges with what scanning needs.
#[derive(Debug, Clone)]
pub struct Sq8Lists {
    sq8: Sq8,
    /// A fixed centre (dim) that queries are taken relative to.
    center: Vec<f32>,
    scan: ByteScan,
}

impl Sq8Lists {
    /// Ranges of `residuals` `(n, dim)`; the centre is the mean of all centroids `(nlist, dim)`.
    pub fn new(residuals: ArrayView2<'_, f32>, centroids: ArrayView2<'_, f32>) -> Self {
        let mean = centroids.mapv(f64::from).mean_axis(Axis(0));
        let center = mean.map_or(vec![0.0; residuals.ncols()], |mean| mean.iter().map(|&x| x as f32).collect());
        Self { sq8: Sq8::train(residuals), center, scan: ByteScan::new(Isa::best()) }
    }

    /// Bytes of a list of `rows` rows.
    pub fn list_bytes(&self, rows: u64) -> u64 {
        rows.div_ceil(BLOCK as u64) * self.sq8.block_bytes() as u64
    }

    /// Appends the blocks of a list.
    pub fn encode_list(&self, list: ListRows<'_>, metric: Metric, out: &mut Vec<u8>) {
        for rows in list.residuals.axis_chunks_iter(Axis(0), BLOCK) {
            let start = out.len();
            out.resize(start + self.sq8.block_bytes(), 0);
            let (factors, codes) = out[start..].split_at_mut(FACTOR_BYTES);
            for (row, factor) in factors.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let add = if row < rows.nrows() {
                    let decoded = rows
                        .row(row)
                        .iter()
                        .enumerate()
                        .map(|(d, &x)| {
                            (
                                f64::from(self.sq8.decode(d, self.sq8.encode(d, x))),
                                f64::from(list.centroid[d]),
                                f64::from(self.center[d]),
                            )
                        })
                        .collect::<Vec<_>>();
                    match metric {
                        Metric::L2 | Metric::Cosine => decoded.iter().map(|(r, c, m)| r * r + 2.0 * (c - m) * r).sum(),
                        Metric::InnerProduct => decoded.iter().map(|(r, _, m)| -m * r).sum::<f64>(),
                    }
                } else {
                    f64::INFINITY
                };
                *factor = (add as f32).to_le_bytes();
            }
            pack(rows.nrows(), self.sq8.dim(), |row, d| self.sq8.encode(d, rows[(row, d)]), codes);
        }
    }

    /// Prepares a query (dim).
    pub fn prepare(&self, query: &[f32], metric: Metric, prepared: &mut Sq8Query) {
        let factor = if metric == Metric::InnerProduct { -1.0 } else { -2.0 };
        let relative: Vec<f32> = query.iter().zip(&self.center).map(|(q, m)| q - m).collect();
        self.sq8.prepare(&relative, factor, prepared);
    }

    /// Offers the rows of a list to the visitors' shortlists by estimated ordering distance (squared L2; minus the dot
    /// product).
    pub fn scan(&self, visits: &mut [Visit<'_>], list: List<'_>, scores: &mut Scores) {
        let stride = self.sq8.block_bytes();
        let at_once = blocks_at_once(stride);
        for (chunk, blocks) in list.bytes.chunks(at_once * stride).enumerate() {
            let (start, count) = (chunk * at_once * BLOCK, blocks.len() / stride);
            for some in visits.chunks_mut(QUERIES) {
                fn probe<'a>(visit: &Visit<'a>) -> ByteProbe<'a> {
                    let (query, bound) = (&visit.query.sq8, visit.shortlist.bound());
                    ByteProbe { weights: &query.weights, base: visit.base + query.bias, scale: query.scale, bound }
                }
                let probes: [ByteProbe<'_>; QUERIES] = std::array::from_fn(|q| probe(&some[q.min(some.len() - 1)]));
                self.scan.score(&probes[..some.len()], self.sq8.groups(), blocks, scores);
                for (q, visit) in some.iter_mut().enumerate() {
                    visit.offer(&scores.scores[q][..count], &scores.masks[q][..count], start, list);
                }
            }
        }
    }

    /// Serialises: the ranges, then the centre, f32.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.sq8.to_bytes();
        bytes.extend(self.center.iter().flat_map(|x| x.to_le_bytes()));
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote for `dim` coordinates; the error says what does not fit.
    pub fn from_bytes(bytes: &[u8], dim: usize) -> Result<Self, String> {
        let at = bytes.len().checked_sub(4 * dim).ok_or("the quantiser is cut short")?;
        let (sq8, center) = bytes.split_at(at);
        let sq8 = Sq8::from_bytes(sq8)?;
        if sq8.dim() != dim {
            return Err(format!("a scalar quantiser of {} coordinates, not {dim}", sq8.dim()));
        }
        let center = center.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok(Self { sq8, center, scan: ByteScan::new(Isa::best()) })
    }
}
