//! Quantised search codes: what inverted lists are made of.
//!
//! In: residuals of rows to the centroid of their list. Out: the bytes of a list, and scans that offer a list's rows
//! to a [`Shortlist`] by estimated distance. One [`Codec`] value is one trained quantiser; the instruction set is chosen
//! when it is made.

pub mod bytes;
pub mod fastscan;
mod kind;
mod pq4;
pub mod rabitq;
mod shortlist;
pub mod sq8;
mod sq8_lists;

use fastscan::{BLOCK, BLOCKS, Scores};
use ndarray::ArrayView2;
use sq8::Sq8Query;

use crate::metric::Metric;
use crate::pq::ProductQuantizer;

pub use kind::CodecKind;
pub use pq4::{Pq4, Pq4Query};
pub use rabitq::{Rabitq, RabitqQuery};
pub use shortlist::Shortlist;
pub use sq8_lists::Sq8Lists;

/// A trained quantiser of lists.
#[derive(Debug, Clone)]
pub enum Codec {
    /// Row after row: f32 biases, then packed codes.
    Pq(ProductQuantizer),
    /// Blocks for in-register look-ups.
    Pq4(Pq4),
    /// Blocks of signs and bit planes; rows are offered by lower bounds.
    Rabitq(Rabitq),
    /// Blocks of bytes.
    Sq8(Sq8Lists),
}

/// A query prepared for one [`Codec`]; reused from query to query.
#[derive(Debug, Clone, Default)]
pub struct CodecQuery {
    pq: Vec<f32>,
    pq4: Pq4Query,
    rabitq: RabitqQuery,
    sq8: Sq8Query,
}

/// The rows of one list, for encoding.
#[derive(Debug, Clone, Copy)]
pub struct ListRows<'a> {
    /// The list's centroid (dim).
    pub centroid: &'a [f32],
    /// Rows minus the centroid `(rows, dim)`, where the codec [`codes_residuals`](Codec::codes_residuals).
    pub residuals: ArrayView2<'a, f32>,
    /// Their codes, row after row, as a backend made them, where it does not.
    pub codes: &'a [u8],
}

/// A list to be scanned.
#[derive(Debug, Clone, Copy)]
pub struct List<'a> {
    /// What [`Codec::encode_list`] wrote.
    pub bytes: &'a [u8],
    /// Rows in it.
    pub rows: usize,
    /// Position of the first row; its own others follow.
    pub first: u32,
    /// Positions of the last rows, which have their own place elsewhere; often none.
    pub spilled: &'a [[u8; 4]],
}

impl List<'_> {
    /// Position of a row.
    #[inline(always)]
    fn position(&self, row: usize) -> u32 {
        match row.checked_sub(self.rows - self.spilled.len()) {
            None => self.first + row as u32,
            Some(spilled) => u32::from_le_bytes(self.spilled[spilled]),
        }
    }
}

/// A query that visits a list.
#[derive(Debug)]
pub struct Visit<'a> {
    /// The query.
    pub query: &'a CodecQuery,
    /// Distance to the list's centroid: squared L2, under inner product minus the dot product.
    pub base: f32,
    /// Where the list's rows are offered.
    pub shortlist: Shortlist,
}

/// Working memory of scans.
#[derive(Debug, Clone, Default)]
pub struct ScanScratch {
    scores: Scores,
}

/// Bytes of blocks that are scanned for one group of queries after another: they stay in the first-level cache.
const CACHED_BYTES: usize = 24 << 10;

/// Blocks of `stride` bytes that are scanned together.
fn blocks_at_once(stride: usize) -> usize {
    (CACHED_BYTES / stride).clamp(1, BLOCKS)
}

impl Visit<'_> {
    /// Offers the marked rows of scored blocks, the first of which starts at row `start` of the list.
    fn offer(&mut self, scores: &[[f32; BLOCK]], masks: &[u32], start: usize, list: List<'_>) {
        for (number, (scores, &mask)) in scores.iter().zip(masks).enumerate() {
            let start = start + number * BLOCK;
            let mut mask = mask & present(list.rows - start);
            while mask != 0 {
                let row = mask.trailing_zeros() as usize;
                self.shortlist.push(scores[row], list.position(start + row));
                mask &= mask - 1;
            }
        }
    }
}

/// The mask of a block's rows that exist, where `rest` rows are left.
#[inline(always)]
fn present(rest: usize) -> u32 {
    if rest >= BLOCK { !0 } else { (1 << rest) - 1 }
}

impl Codec {
    /// The product quantiser whose codes [`encode_list`](Self::encode_list) wants, if any.
    pub fn product(&self) -> Option<&ProductQuantizer> {
        match self {
            Codec::Pq(pq) => Some(pq),
            Codec::Pq4(pq4) => Some(pq4.product()),
            Codec::Rabitq(_) | Codec::Sq8(_) => None,
        }
    }

    /// Whether lists are encoded from residuals, not from codes that a backend made of their rows.
    ///
    /// Eight-bit scalar codes are: a subtraction and a rounding a coordinate, for as many bytes as there are coordinates.
    /// The host does that as fast as it could fetch the codes from a device.
    pub fn codes_residuals(&self) -> bool {
        matches!(self, Codec::Sq8(_))
    }

    /// Whether a list is blocks of 32 rows, one after another: parts of whole blocks may then be encoded one by one. (The
    /// others hold the biases of all rows before the first code.)
    pub fn is_in_blocks(&self) -> bool {
        !matches!(self, Codec::Pq(_))
    }

    /// Bytes of a list of `rows` rows.
    pub fn list_bytes(&self, rows: u64) -> u64 {
        match self {
            Codec::Pq(pq) => rows * (4 + pq.code_bytes() as u64),
            Codec::Pq4(pq4) => pq4.list_bytes(rows),
            Codec::Rabitq(rabitq) => rabitq.list_bytes(rows),
            Codec::Sq8(sq8) => sq8.list_bytes(rows),
        }
    }

    /// Appends the bytes of a list.
    pub fn encode_list(&self, list: ListRows<'_>, metric: Metric, out: &mut Vec<u8>) {
        match self {
            Codec::Pq(pq) => encode_rows(pq, list, metric, out),
            Codec::Pq4(pq4) => pq4.encode_list(list.codes, list.centroid, metric, out),
            Codec::Rabitq(rabitq) => rabitq.encode_list(list.codes, out),
            Codec::Sq8(sq8) => sq8.encode_list(list, metric, out),
        }
    }

    /// Prepares a query (dim), under cosine at unit length.
    pub fn prepare(&self, query: &[f32], metric: Metric, prepared: &mut CodecQuery) {
        match self {
            Codec::Pq(pq) => {
                prepared.pq = pq.dot_table(&pq.rotate(query));
                if metric != Metric::InnerProduct {
                    prepared.pq.iter_mut().for_each(|entry| *entry *= 2.0);
                }
            }
            Codec::Pq4(pq4) => pq4.prepare(query, metric, &mut prepared.pq4),
            Codec::Rabitq(rabitq) => rabitq.prepare(query, &mut prepared.rabitq),
            Codec::Sq8(sq8) => sq8.prepare(query, metric, &mut prepared.sq8),
        }
    }

    /// Offers the rows of a list to the shortlists of the queries that visit it by estimated distance: squared L2, under
    /// inner product minus the dot product; where [`gives_bounds`](Self::gives_bounds), by a lower bound of it.
    pub fn scan(&self, visits: &mut [Visit<'_>], list: List<'_>, metric: Metric, scratch: &mut ScanScratch) {
        match self {
            Codec::Pq(pq) => visits.iter_mut().for_each(|visit| scan_rows(pq, visit, list)),
            Codec::Pq4(pq4) => pq4.scan(visits, list, &mut scratch.scores),
            Codec::Rabitq(rabitq) => rabitq.scan(visits, list, metric, &mut scratch.scores),
            Codec::Sq8(sq8) => sq8.scan(visits, list, &mut scratch.scores),
        }
    }

    /// Whether rows are offered by a lower bound of their distance, which few rows fall below
    /// ([`rabitq::code::EPSILON_0`]), rather than by an estimate.
    pub fn gives_bounds(&self) -> bool {
        matches!(self, Codec::Rabitq(_))
    }

    /// Serialises what was trained.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Codec::Pq(pq) => pq.to_bytes(),
            Codec::Pq4(pq4) => pq4.to_bytes(),
            Codec::Rabitq(rabitq) => rabitq.to_bytes(),
            Codec::Sq8(sq8) => sq8.to_bytes(),
        }
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote for codes of `kind` over `dim` coordinates.
    pub fn from_bytes(kind: CodecKind, bytes: &[u8], dim: usize) -> Result<Self, String> {
        match kind {
            CodecKind::Pq => {
                let pq = ProductQuantizer::from_bytes(bytes)?;
                if pq.dim() != dim {
                    return Err(format!("the quantiser is of {} coordinates, the index of {dim}", pq.dim()));
                }
                Ok(Codec::Pq(pq))
            }
            CodecKind::Pq4 => Pq4::from_bytes(bytes, dim).map(Codec::Pq4),
            CodecKind::Rabitq(bits) => Rabitq::from_bytes(bytes, bits, dim).map(Codec::Rabitq),
            CodecKind::Sq8 => Sq8Lists::from_bytes(bytes, dim).map(Codec::Sq8),
        }
    }
}

/// f32 biases |r|^2 + 2 c.r of the decoded residuals r (0 under inner product), then the codes.
fn encode_rows(pq: &ProductQuantizer, list: ListRows<'_>, metric: Metric, out: &mut Vec<u8>) {
    let squares = pq.l2_table(&vec![0.0; pq.dim()]);
    // Codes describe rotated residuals, so the centroid is rotated too; dot products do not change.
    let table = pq.dot_table(&pq.rotate(list.centroid));
    for code in list.codes.chunks_exact(pq.code_bytes()) {
        let bias = match metric {
            Metric::L2 | Metric::Cosine => pq.score(&squares, code) - 2.0 * pq.score(&table, code),
            Metric::InnerProduct => 0.0,
        };
        out.extend_from_slice(&bias.to_le_bytes());
    }
    out.extend_from_slice(list.codes);
}

fn scan_rows(pq: &ProductQuantizer, visit: &mut Visit<'_>, list: List<'_>) {
    let (biases, codes) = list.bytes.split_at(4 * list.rows);
    let codes = codes.chunks_exact(pq.code_bytes());
    for (row, (bias, code)) in biases.as_chunks::<4>().0.iter().zip(codes).enumerate() {
        let estimate = visit.base + f32::from_le_bytes(*bias) + pq.score(&visit.query.pq, code);
        visit.shortlist.push(estimate, list.position(row));
    }
}
