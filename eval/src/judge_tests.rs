//! The judge against hand-made cases and against a slow, obvious twin.

use kiln_datasets::source::MemorySource;
use kiln_kernels::Rows;
use ndarray::{Array2, array};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Rows at 1, 2, 2, 3, 4 on a line: rows 1 and 2 are tied.
fn line() -> MemorySource {
    MemorySource::new(Rows::F32(array![[1.0f32], [2.0], [2.0], [3.0], [4.0]]), "line")
}

fn judged(base: &MemorySource, metric: Metric, query: &[f32], truth: &[i64], k: usize, ids: &[i64]) -> [u16; 4] {
    let row = |ids: &[i64]| Array2::from_shape_vec((1, ids.len()), ids.to_vec()).expect("one row");
    let queries = Rows::F32(Array2::from_shape_vec((1, query.len()), query.to_vec()).expect("one row"));
    let j = judge(base, &queries.view(), row(truth).view(), metric, k, row(ids).view()).expect("judged");
    [j.strict_hits[0], j.id_hits[0], j.ann_hits[0], j.possible[0]]
}

fn on_line(truth: &[i64], k: usize, ids: &[i64]) -> [u16; 4] {
    judged(&line(), Metric::L2, &[0.0], truth, k, ids)
}

#[test]
fn a_tied_row_is_a_hit_though_its_id_is_not() {
    assert_eq!(on_line(&[0, 1, 2, 3], 2, &[0, 2]), [2, 1, 2, 2]);
}

#[test]
fn wrong_missing_repeated_and_impossible_ids_are_misses() {
    assert_eq!(on_line(&[0, 1, 2, 3], 2, &[0, 3]), [1, 1, 1, 2]);
    assert_eq!(on_line(&[0, 1, 2, 3], 2, &[0, -1]), [1, 1, 1, 2]);
    // The ann-benchmarks rule looks at distances alone, and sees the nearest twice.
    assert_eq!(on_line(&[0, 1, 2, 3], 2, &[0, 0]), [1, 1, 2, 2]);
    assert_eq!(on_line(&[0, 1, 2, 3], 2, &[3, 3]), [0, 0, 0, 2]);
    assert_eq!(on_line(&[0, 1, 2, 3], 2, &[5, i64::MAX]), [0, 0, 0, 2]);
    assert_eq!(on_line(&[0, 1, 2, 3], 2, &[-1, -1]), [0, 0, 0, 2]);
}

#[test]
fn only_the_first_k_answers_count_and_fewer_are_allowed() {
    assert_eq!(on_line(&[0, 1, 2, 3], 2, &[4, 3, 0, 1]), [0, 0, 0, 2]);
    assert_eq!(on_line(&[0, 1, 2, 3], 2, &[1]), [1, 1, 1, 2]);
}

#[test]
fn the_denominator_is_the_number_of_true_neighbours() {
    assert_eq!(on_line(&[0, 1, -1, -1], 3, &[1, 0, 4]), [2, 2, 2, 2]);
    // Row 2 is tied with the last true neighbour, but recall stays at most 1.
    assert_eq!(on_line(&[0, 1, -1, -1], 3, &[1, 0, 2]), [2, 2, 2, 2]);
    assert_eq!(on_line(&[-1, -1], 2, &[0, 1]), [0, 0, 0, 0]);
}

#[test]
fn k_up_to_the_depth_and_no_further() {
    assert_eq!(on_line(&[0, 1, 2, 3], 4, &[3, 2, 1, 0]), [4, 4, 4, 4]);
    let (base, queries) = (line(), Rows::F32(array![[0.0f32]]));
    let error = Judge::new(&base, &queries.view(), array![[0, 1, 2, 3]].view(), Metric::L2, 5).expect_err("too deep");
    assert!(matches!(error, JudgeError::BeyondTruth { k: 5, depth: 4 }), "{error}");
    let message = error.to_string();
    assert!(message.contains("k 5") && message.contains("lists 4"), "{message}");
    assert!(matches!(
        Judge::new(&base, &queries.view(), array![[0]].view(), Metric::L2, 0),
        Err(JudgeError::BadK { k: 0 })
    ));
}

#[test]
fn matrices_must_belong_together() {
    let (base, queries) = (line(), Rows::F32(array![[0.0f32]]));
    let two = array![[0i64], [1]];
    assert!(matches!(
        judge(&base, &queries.view(), two.view(), Metric::L2, 1, two.view()),
        Err(JudgeError::Shape { .. })
    ));
    let one = array![[0i64]];
    assert!(matches!(
        judge(&base, &queries.view(), one.view(), Metric::L2, 1, two.view()),
        Err(JudgeError::Shape { .. })
    ));
}

#[test]
fn a_zero_row_lies_at_cosine_distance_one() {
    let base = MemorySource::new(Rows::F32(array![[1.0f32, 0.0], [0.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), "zeros");
    // From (1, 0): rows 1 (zero) and 2 (orthogonal) are tied at 1; row 3 is at 2.
    assert_eq!(judged(&base, Metric::Cosine, &[1.0, 0.0], &[0, 1, 2, 3], 2, &[0, 2]), [2, 1, 2, 2]);
    assert_eq!(judged(&base, Metric::Cosine, &[1.0, 0.0], &[0, 2, 1, 3], 2, &[1, 3]), [1, 0, 1, 2]);
    // From a zero query everything is at 1.
    assert_eq!(judged(&base, Metric::Cosine, &[0.0, 0.0], &[0, 1, 2, 3], 2, &[3, 2]), [2, 0, 2, 2]);
}

#[test]
fn the_ann_benchmarks_rule_forgives_what_the_strict_rule_does_not() {
    let at = |angle: f32| [angle.cos(), angle.sin()];
    let base = Array2::from_shape_fn((4, 2), |(i, j)| at([0.05, 0.06, 0.07, 0.5][i])[j]);
    let base = MemorySource::new(Rows::F32(base), "fan");
    // 1 - cos: .00125 (true), .0018 and .00245 (within 1e-3 of .00125 and not), .12.
    assert_eq!(judged(&base, Metric::Cosine, &[1.0, 0.0], &[0, 1], 1, &[1]), [0, 0, 1, 1]);
    assert_eq!(judged(&base, Metric::Cosine, &[1.0, 0.0], &[0, 1], 1, &[2]), [0, 0, 0, 1]);
}

#[test]
fn inner_product_distances_are_negative_and_still_compared_with_a_positive_scale() {
    let base = MemorySource::new(Rows::I8(array![[10], [9], [9], [-10]]), "products");
    assert_eq!(judged(&base, Metric::InnerProduct, &[2.0], &[0, 1, 2, 3], 2, &[2, 0]), [2, 1, 2, 2]);
    assert_eq!(judged(&base, Metric::InnerProduct, &[2.0], &[0, 1, 2, 3], 2, &[3, 0]), [1, 1, 1, 2]);
}

#[test]
fn identical_rows_at_distance_zero_are_told_from_others() {
    let base = MemorySource::new(Rows::F32(array![[0.0f32], [0.0], [9e-4], [5.0]]), "copies");
    assert_eq!(judged(&base, Metric::L2, &[0.0], &[0, 1], 1, &[1]), [1, 0, 1, 1]);
    assert_eq!(judged(&base, Metric::L2, &[0.0], &[0, 1], 1, &[2]), [0, 0, 1, 1]);
}

#[test]
fn published_rules_by_hand() {
    // From 0 on the line: d = 1, 2, 2, 3, 4 for rows 0 to 4. Each row of the table: truth, k, answers, and what the strict
    // rule, the ids, the ann-benchmarks rule and the denominator make of them.
    type Case = (&'static [i64], usize, &'static [i64], [u16; 4]);
    const CASES: [Case; 12] = [
        // All found, in any order.
        (&[0, 1, 2, 3], 3, &[2, 0, 1], [3, 3, 3, 3]),
        // A tie at the k-th place: either row is as near, only one is among the truth's ids.
        (&[0, 2, 1, 3], 2, &[0, 1], [2, 1, 2, 2]),
        // A tie before the k-th place changes nothing.
        (&[0, 1, 2, 3], 4, &[0, 2, 1, 4], [3, 3, 3, 4]),
        // The truth lists the tied rows in another order than by id.
        (&[0, 2, 1, 3], 3, &[0, 1, 2], [3, 3, 3, 3]),
        // A duplicate takes the place of a neighbour, and is counted once; by distances alone it is counted twice.
        (&[0, 1, 2, 3], 3, &[0, 0, 1], [2, 2, 3, 3]),
        (&[0, 1, 2, 3], 3, &[4, 4, 4], [0, 0, 0, 3]),
        // -1 is no answer, wherever it stands.
        (&[0, 1, 2, 3], 3, &[-1, 0, -1], [1, 1, 1, 3]),
        (&[0, 1, 2, 3], 3, &[-1, -1, -1], [0, 0, 0, 3]),
        // Fewer answers than k, none at all, and more: the rest is not looked at.
        (&[0, 1, 2, 3], 3, &[1], [1, 1, 1, 3]),
        (&[0, 1, 2, 3], 1, &[4, 0, 1], [0, 0, 0, 1]),
        // Short truth: two neighbours exist, and two is all that can be found.
        (&[0, 1, -1, -1], 4, &[0, 1, 3, 4], [2, 2, 2, 2]),
        // An id beyond the base.
        (&[0, 1, 2, 3], 2, &[0, 99], [1, 1, 1, 2]),
    ];
    for (truth, k, answers, expected) in CASES {
        assert_eq!(on_line(truth, k, answers), expected, "truth {truth:?}, k {k}, answers {answers:?}");
    }
}

/// The ann-benchmarks rule, line by line: distances within 1e-3 of the truth's k-th, whatever their ids.
fn plain_ann(base: &Array2<f32>, query: &[f32], truth: &[i64], k: usize, ids: &[i64]) -> u16 {
    let distance = |id: i64| {
        let row = base.row(id as usize);
        row.iter().zip(query).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt()
    };
    let threshold = distance(truth[k - 1]) + 1e-3;
    let counted = |id: i64| id >= 0 && (id as usize) < base.nrows() && distance(id) <= threshold;
    ids.iter().take(k).filter(|&&id| counted(id)).count() as u16
}

/// The definition, line by line, without batches, lookups or early exits.
fn plain_strict(base: &Array2<f32>, query: &[f32], truth: &[i64], k: usize, ids: &[i64], scale: f64) -> u16 {
    let distance = |id: i64| {
        let row = base.row(id as usize);
        let squares = row.iter().zip(query).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let kth = truth[..k].iter().map(|&id| distance(id)).fold(0.0, f64::max);
    let mut hits = 0;
    for (at, &id) in ids.iter().enumerate().take(k) {
        let valid = id >= 0 && (id as usize) < base.nrows() && !ids[..at].contains(&id);
        hits += u16::from(valid && distance(id) <= kth + 1e-6 * kth.max(scale));
    }
    hits
}

#[test]
fn random_answers_are_judged_as_the_plain_twin_judges_them() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for round in 0..20 {
        let (n, dim, queries, depth) = (40, 2, 6, 12);
        // Few distinct coordinates make many ties.
        let base = Array2::from_shape_fn((n, dim), |_| rng.random_range(0..4) as f32);
        let query = Array2::from_shape_fn((queries, dim), |_| rng.random_range(0..4) as f32 + 0.25);
        let mut truth = Array2::zeros((queries, depth));
        for (q, mut row) in truth.rows_mut().into_iter().enumerate() {
            let key = |&id: &i64| {
                let difference = &base.row(id as usize) - &query.row(q);
                ((difference.dot(&difference) * 16.0) as i64, id)
            };
            let mut ids: Vec<i64> = (0..n as i64).collect();
            ids.sort_by_key(key);
            row.iter_mut().zip(ids).for_each(|(slot, id)| *slot = id);
        }
        let ids = Array2::from_shape_fn((queries, depth), |_| rng.random_range(-2..n as i64 + 3));
        let k = rng.random_range(1..=depth);
        let source = MemorySource::new(Rows::F32(base.clone()), "random");
        let rows = Rows::F32(query.clone());
        let judge = Judge::new(&source, &rows.view(), truth.view(), Metric::L2, k).expect("fits");

        let of_truth = judge.judge(truth.view()).expect("judged");
        assert!(of_truth.strict_hits.iter().all(|&hits| usize::from(hits) == k), "round {round}");
        assert_eq!(of_truth.recall(), Some(1.0));

        let judgement = judge.judge(ids.view()).expect("judged");
        for q in 0..queries {
            let as_vec = |m: &Array2<i64>| m.row(q).to_vec();
            let expected = plain_strict(&base, &query.row(q).to_vec(), &as_vec(&truth), k, &as_vec(&ids), judge.scale);
            assert_eq!(judgement.strict_hits[q], expected, "round {round}, query {q}, k {k}");
            let expected = plain_ann(&base, &query.row(q).to_vec(), &as_vec(&truth), k, &as_vec(&ids));
            assert_eq!(judgement.ann_hits[q], expected, "round {round}, query {q}, k {k}");
            assert!(judgement.id_hits[q] <= judgement.strict_hits[q]);
            assert!(judgement.strict_hits[q] <= judgement.ann_hits[q]);
        }
    }
}
