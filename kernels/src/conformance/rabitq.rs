//! RaBitQ codes against their definition: signs, the best scale of the grid, and factors computed in f64.

use std::sync::Arc;

use super::{DTYPES, METRICS, TOLERANCE, random_rows};
use crate::backend::Backend;
use crate::codec::Rabitq;
use crate::codec::rabitq::code::EPSILON_0;
use crate::distance::quantiser_rows;
use crate::metric::Metric;

/// `(rows asked for, rows, dim)`.
const SHAPES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (3, 5, 7), (60, 40, 33), (70, 300, 100), (2, 64, 1500), (40, 90, 16)];

/// Relative error of a factor, beside that of what it is added up from.
const FACTOR: f64 = 1e-4;

/// Share of the best cosine of a vector and its code that may be lost by scales that tie within rounding.
const COSINE: f64 = 1e-5;

/// [`Backend::rabitq_encode`]: every width, rows that come twice, rows that are centroids.
pub fn rabitq_encode<B: Backend>(backend: &B) {
    for metric in METRICS {
        for dtype in DTYPES {
            for (count, n, dim) in SHAPES {
                let rows = Arc::new(random_rows(dtype, n, dim, 13));
                let seen = quantiser_rows(&rows.view(), metric);
                let mut centroids = quantiser_rows(&random_rows(dtype, 4, dim, 14).view(), metric);
                centroids.row_mut(3).assign(&seen.row(0));
                let ids: Vec<u32> = (0..count).map(|i| (i * 7 % n) as u32).collect();
                let assignments: Vec<u32> = (0..count as u32).map(|i| if i == 0 { 3 } else { i % 4 }).collect();
                let resident = backend.upload(rows, metric).expect("upload");
                for bits in 1..=8 {
                    let context = format!("{metric} {dtype} {count} of {n} x {dim}, {bits} bits");
                    let rabitq = Rabitq::new(bits, centroids.view(), 5);
                    let codes = backend
                        .rabitq_encode(&resident, &ids, (centroids.view(), &assignments), &rabitq)
                        .expect("rabitq encode");
                    assert_eq!(codes.dim(), (count, rabitq.row_bytes()), "{context}");
                    for ((code, &id), &list) in codes.outer_iter().zip(&ids).zip(&assignments) {
                        let (row, centroid) = (seen.row(id as usize), centroids.row(list as usize));
                        let r: Vec<f32> = row.iter().zip(centroid).map(|(x, c)| x - c).collect();
                        let size = row.iter().chain(centroid).map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                        Row { rabitq: &rabitq, metric, r, centroid: centroid.to_vec(), size, context: &context }
                            .check(code.as_slice().expect("contiguous"));
                    }
                }
            }
        }
    }
}

/// One row to be coded.
struct Row<'a> {
    rabitq: &'a Rabitq,
    metric: Metric,
    /// The residual and its centroid, not rotated.
    r: Vec<f32>,
    centroid: Vec<f32>,
    /// About the length of the row and the centroid, of which the residual may be a small difference.
    size: f64,
    context: &'a str,
}

impl Row<'_> {
    fn check(mut self, bytes: &[u8]) {
        let (bits, dim, context) = (self.rabitq.bits(), self.r.len(), self.context);
        self.rabitq.rotation().apply(&mut self.r);
        self.rabitq.rotation().apply(&mut self.centroid);
        let r: Vec<f64> = self.r.iter().map(|&x| f64::from(x)).collect();
        // Plane p of the row is bit p of all codes, filled up to words of sixteen.
        let planes = &bytes[if bits > 1 { 24 } else { 12 }..];
        let bit = |p: usize, d: usize| u32::from(planes[p * 2 * dim.div_ceil(16) + d / 8] >> (d % 8) & 1);
        let code = |d: usize| (0..usize::from(bits)).map(|p| bit(p, d) << p).sum::<u32>();
        let v = |bits: u8, d: usize| {
            let shift = self.rabitq.bits() - bits;
            f64::from(code(d) >> shift) - (f64::from(1u32 << bits) - 1.0) / 2.0
        };
        for (d, &x) in r.iter().enumerate() {
            let sign = v(1, d) > 0.0;
            assert!(sign == (x >= 0.0) || x.abs() <= TOLERANCE * self.size, "{context}: sign of {x} at {d}");
        }
        let signs: Vec<f64> = (0..dim).map(|d| v(1, d)).collect();
        self.check_factors(&r, &signs, 1, &bytes[..12]);
        if bits > 1 {
            let all: Vec<f64> = (0..dim).map(|d| v(bits, d)).collect();
            self.check_factors(&r, &all, bits, &bytes[12..24]);
            let (own, best) = (cosine(&r, &all), best_cosine(&r, bits));
            let small = r.iter().map(|x| x * x).sum::<f64>().sqrt() <= TOLERANCE * self.size;
            assert!(small || own >= best * (1.0 - COSINE), "{context}: cosine {own}, {best} is possible");
        }
    }

    fn check_factors(&self, r: &[f64], v: &[f64], bits: u8, bytes: &[u8]) {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (m, c) = (wide(self.rabitq.center()), wide(&self.centroid));
        let (rr, vv, vr) = (dot(r, r), dot(v, v), dot(v, r));
        let zero = r.iter().all(|&x| x == 0.0);
        let g = if zero { 0.0 } else { rr / vr };
        let cosine = (vr * vr / (vv * rr)).min(1.0);
        let spread = ((1.0 - cosine) / cosine / (r.len().max(2) as f64 - 1.0)).sqrt();
        let err = if zero { 0.0 } else { f64::from(EPSILON_0) * rr.sqrt() * spread };
        let toward: Vec<f64> = c.iter().zip(&m).map(|(c, m)| c - m).collect();
        let [add, mul, err] = match self.metric {
            Metric::L2 | Metric::Cosine => [rr + 2.0 * g * dot(v, &toward), -2.0 * g, 2.0 * err],
            Metric::InnerProduct => [-dot(&m, r), -g, err],
        };
        // Sign factors are of +-1.
        let mul = if bits == 1 { mul / 2.0 } else { mul };
        let lengths = self.size + dot(&m, &m).sqrt();
        let added = rr + 2.0 * g * (vv * dot(&toward, &toward)).sqrt() + lengths * lengths;
        // A cosine of almost 1 leaves little of the error: its square is known to rounding only.
        let unsure = 2.0 * rr.sqrt() * f64::from(EPSILON_0) * 1e-3;
        let expected = [(add, 10.0 * TOLERANCE * added), (mul, 0.0), (err, unsure)];
        for ((bytes, (expected, of)), name) in bytes.chunks_exact(4).zip(expected).zip(["add", "mul", "err"]) {
            let got = f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
            let allowed = FACTOR * expected.abs() + of;
            let context = self.context;
            assert!((got - expected).abs() <= allowed, "{context}: {name} by {bits} bits {got}, expected {expected}");
        }
    }
}

fn cosine(r: &[f64], v: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(r, v) / (dot(r, r) * dot(v, v)).sqrt()
}

/// The largest cosine of `r` and its code at any scale of the grid, by definition.
fn best_cosine(r: &[f64], bits: u8) -> f64 {
    let levels = f64::from(1u32 << (bits - 1));
    let largest = r.iter().fold(0f64, |most, x| most.max(x.abs()));
    let at = |step: usize| {
        let scale = levels / largest * (0.95 + 2.0 * step as f64 / 24.0);
        let magnitude = |x: f64| (x.abs() * scale).floor().min(levels - 1.0) + 0.5;
        let v: Vec<f64> = r.iter().map(|&x| if x >= 0.0 { magnitude(x) } else { -magnitude(x) }).collect();
        cosine(r, &v)
    };
    (0..24).map(at).fold(0.0, f64::max)
}
