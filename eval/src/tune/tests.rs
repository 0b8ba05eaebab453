//! Tuning on the embedded demo.

use kiln_builder::{BuildRequest, Index, IndexKind, IndexParams, Residency, build};
use kiln_datasets::{Dataset, read_all};
use kiln_kernels::{CpuBackend, Metric, NoProgress};

use super::*;

fn with_demo(kind: IndexKind, check: impl FnOnce(&Searcher, &Dataset, &Rows)) {
    let dataset = Dataset::embedded_demo().expect("the demo unpacks");
    let queries = read_all(dataset.queries.as_deref().expect("queries"), |_| ()).expect("read");
    let params = match IndexParams::defaults(kind, 10_000, 128) {
        IndexParams::Vamana(params) => {
            IndexParams::Vamana(kiln_builder::VamanaParams { max_degree: 32, build_list: 32, m: 16, ..params })
        }
        IndexParams::IvfPq(params) => IndexParams::IvfPq(kiln_builder::IvfPqParams { nlist: 64, m: 32, ..params }),
    };
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("demo.kiln");
    let request = BuildRequest {
        source: dataset.base.as_ref(),
        dataset_name: dataset.name.clone(),
        dataset_fingerprint: dataset.fingerprint.clone(),
        metric: Metric::L2,
        params,
        keep_dtype: false,
        out: &out,
    };
    build(&CpuBackend::new(), &request, &NoProgress).expect("built");
    check(&Index::open(&out, Residency::Memory).expect("opens"), &dataset, &queries);
}

fn request<'a>(searcher: &'a Searcher, dataset: &'a Dataset, queries: &'a Rows, recall: f64) -> TuneRequest<'a> {
    TuneRequest {
        searcher,
        queries: queries.view(),
        truth: dataset.truth.as_ref().expect("truth").ids.view(),
        base: dataset.base.as_ref(),
        k: 10,
        recall,
        mode: Mode::Latency1,
        navigate: &[Navigate::Exact],
        quick: true,
        seed: 1,
    }
}

#[test]
fn a_setting_reaches_its_target_and_a_lesser_one_does_not() {
    for kind in [IndexKind::Vamana, IndexKind::IvfPq] {
        with_demo(kind, |searcher, dataset, queries| {
            let request = request(searcher, dataset, queries, 0.9);
            let tuned = tune(&request, &NoProgress).expect("tuned");
            assert_eq!((tuned.k, tuned.recall, tuned.residency.as_str()), (10, 0.9, "memory"));
            assert_eq!((tuned.tuning.queries, tuned.held_out.queries), (250, 250));
            assert!(tuned.tuning.lo >= 0.9 && tuned.tuning.recall > tuned.tuning.lo, "{kind}: {tuned:?}");
            assert!(tuned.held_out.hi >= 0.9, "{kind}: {tuned:?}");
            assert!(tuned.qps.lo > 0.0);
            let lesser = match tuned.effort {
                Effort::Graph { search_list, navigate } => {
                    Effort::Graph { search_list: search_list * 8 / 10, navigate }
                }
                Effort::Lists { nprobe, rerank } => Effort::Lists { nprobe: nprobe - 1, rerank },
            };
            let shuffled = Half::new(&request, &(0..queries.len()).collect::<Vec<_>>()).expect("all queries");
            let whole = { shuffled }.recall(lesser).expect("judged");
            assert!(whole.recall < tuned.tuning.hi, "{kind}: {lesser:?} has {whole}");
            // A batch is tuned to the same recall.
            let batch = TuneRequest { mode: Mode::Batch { threads: 2 }, ..request };
            let batch = tune(&batch, &NoProgress).expect("tuned");
            assert!(batch.mode == "batch-2" && batch.tuning.lo >= 0.9, "{kind}: {batch:?}");
        });
    }
}

#[test]
fn queries_and_truth_that_tell_nothing_are_refused() {
    with_demo(IndexKind::IvfPq, |searcher, dataset, queries| {
        let told = |request: &TuneRequest<'_>| tune(request, &NoProgress).expect_err("refused").to_string();
        let few = queries.view().slice(0..19).to_rows();
        let message = told(&TuneRequest { queries: few.view(), ..request(searcher, dataset, queries, 0.9) });
        assert!(message.contains("19 queries are too few") && message.contains("20 or more"), "{message}");
        let some = queries.view().slice(0..30).to_rows();
        let message = told(&TuneRequest { queries: some.view(), ..request(searcher, dataset, queries, 0.9) });
        assert!(message.contains("30 queries but truth for 500"), "{message}");
        let message = told(&TuneRequest { k: 101, ..request(searcher, dataset, queries, 0.9) });
        assert!(message.contains("k 101"), "{message}");
        // By the truth of other queries whatever is near counts as found.
        let truth = dataset.truth.as_ref().expect("truth").ids.select(Axis(0), &(0..500).rev().collect::<Vec<_>>());
        let message = told(&TuneRequest { truth: truth.view(), ..request(searcher, dataset, queries, 0.9) });
        assert!(message.contains("of 250 queries a nearer row was found") && message.contains("wrong"), "{message}");
    });
}

#[test]
fn the_interval_of_a_mean_holds_it_and_narrows() {
    let recalls = |n: usize| -> Vec<f64> { (0..n).map(|i| if i % 5 == 0 { 0.8 } else { 1.0 }).collect() };
    let [few, many] = [50, 5000].map(|n| SampleRecall::of(&recalls(n)).expect("some"));
    for sample in [few, many] {
        assert!((sample.recall - 0.96).abs() < 1e-9 && sample.lo < 0.96 && sample.hi > 0.96, "{sample}");
    }
    assert!(many.hi - many.lo < (few.hi - few.lo) / 5.0);
    assert_eq!(SampleRecall::of(&[]), None);
    assert!(SampleRecall::of(&[1.0; 10]).is_some_and(|all| all.reaches(1.0)));
}
