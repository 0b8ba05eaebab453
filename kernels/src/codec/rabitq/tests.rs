//! Lists against their rows: estimates of every metric, bounds that hold, and the same from every scan.

use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::codec::{Codec, CodecQuery, ScanScratch, Shortlist};

struct Made {
    centroid: Vec<f32>,
    rows: Array2<f32>,
    queries: Array2<f32>,
}

fn made(rows: usize, dim: usize) -> Made {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let centroid: Vec<f32> = (0..dim).map(|d| 5.0 + (d % 3) as f32).collect();
    let near = |rng: &mut ChaCha8Rng, d: usize| centroid[d] + rng.random::<f32>() * 4.0 - 2.0;
    let rows = Array2::from_shape_fn((rows, dim), |(_, d)| near(&mut rng, d));
    let queries = Array2::from_shape_fn((6, dim), |(_, d)| near(&mut rng, d));
    Made { centroid, rows, queries }
}

fn exact(metric: Metric, q: &[f32], x: &[f32]) -> f32 {
    match metric {
        Metric::InnerProduct => -q.iter().zip(x).map(|(q, x)| q * x).sum::<f32>(),
        _ => q.iter().zip(x).map(|(q, x)| (q - x) * (q - x)).sum(),
    }
}

#[test]
fn lower_bounds_hold_and_close_in_with_more_bits() {
    let dim = 100;
    let made = made(500, dim);
    for metric in [Metric::L2, Metric::InnerProduct] {
        let mut last = f64::INFINITY;
        for bits in 1..=8 {
            let codec = Codec::Rabitq(Rabitq::new(bits, made.rows.slice(ndarray::s![..9, ..]), 1));
            let Codec::Rabitq(rabitq) = &codec else { unreachable!() };
            let (ids, lists): (Vec<u32>, Vec<u32>) = (0..500).map(|row| (row, 0)).unzip();
            let centroid = ndarray::aview1(&made.centroid).insert_axis(ndarray::Axis(0));
            let codes = rows::encode(&made.rows.view(), &[], &ids, (centroid, &lists), rabitq, metric);
            let mut bytes = Vec::new();
            rabitq.encode_list(codes.as_slice().expect("contiguous"), &mut bytes);
            assert_eq!(bytes.len() as u64, codec.list_bytes(500));
            let (mut above, mut below) = (0, 0.0);
            for query in made.queries.outer_iter() {
                let query = query.to_vec();
                let mut prepared = CodecQuery::default();
                codec.prepare(&query, metric, &mut prepared);
                let mut shortlist = Shortlist::default();
                shortlist.reset(1000, 1000);
                let mut visits = [Visit { query: &prepared, base: exact(metric, &query, &made.centroid), shortlist }];
                codec.scan(
                    &mut visits,
                    List { bytes: &bytes, rows: 500, first: 7, spilled: &[] },
                    metric,
                    &mut ScanScratch::default(),
                );
                let found: Vec<(f32, u32)> = visits[0].shortlist.sorted().collect();
                assert_eq!(found.len(), 500);
                for (lower, position) in found {
                    let row = made.rows.row(position as usize - 7).to_vec();
                    let gap = f64::from(exact(metric, &query, &row) - lower);
                    above += usize::from(gap < 0.0);
                    below += gap / 3000.0;
                }
            }
            // One-sided at 1.9 standard deviations: 2.9%, and a little for tables rounded to bytes.
            assert!(above < 3000 / 25, "{metric} {bits} bits: {above} of 3000 lower bounds are too high");
            assert!(below < 0.75 * last, "{metric} {bits} bits: bounds {below} too low, {last} before");
            last = below;
        }
    }
}

#[test]
fn quantisers_survive_storage() {
    let centroids = made(4, 21).rows;
    for bits in [1, 5] {
        let codec = Rabitq::new(bits, centroids.view(), 8);
        let read = Rabitq::from_bytes(&codec.to_bytes(), bits, 21).unwrap();
        assert_eq!((read.to_bytes(), read.layout()), (codec.to_bytes(), codec.layout()));
        assert!(Rabitq::from_bytes(&codec.to_bytes(), bits + 1, 21).is_err());
        assert!(Rabitq::from_bytes(&codec.to_bytes()[1..], bits, 21).is_err());
    }
}
