use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Gaussian-like rows `(n, dim)` around `mean`.
fn rows(n: usize, dim: usize, mean: f32, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut coordinate = || mean + (0..4).map(|_| rng.random::<f32>() - 0.5).sum::<f32>();
    (0..n).map(|_| (0..dim).map(|_| coordinate()).collect()).collect()
}

fn squared(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn unit(row: &[f32]) -> Vec<f32> {
    let inverse = inverse_norm(row);
    row.iter().map(|x| x * inverse).collect()
}

fn exact(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    match metric {
        Metric::L2 => squared(a, b),
        Metric::InnerProduct => -dot(a, b),
        Metric::Cosine => 1.0 - dot(&unit(a), &unit(b)),
    }
}

/// A node, its neighbours' blocks, and codes that fit them.
struct Case {
    codes: EdgeCodes,
    rows: Vec<Vec<f32>>,
    ids: Vec<u32>,
    blocks: Vec<u8>,
}

/// Row 0 is the node, the others its neighbours; the last place of the last block stays empty.
fn case(rows: Vec<Vec<f32>>, bits: u8, metric: Metric, isa: Isa) -> Case {
    let seen: Vec<Vec<f32>> =
        rows.iter().map(|row| if metric == Metric::Cosine { unit(row) } else { row.clone() }).collect();
    let dim = rows[0].len();
    let mean: Vec<f32> = (0..dim).map(|i| seen.iter().map(|row| row[i]).sum::<f32>() / seen.len() as f32).collect();
    let zero = vec![0.0; dim];
    let from = if metric == Metric::InnerProduct { &zero } else { &mean };
    let radius = seen.iter().map(|row| squared(row, from).sqrt()).fold(0.0, f32::max);
    let codes = EdgeCodes::train(EdgeTraining { mean: &mean, radius, bits, metric, seed: 5 }, isa);
    let places = rows.len().next_multiple_of(LANES);
    let ids: Vec<u32> =
        (0..places).map(|place| if place + 1 < rows.len() { place as u32 } else { NO_NEIGHBOR }).collect();
    let mut blocks = vec![0; places / LANES * codes.block_bytes()];
    let mut rotated = seen;
    for row in &mut rotated {
        row.resize(codes.padded_dim(), 0.0);
        codes.rotate(row);
    }
    let neighbor = |place: usize| rotated.get(place + 1).map(Vec::as_slice);
    EdgeEncoder::new(&codes).encode(&rotated[0], neighbor, &mut blocks);
    Case { codes, rows, ids, blocks }
}

impl Case {
    fn search(&self, query: &[f32], bound: f32) -> Vec<Scored> {
        let (prepared, mut found) = (self.codes.prepare(query.to_vec()), Vec::new());
        let base = exact(self.codes.metric, query, &self.rows[0]);
        self.codes.neighbors_below(&prepared, base, bound, &self.ids, &self.blocks, &mut found);
        found
    }
}

const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn every_isa_finds_what_scalar_finds(dim in 1usize..200, n in 2usize..60, seed in any::<u64>()) {
        let all = rows(n + 1, dim, 0.3, seed);
        let query = all[n].clone();
        for metric in METRICS {
            for bits in WIDTHS {
                let plain = case(all[..n].to_vec(), bits, metric, Isa::SCALAR);
                let everything = plain.search(&query, f32::INFINITY);
                prop_assert_eq!(everything.len(), n - 1);
                let mut distances: Vec<f32> = everything.iter().map(|s| s.distance).collect();
                distances.sort_by(f32::total_cmp);
                for isa in Isa::supported() {
                    let fast = case(all[..n].to_vec(), bits, metric, isa);
                    prop_assert_eq!(&fast.blocks, &plain.blocks, "encoding, {} bits, {}", bits, isa.name());
                    for bound in [f32::INFINITY, distances[distances.len() / 2]] {
                        let expected: Vec<Scored> = everything.iter().copied().filter(|s| s.distance < bound).collect();
                        prop_assert_eq!(fast.search(&query, bound), expected, "{} bits, {}", bits, isa.name());
                    }
                }
            }
        }
    }
}

/// The error of an estimated inner product is that of a code whose residual points anywhere: relative to |x - c||q - c|
/// a standard deviation of sqrt((1 - cos^2) / cos^2 / (dim - 1)), with cos that of a Gaussian vector and its code.
#[test]
fn estimates_are_unbiased_and_within_the_bound_of_their_width() {
    const DISTORTION: [(u8, f32); 5] = [(1, 0.3634), (2, 0.1188), (3, 0.03744), (4, 0.01154), (8, 0.0001)];
    for dim in [64usize, 128, 200] {
        for metric in METRICS {
            for (bits, distortion) in DISTORTION {
                let deviation = (distortion / (1.0 - distortion) / (dim - 1) as f32).sqrt();
                let (mut errors, mut outside) = (Vec::new(), 0);
                for seed in 0..12 {
                    let all = rows(98, dim, 0.5, seed);
                    let case = case(all[..97].to_vec(), bits, metric, Isa::best());
                    let query = &all[97];
                    let seen = |row: &[f32]| if metric == Metric::Cosine { unit(row) } else { row.to_vec() };
                    let node = seen(&case.rows[0]);
                    for found in case.search(query, f32::INFINITY) {
                        let row = &case.rows[found.id as usize + 1];
                        let error = found.distance - exact(metric, query, row);
                        // What multiplies the product in the estimate, times the two lengths.
                        let edge = squared(&seen(row), &node).sqrt();
                        let scale = match metric {
                            Metric::L2 => 2.0 * edge * squared(query, &node).sqrt(),
                            Metric::Cosine => edge * squared(&seen(query), &node).sqrt(),
                            Metric::InnerProduct => edge * dot(query, query).sqrt(),
                        };
                        // The query is rounded to a 127th of its largest coordinate, at most; factors to 2^-11.
                        let error = error / scale;
                        outside += usize::from(error.abs() > 4.0 * deviation + 0.02);
                        errors.push(error);
                    }
                }
                let mean = errors.iter().sum::<f32>() / errors.len() as f32;
                let measured = (errors.iter().map(|e| e * e).sum::<f32>() / errors.len() as f32).sqrt();
                let label =
                    format!("{metric}, dim {dim}, {bits} bits: mean {mean}, deviation {measured} for {deviation}");
                assert!(mean.abs() < 0.1 * deviation + 0.002, "{label}");
                assert!(measured < 1.15 * deviation + 0.004, "{label}");
                assert_eq!(outside, 0, "{label}");
            }
        }
    }
}

#[test]
fn copies_and_zeros_are_estimated_at_their_distance() {
    for metric in METRICS {
        for bits in WIDTHS {
            let mut all = rows(4, 40, 0.2, 3);
            all[1] = all[0].clone();
            all[2] = vec![0.0; 40];
            let query = all[3].clone();
            let case = case(all, bits, metric, Isa::best());
            let found = case.search(&query, f32::INFINITY);
            let copy = exact(metric, &query, &case.rows[0]);
            assert!((found[0].distance - copy).abs() < 1e-3 * (1.0 + copy.abs()), "{metric} {bits}: {found:?}");
            assert!(found.iter().all(|s| s.distance.is_finite()), "{metric} {bits}: {found:?}");
        }
    }
}

#[test]
fn equal_rows_have_finite_codes() {
    for bits in WIDTHS {
        let case = case(vec![vec![3.0; 10]; 5], bits, Metric::L2, Isa::best());
        let found = case.search(&[2.0; 10], f32::INFINITY);
        assert!(found.len() == 4 && found.iter().all(|s| (s.distance - 10.0).abs() < 0.02), "{found:?}");
    }
}

#[test]
fn what_is_serialised_is_read() {
    let case = case(rows(5, 33, 0.1, 1), 2, Metric::L2, Isa::best());
    let bytes = case.codes.to_bytes();
    assert_eq!(EdgeCodes::from_bytes(&bytes, 33, Metric::L2, Isa::best()).as_ref(), Ok(&case.codes));
    for cut in [0, 15, 20, bytes.len() - 1] {
        assert!(EdgeCodes::from_bytes(&bytes[..cut], 33, Metric::L2, Isa::best()).is_err());
    }
    assert!(EdgeCodes::from_bytes(&bytes, 34, Metric::L2, Isa::best()).is_err());
}
