//! The inline layout: from memory and from the drive, alone and in batches, for every metric, type and width.

use crate::common::*;
use kiln_builder::{BuilderError, Hits, Index, IndexParams, Residency, SearchParams, Searcher, VamanaParams};
use kiln_datasets::{Dataset, read_all};
use kiln_kernels::{DType, Metric, Rows};

/// All answers in one batch.
fn batch(index: &Searcher, queries: &Rows, k: usize, list: usize) -> Vec<Hits> {
    index.search_batch(&queries.view(), &SearchParams { k, effort: by_codes(list) }).expect("searched")
}

/// In memory and on the drive each: alone and in a batch answers are the same. Returns those of memory and drive.
fn check_alike(memory: &Searcher, drive: &Searcher, queries: &Rows, list: usize, what: &str) -> [Vec<Hits>; 2] {
    [memory, drive].map(|index| {
        let together = batch(index, queries, 10, list);
        assert_eq!(together.len(), queries.len());
        for (query, answer) in together.iter().enumerate() {
            let alone = search(index, queries, query, 10, by_codes(list));
            assert_eq!(timeless(&alone), timeless(answer), "{what}, query {query}: alone and in a batch");
            assert_eq!(alone.stats.pages > 0, index.residency() == Residency::Ssd, "{what}");
        }
        together
    })
}

#[test]
fn the_demo_is_recalled_alike_from_everywhere() {
    let demo = Dataset::embedded_demo().expect("the demo unpacks");
    let rows = read_all(demo.base.as_ref(), |_| ()).expect("read");
    let queries = read_all(demo.queries.as_deref().expect("queries"), |_| ()).expect("read");
    let truth = demo.truth.as_ref().and_then(|truth| truth.distances.as_ref()).expect("distances");
    for (bits, list, least) in [(1, 80, 0.95), (2, 40, 0.97), (3, 40, 0.98), (4, 30, 0.97)] {
        let built = build_index(&rows, Metric::L2, IndexParams::Vamana(inline(32, 60, bits)));
        let (memory, drive) = (built.open(Residency::Memory), built.open(Residency::Ssd));
        let answers = check_alike(&memory, &drive, &queries, list, &format!("{bits} bits"));
        let found = |(query, hits): (usize, &Hits)| {
            hits.distances.iter().filter(|&&distance| distance <= truth[(query, 9)] * (1.0 + 1e-5)).count()
        };
        let recall = |answers: &[Hits]| {
            answers.iter().enumerate().map(found).sum::<usize>() as f64 / (10 * queries.len()) as f64
        };
        let [here, there] = answers.map(|answers| recall(&answers));
        assert!(here >= least && there >= here, "{bits} bits: {here} in memory, {there} on the drive");
        let kept = |index: &Searcher| index.serving().total() - index.serving().buffers;
        assert!(kept(&drive) * 10 < kept(&memory), "nodes stay on the drive");
        // More effort, and exact navigation of the same file, find what is missed.
        let all = SearchParams { k: 10, effort: graph(400) };
        let exact = memory.search(&queries.view().slice(0..1), &all).expect("searched");
        BruteForce::new(&rows, Metric::L2).check(&queries, 0, 10, &exact, "exact navigation");
    }
}

#[test]
fn every_metric_and_type_is_answered_alike_and_finds_everything_with_a_long_list() {
    for metric in METRICS {
        for dtype in DTYPES {
            let (rows, queries) = (clustered(dtype, 500, 21, 1), clustered(DType::F32, 20, 21, 9));
            let built = build_index(&rows, metric, IndexParams::Vamana(inline(32, 40, 2)));
            let (memory, drive) = (built.open(Residency::Memory), built.open(Residency::Ssd));
            let what = format!("{metric} {dtype}");
            check_alike(&memory, &drive, &queries, 30, &what);
            let exact = BruteForce::new(&rows, metric);
            for index in [&memory, &drive] {
                for (query, hits) in batch(index, &queries, 10, 500).iter().enumerate() {
                    exact.check(&queries, query, 10, hits, &what);
                }
            }
        }
    }
}

#[test]
fn odd_data_are_searched_exactly_with_a_long_list() {
    let cases: [(&str, Rows); 7] = [
        ("one row", made(1, 5, |_, j| j as f32)),
        ("dimension 1", made(300, 1, |i, _| (i * 7 % 300) as f32)),
        ("all equal", made(100, 8, |_, _| 2.5)),
        ("fewer rows than places", made(9, 40, |i, j| ((i * 31 + j * 17) % 23) as f32)),
        ("many copies", made(400, 12, |i, j| if i < 300 { 1.0 } else { ((i * 13 + j * 5) % 50) as f32 })),
        ("zeros", made(200, 6, |i, j| if i % 3 == 0 { 0.0 } else { ((i * 11 + j * 3) % 17) as f32 - 8.0 })),
        ("nodes larger than a page", made(60, 1100, |i, j| ((i * 131 + j * 71) % 97) as f32)),
    ];
    for (what, rows) in cases {
        for metric in METRICS {
            let built = build_index(&rows, metric, IndexParams::Vamana(inline(16, 30, 2)));
            let index = built.open(Residency::Memory);
            let queries = Rows::F32(rows.view().slice(0..rows.len().min(7)).to_f32());
            let drive = built.open(Residency::Ssd);
            let answers = check_alike(&index, &drive, &queries, 2 * rows.len(), &format!("{what}, {metric}"));
            for (query, hits) in answers.iter().flat_map(|answers| answers.iter().enumerate()) {
                BruteForce::new(&rows, metric).check(&queries, query, 10, hits, &format!("{what}, {metric}"));
            }
        }
    }
}

#[test]
fn the_file_does_not_depend_on_the_number_of_threads() {
    let rows = clustered(DType::U8, 900, 33, 3);
    let bytes = [1, 2, 5].map(|threads| {
        on_threads(threads, || build_index(&rows, Metric::L2, IndexParams::Vamana(inline(32, 40, 3))).bytes())
    });
    assert!(bytes[0] == bytes[1] && bytes[1] == bytes[2]);
}

#[test]
fn a_batch_fails_for_the_query_that_is_wrong() {
    let rows = clustered(DType::F32, 100, 4, 3);
    let built = build_index(&rows, Metric::L2, IndexParams::Vamana(inline(16, 30, 2)));
    let index = built.open(Residency::Memory);
    let params = SearchParams { k: 3, effort: by_codes(10) };
    let queries = made(30, 4, |i, j| if (i, j) == (27, 2) { f32::NAN } else { 1.0 });
    let error = index.search_batch(&queries.view(), &params).expect_err("query 27 is not finite");
    assert!(error.to_string().contains("coordinate 2 is not finite"), "{error}");
    let narrow = made(3, 3, |_, _| 1.0);
    assert!(matches!(index.search_batch(&narrow.view(), &params), Err(BuilderError::Mismatch(_))));
    assert!(index.search_batch(&made(0, 4, |_, _| 0.0).view(), &params).expect("no queries").is_empty());
}

#[test]
fn what_the_layout_cannot_hold_is_refused() {
    let rows = clustered(DType::F32, 100, 4, 3);
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("x.kiln");
    let refused = |params: VamanaParams| {
        let error = try_build(&rows, Metric::L2, IndexParams::Vamana(params), &out).expect_err("refused");
        assert!(!out.exists());
        error.to_string()
    };
    assert!(refused(inline(24, 30, 2)).contains("multiples of 16"));
    assert!(refused(inline(32, 30, 5)).contains("1 to 4"));
    assert!(refused(inline(32, 30, 0)).contains("1 to 4"));
}

#[test]
fn a_damaged_table_of_entries_is_refused() {
    let rows = clustered(DType::F32, 100, 4, 3);
    let built = build_index(&rows, Metric::L2, IndexParams::Vamana(inline(16, 30, 2)));
    let bytes = built.bytes();
    let summary = kiln_builder::inspect(&built.path).expect("inspected");
    for name in ["nav", "codec", "nodes"] {
        let section = summary.sections.iter().find(|section| section.name == name).expect(name);
        let mut damaged = bytes.clone();
        damaged[section.offset as usize + section.length as usize / 2] ^= 4;
        let path = built.folder.path().join("damaged.kiln");
        std::fs::write(&path, &damaged).expect("written");
        let Err(error) = Index::open(&path, Residency::Memory) else { panic!("{name} is damaged") };
        assert!(error.to_string().contains(name), "{error}");
    }
}
