//! Packed nodes against the format's drawing: records, places and padding byte by byte; codes decoded by the format's own
//! words and held against levels and factors computed in f64.

use std::sync::Arc;

use half::f16;

use super::{DTYPES, METRICS, TOLERANCE, random_rows};
use crate::backend::{Backend, Lists};
use crate::dispatch_rows;
use crate::distance::{Isa, inverse_norm, quantiser_rows};
use crate::edge_codes::{EdgeCodes, EdgeTraining, LANES, WIDTHS, gaussian_step};
use crate::metric::Metric;
use crate::nodes::{Edges, NeighborCodes, NodeBlock, NodeLayout, PAGE, VectorRecord};
use crate::rows::Rows;

/// `(nodes, rows, dim, max_degree)`: one row, one coordinate, dimensions that divide nothing, nodes of several pages.
const SHAPES: [(usize, usize, usize, usize); 7] = [
    (1, 1, 1, 16),
    (3, 5, 7, 32),
    (23, 120, 33, 48),
    (2, 64, 1200, 16),
    (40, 1030, 3, 16),
    (60, 300, 64, 32),
    (17, 40, 100, 64),
];

/// Relative error of a number rounded to f16, with a little for what it is made of.
const HALF: f64 = 1.0 / 2040.0;

/// Of vectors of unit length: how near the border of two levels a coordinate may be coded as either.
const BORDER: f64 = 1e-5;

/// [`Backend::pack_nodes`]: both layouts, every width of codes, nodes without and with all neighbours, copies among them.
pub fn pack_nodes<B: Backend>(backend: &B) {
    for metric in METRICS {
        for dtype in DTYPES {
            for (count, n, dim, max_degree) in SHAPES {
                let rows = Arc::new(random_rows(dtype, n, dim, 12));
                let resident = backend.upload(Arc::clone(&rows), metric).expect("upload");
                let record = VectorRecord { dtype, dim, metric };
                let case = Case { count, metric, rows: &rows, seen: quantiser_rows(&rows.view(), metric) };
                let compact = NodeLayout { record, max_degree, edges: Edges::Compact };
                case.check(compact, None, |block| backend.pack_nodes(&resident, block).expect("pack nodes"));
                for bits in WIDTHS {
                    let inline = NodeLayout { edges: Edges::Inline { bits }, ..compact };
                    let codes = case.codes(bits);
                    case.check(inline, Some(&codes), |block| backend.pack_nodes(&resident, block).expect("pack nodes"));
                }
            }
        }
    }
}

/// Some nodes of some rows.
struct Case<'a> {
    count: usize,
    metric: Metric,
    rows: &'a Rows,
    /// As quantisers see them.
    seen: ndarray::Array2<f32>,
}

impl Case<'_> {
    fn codes(&self, bits: u8) -> EdgeCodes {
        let mean = self.seen.mean_axis(ndarray::Axis(0)).expect("there are rows").to_vec();
        let from = |i: usize| if self.metric == Metric::InnerProduct { 0.0 } else { mean[i] };
        let distance = |row: ndarray::ArrayView1<'_, f32>| -> f32 {
            row.iter().enumerate().map(|(i, x)| (x - from(i)).powi(2)).sum::<f32>().sqrt()
        };
        let radius = self.seen.outer_iter().map(distance).fold(0.0, f32::max);
        EdgeCodes::train(EdgeTraining { mean: &mean, radius, bits, metric: self.metric, seed: 3 }, Isa::best())
    }

    fn check(&self, layout: NodeLayout, codes: Option<&EdgeCodes>, pack: impl Fn(&NodeBlock<'_>) -> Vec<u8>) {
        let n = self.rows.len();
        let context = format!("{layout:?}, {} of {n} nodes", self.count);
        // Nodes in no order, degrees from none to all, rows as often as they come.
        let rows: Vec<u32> = (0..self.count).map(|i| ((i * 7 + 11) % n) as u32).collect();
        let degree = |i: usize| (i * 13 + 5) % (layout.max_degree + 1);
        let neighbors: Lists<u32> =
            (0..self.count).map(|i| (0..degree(i)).map(|j| ((i * 3 + j * j + 10) % n) as u32).collect()).collect();
        let positions = neighbors.items.iter().map(|&row| row.wrapping_mul(2_654_435_761)).collect();
        let places = Lists { offsets: neighbors.offsets.clone(), items: positions };
        let named = codes.map(|codes| NeighborCodes { codes, rows: &neighbors.items });
        let pages = pack(&NodeBlock { layout, rows: &rows, places: &places, codes: named });
        assert_eq!(pages.len(), layout.section_bytes(self.count), "{context}");

        let rotated = codes.map(|codes| self.rotated(codes));
        let mut used = vec![false; pages.len()];
        for i in 0..self.count {
            let at = layout.offset(i as u32);
            used[at..at + layout.node_bytes()].fill(true);
            let node = &pages[at..at + layout.node_bytes()];
            let context = format!("{context}, node {i}");
            self.check_record(layout.record, rows[i] as usize, layout.vector(node), &context);
            let mut got = Vec::new();
            layout.neighbors(node, &mut got);
            assert_eq!(got, places.get(i), "{context}");
            match codes.zip(rotated.as_ref()) {
                None => assert!(node[node.len() - 4 * (layout.max_degree - degree(i))..].iter().all(|&b| b == 0)),
                Some((codes, rotated)) => {
                    let blocks = layout.places(node).1.chunks_exact(codes.block_bytes());
                    for place in 0..layout.max_degree {
                        let block = blocks.clone().nth(place / LANES).expect("a block for sixteen places");
                        let coded = Coded::read(codes, block, place % LANES);
                        let context = format!("{context}, place {place}");
                        match neighbors.get(i).get(place) {
                            None => coded.check_missing(&context),
                            Some(&row) => {
                                coded.check(codes, &rotated[rows[i] as usize], &rotated[row as usize], &context);
                            }
                        }
                    }
                }
            }
        }
        let padding = pages.iter().zip(&used).filter(|(_, used)| !**used);
        assert!(padding.clone().all(|(&byte, _)| byte == 0), "{context}: pages are filled up with zeros");
        assert!(pages.len().is_multiple_of(PAGE));
    }

    fn check_record(&self, record: VectorRecord, row: usize, got: &[u8], context: &str) {
        let mut expected = self.rows.view().row_bytes(row).to_vec();
        expected.resize(expected.len().next_multiple_of(4), 0);
        if record.metric == Metric::Cosine {
            let norm = dispatch_rows!(self.rows.view(), v => inverse_norm(v.row(row).to_slice().expect("contiguous")));
            expected.extend_from_slice(&norm.to_le_bytes());
        }
        assert_eq!(got, expected, "{context}");
    }

    fn rotated(&self, codes: &EdgeCodes) -> Vec<Vec<f32>> {
        let rotate = |row: ndarray::ArrayView1<'_, f32>| {
            let mut row = row.to_vec();
            row.resize(codes.padded_dim(), 0.0);
            codes.rotate(&mut row);
            row
        };
        self.seen.outer_iter().map(rotate).collect()
    }
}

/// One neighbour's code.
struct Coded {
    levels: Vec<u32>,
    additive: f16,
    multiplicative: f16,
}

impl Coded {
    /// Reads lane `j` of a block as `builder/FORMAT.md` has it: word w of neighbour j is the u32 at (16 w + j) x 4, byte t
    /// of which holds coordinate 4 (w 8 / b + p) + t in its bits p b and on.
    fn read(codes: &EdgeCodes, block: &[u8], j: usize) -> Self {
        let dim = codes.padded_dim();
        let plane = |at: usize, b: usize, coordinate: usize| {
            let (four, t) = (coordinate / 4, coordinate % 4);
            let (w, p) = (four / (8 / b), four % (8 / b));
            u32::from(block[at + (16 * w + j) * 4 + t]) >> (p * b) & ((1 << b) - 1)
        };
        let level = |coordinate: usize| match codes.bits() {
            3 => plane(0, 2, coordinate) | plane(dim / 16 * 64, 1, coordinate) << 2,
            bits => plane(0, usize::from(bits), coordinate),
        };
        let factors = &block[block.len() - 64..];
        let half = |at: usize| f16::from_le_bytes([factors[2 * at], factors[2 * at + 1]]);
        Self { levels: (0..dim).map(level).collect(), additive: half(j), multiplicative: half(LANES + j) }
    }

    fn check_missing(&self, context: &str) {
        assert!(self.additive == f16::INFINITY && self.multiplicative == f16::ZERO, "{context}: no neighbour");
        assert!(self.levels.iter().all(|&level| level == 0), "{context}: no neighbour");
    }

    fn check(&self, codes: &EdgeCodes, node: &[f32], neighbor: &[f32], context: &str) {
        let (dim, metric) = (codes.dim(), codes.metric());
        let top = (1u32 << codes.bits()) - 1;
        let middle = f64::from(top) / 2.0;
        let wide = |x: &[f32]| x[..dim].iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (c, x, m) = (wide(node), wide(neighbor), wide(codes.center()));
        let r: Vec<f64> = x.iter().zip(&c).map(|(x, c)| x - c).collect();
        let size = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
        let squared = size(&r);
        let step = f64::from(gaussian_step(codes.bits())) * (squared / dim as f64).sqrt();
        let border = if step > 0.0 { BORDER * (1.0 + (size(&x).max(size(&c))).sqrt() / step) } else { 0.0 };
        for (d, &level) in self.levels[..dim].iter().enumerate() {
            let exact = if step > 0.0 { r[d] / step } else { 0.0 } + middle + 0.5;
            let nearest = |x: f64| x.floor().clamp(0.0, f64::from(top)) as u32;
            let allowed = [nearest(exact), nearest(exact - border), nearest(exact + border)];
            assert!(allowed.contains(&level), "{context}: level {level} of {exact} at {d}");
        }
        let v: Vec<f64> = self.levels[..dim].iter().map(|&level| f64::from(level) - middle).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let along = dot(&v, &r);
        let g = if along > 0.0 { squared / along } else { 0.0 };
        let from_center: Vec<f64> = c.iter().zip(&m).map(|(c, m)| c - m).collect();
        let zero = |x: &[f64]| metric == Metric::Cosine && x.iter().all(|&x| x == 0.0);
        let correction = 0.5 * (f64::from(u8::from(zero(&x))) - f64::from(u8::from(zero(&c))));
        let (additive, multiplicative) = match metric {
            Metric::L2 => (squared + 2.0 * g * dot(&v, &from_center), -2.0 * g),
            Metric::Cosine => (0.5 * squared + g * dot(&v, &from_center) + correction, -g),
            Metric::InnerProduct => (0.0, -g),
        };
        // What was added up, which may have cancelled.
        let added = squared + 2.0 * g * (size(&v) * size(&c).max(size(&m))).sqrt() + size(&x).max(size(&c));
        let [unit, multiplicative_unit] = codes.units().map(f64::from);
        let close = |got: f16, unit: f64, expected: f64, of: f64| {
            // Beyond the largest f16 they are clamped; the smallest is 2^-24.
            let expected = (expected / unit).clamp(-65504.0, 65504.0);
            let error = (got.to_f64() - expected).abs();
            let allowed = HALF * expected.abs() + 10.0 * TOLERANCE * of / unit + 1.0 / f64::from(1 << 24);
            assert!(error <= allowed, "{context}: factor {got}, expected {expected} within {allowed}");
        };
        close(self.additive, unit, additive, added);
        close(self.multiplicative, multiplicative_unit, multiplicative, multiplicative.abs());
    }
}
