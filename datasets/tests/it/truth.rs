//! Exact truth, and the check that catches truth that lies.

use kiln_datasets::{
    Dataset, MemorySource, RowSource, SynthSource, SynthSpec, TruthIssue, exact_truth, read_all, verify_truth,
};
use kiln_kernels::{CpuBackend, DType, Metric, NoProgress, Rows};
use ndarray::Array2;

const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

/// The slow, obvious twin: all distances in f64, sorted by (distance, id).
fn plain(base: &Array2<f32>, queries: &Array2<f32>, metric: Metric, k: usize) -> Vec<Vec<(i64, f32)>> {
    let dot = |a: ndarray::ArrayView1<'_, f32>, b: ndarray::ArrayView1<'_, f32>| -> f64 {
        a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    let distance = |q: ndarray::ArrayView1<'_, f32>, x: ndarray::ArrayView1<'_, f32>| match metric {
        Metric::L2 => q.iter().zip(x).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt(),
        Metric::InnerProduct => -dot(q, x),
        Metric::Cosine => match (dot(q, q) * dot(x, x)).sqrt() {
            0.0 => 1.0,
            norms => 1.0 - dot(q, x) / norms,
        },
    };
    let nearest = |q: ndarray::ArrayView1<'_, f32>| {
        let mut all: Vec<(f64, i64)> = base.rows().into_iter().zip(0..).map(|(x, id)| (distance(q, x), id)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all[..k].iter().map(|&(d, id)| (id, d as f32)).collect()
    };
    queries.rows().into_iter().map(nearest).collect()
}

fn synthetic(dtype: DType) -> (SynthSource, SynthSource) {
    let base = SynthSource::new(&SynthSpec { dtype, clusters: 4, ..SynthSpec::new(900, 24, 6.0) }).unwrap();
    let queries = base.queries(31);
    (base, queries)
}

fn floats(source: &dyn RowSource) -> Array2<f32> {
    read_all(source, |_| {}).unwrap().view().to_f32()
}

#[test]
fn exact_truth_is_the_plain_one_whatever_the_budget() {
    for dtype in [DType::F32, DType::U8, DType::I8, DType::F16] {
        let (base, queries) = synthetic(dtype);
        for metric in METRICS {
            let expected = plain(&floats(&base), &floats(&queries), metric, 10);
            // The smaller budget splits both the base and the queries.
            for budget in [1 << 30, 8 << 10] {
                let truth =
                    exact_truth(&CpuBackend::default(), &base, &queries, metric, 10, budget, &NoProgress).unwrap();
                let distances = truth.distances.as_ref().unwrap();
                for (query, expected) in expected.iter().enumerate() {
                    let found: Vec<(i64, f32)> =
                        truth.ids.row(query).iter().copied().zip(distances.row(query).iter().copied()).collect();
                    assert_eq!(&found, expected, "{dtype} {metric} query {query}, budget {budget}");
                }
            }
        }
    }
}

#[test]
fn mixed_types_are_widened_and_zero_rows_are_ordered() {
    let mut base = Array2::<u8>::from_shape_fn((40, 3), |(i, j)| (i * j % 7) as u8);
    base.row_mut(5).fill(0);
    let queries = Array2::<f32>::from_shape_fn((4, 3), |(i, j)| i as f32 - j as f32);
    for metric in METRICS {
        let expected = plain(&base.mapv(f32::from), &queries, metric, 40);
        let source = |rows| MemorySource::new(rows, "memory");
        let (base, queries) = (source(Rows::U8(base.clone())), source(Rows::F32(queries.clone())));
        let truth = exact_truth(&CpuBackend::default(), &base, &queries, metric, 40, 1 << 20, &NoProgress).unwrap();
        let ids: Vec<Vec<i64>> = expected.iter().map(|row| row.iter().map(|hit| hit.0).collect()).collect();
        assert_eq!(truth.ids.rows().into_iter().map(|row| row.to_vec()).collect::<Vec<_>>(), ids, "{metric}");
    }
}

#[test]
fn impossible_requests_are_refused() {
    let (base, queries) = synthetic(DType::F32);
    let refused = |queries: &dyn RowSource, k, budget| {
        exact_truth(&CpuBackend::default(), &base, queries, Metric::L2, k, budget, &NoProgress).unwrap_err().to_string()
    };
    assert!(refused(&queries, 0, 1 << 20).contains("0 neighbours"));
    assert!(refused(&queries, 901, 1 << 20).contains("901 neighbours were asked for of 900 rows"));
    assert!(refused(&queries, 10, 100).contains("memory budget of 100 bytes"));
    let other = MemorySource::new(Rows::F32(Array2::zeros((1, 5))), "other");
    assert!(refused(&other, 10, 1 << 20).contains("5 coordinates, the base 24"));
}

#[test]
fn the_demos_truth_is_recomputed() {
    let demo = Dataset::embedded_demo().unwrap();
    let queries = demo.queries.as_ref().unwrap();
    let truth = exact_truth(
        &CpuBackend::default(),
        demo.base.as_ref(),
        queries.as_ref(),
        Metric::L2,
        100,
        64 << 20,
        &NoProgress,
    )
    .unwrap();
    let stored = demo.truth.as_ref().unwrap().distances.as_ref().unwrap();
    for (computed, &stored) in truth.distances.unwrap().iter().zip(stored) {
        assert!((computed - stored).abs() <= 1e-4 * stored, "{computed} against {stored}");
    }
}

fn issues(dataset: &Dataset) -> Vec<TruthIssue> {
    verify_truth(dataset, dataset.metric.unwrap(), 1_000, 7).unwrap()
}

#[test]
fn honest_truth_has_no_issues() {
    assert_eq!(issues(&Dataset::embedded_demo().unwrap()), []);
    for metric in METRICS {
        let (base, queries) = synthetic(DType::F32);
        let truth = exact_truth(&CpuBackend::default(), &base, &queries, metric, 20, 1 << 30, &NoProgress).unwrap();
        let mut dataset =
            Dataset::synthetic(base.spec(), 0).unwrap().with_queries(Box::new(queries), Some(truth)).unwrap();
        dataset.metric = Some(metric);
        assert_eq!(issues(&dataset), [], "{metric}");
        // Big-ann files state squared distances, and dot products themselves.
        let stated = dataset.truth.as_mut().unwrap().distances.as_mut().unwrap();
        match metric {
            Metric::L2 => stated.mapv_inplace(|d| d * d),
            Metric::InnerProduct => stated.mapv_inplace(|d| -d),
            Metric::Cosine => {}
        }
        assert_eq!(issues(&dataset), [], "{metric}, as big-ann states it");
    }
}

/// The demo with one lie told by `lie`; the issues must all be of row 123, and one must speak of `word`.
fn assert_noticed(word: &str, lie: impl Fn(&mut Array2<i64>, &mut Array2<f32>)) {
    let mut demo = Dataset::embedded_demo().unwrap();
    let truth = demo.truth.as_mut().unwrap();
    lie(&mut truth.ids, truth.distances.as_mut().unwrap());
    let found = issues(&demo);
    assert!(!found.is_empty() && found.iter().all(|issue| issue.row == 123), "{found:?}");
    assert!(found.iter().any(|issue| issue.to_string().contains(word)), "{word}: {found:?}");
    assert!(found[0].to_string().starts_with("truth row 123: "), "{}", found[0]);
}

#[test]
fn lies_are_noticed_and_named() {
    assert_noticed("the base has 10000 rows", |ids, _| ids[(123, 4)] = 10_000);
    assert_noticed("row -1", |ids, _| ids[(123, 4)] = -1);
    assert_noticed("listed before", |ids, _| ids[(123, 4)] = ids[(123, 3)]);
    assert_noticed("is stated at distance", |_, distances| distances[(123, 50)] *= 1.01);
    assert_noticed("is stated at distance NaN", |_, distances| distances[(123, 50)] = f32::NAN);
    assert_noticed("comes after", |ids, distances| {
        ids.swap((123, 2), (123, 90));
        distances.swap((123, 2), (123, 90));
    });
    // The nearest row is left out, and all others move up.
    assert_noticed("is not listed", |ids, distances| {
        for rank in 0..50 {
            let far = (123, rank);
            ids[far] = ids[(123, 50 + rank)];
            distances[far] = distances[(123, 50 + rank)];
        }
    });
}

#[test]
fn parts_are_checked_when_they_are_put_together() {
    let spec = SynthSpec::new(100, 8, 3.0);
    let dataset = |queries| Dataset::synthetic(&spec, queries).unwrap();
    assert_eq!(dataset(7).queries.unwrap().len(), 7);
    assert_eq!(dataset(0).fingerprint, dataset(0).fingerprint);
    assert_ne!(
        dataset(0).fingerprint,
        Dataset::synthetic(&SynthSpec { seed: 1, ..spec.clone() }, 0).unwrap().fingerprint
    );
    let other = || Box::new(MemorySource::new(Rows::F32(Array2::zeros((2, 9))), "other"));
    assert!(dataset(0).with_queries(other(), None).unwrap_err().to_string().contains("its queries 9"));
}

#[test]
fn without_truth_there_is_nothing_to_check() {
    let mut demo = Dataset::embedded_demo().unwrap();
    demo.truth = None;
    assert!(verify_truth(&demo, Metric::L2, 10, 0).unwrap_err().to_string().contains("kiln datasets truth"));
}
