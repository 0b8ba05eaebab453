//! Every kind of codes: right when asked for everything, alike from memory and drive, alone and in company.

use crate::common::*;
use kiln_builder::{Effort, Index, IndexParams, IvfPqParams, OpenParams, Residency, SearchParams, Searcher};
use kiln_kernels::codec::CodecKind;
use kiln_kernels::{DType, Metric, Rows};

/// Lists of a kind of codes, once with every row in two of them.
fn params(codec: CodecKind, nlist: usize, dim: usize) -> [IvfPqParams; 2] {
    let m = IvfPqParams::default_m(codec, dim);
    [false, true].map(|soar| IvfPqParams { codec, soar, ..ivf_pq(nlist, m) })
}

/// The answers to all queries together are those to each alone, cost and all.
fn check_batch(index: &Searcher, queries: &Rows, k: usize, effort: Effort, what: &str) {
    let together = index.search_batch(&queries.view(), &SearchParams { k, effort }).expect("searched");
    assert_eq!(together.len(), queries.len());
    for (query, hits) in together.iter().enumerate() {
        let alone = search(index, queries, query, k, effort);
        assert_eq!(timeless(hits), timeless(&alone), "{what} {effort:?}, query {query}");
    }
}

#[test]
fn all_rows_reranked_equal_brute_force() {
    let dim = 21;
    for metric in METRICS {
        for dtype in [DType::F32, DType::U8] {
            let (rows, queries) = (clustered(dtype, 700, dim, 1), clustered(dtype, 12, dim, 9));
            let exact = BruteForce::new(&rows, metric);
            for codec in CodecKind::all() {
                for params in params(codec, 12, dim) {
                    let what = format!("{metric} {dtype} {codec}, soar {}", params.soar);
                    let index = build_index(&rows, metric, IndexParams::IvfPq(params)).open(Residency::Memory);
                    for query in 0..queries.len() {
                        let hits = search(&index, &queries, query, 10, lists(12, 700));
                        exact.check(&queries, query, 10, &hits, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn answers_depend_neither_on_residency_nor_on_company() {
    let dim = 37;
    for metric in METRICS {
        let (rows, queries) = (clustered(DType::F32, 1500, dim, 1), clustered(DType::F32, 70, dim, 9));
        for codec in CodecKind::all() {
            for params in params(codec, 40, dim) {
                let what = format!("{metric} {codec}, soar {}", params.soar);
                let built = build_index(&rows, metric, IndexParams::IvfPq(params));
                let (memory, drive) = (built.open(Residency::Memory), built.open(Residency::Ssd));
                for effort in [lists(1, 10), lists(9, 40), lists(40, 300)] {
                    check_batch(&memory, &queries, 10, effort, &what);
                    for query in (0..queries.len()).step_by(7) {
                        let [a, b] = [&memory, &drive].map(|index| search(index, &queries, query, 10, effort));
                        assert_eq!((&a.ids, &a.distances), (&b.ids, &b.distances), "{what} {effort:?}");
                        assert_eq!((a.stats.distances, a.stats.hops), (b.stats.distances, b.stats.hops), "{what}");
                        let mut distinct = a.ids.clone();
                        distinct.sort_unstable();
                        distinct.dedup();
                        assert_eq!(distinct.len(), a.ids.len(), "{what}: a row is named twice");
                    }
                }
                check_batch(&drive, &queries, 3, lists(5, 20), &what);
            }
        }
    }
}

#[test]
fn lists_of_many_pieces_are_read_from_the_drive() {
    let (rows, queries) = (clustered(DType::U8, 20_000, 37, 1), clustered(DType::U8, 40, 37, 2));
    for codec in [CodecKind::Sq8, CodecKind::Rabitq(7)] {
        for params in params(codec, 2, 37) {
            let built = build_index(&rows, Metric::L2, IndexParams::IvfPq(params));
            let (memory, drive) = (built.open(Residency::Memory), built.open(Residency::Ssd));
            check_batch(&drive, &queries, 10, lists(2, 100), "on the drive");
            for query in 0..queries.len() {
                let [a, b] = [&memory, &drive].map(|index| search(index, &queries, query, 10, lists(2, 100)));
                assert_eq!((a.ids, a.distances), (b.ids, b.distances));
            }
            // A batch reads each list once for all its queries; each counts what it would read alone.
            let pages = drive.io_counters().pages;
            let together = drive.search_batch(&queries.view(), &SearchParams { k: 10, effort: lists(2, 100) });
            let counted: u64 = together.expect("searched").iter().map(|hits| hits.stats.pages).sum();
            assert!((drive.io_counters().pages - pages) * 4 < counted);
        }
    }
}

#[test]
fn serving_from_the_drive_keeps_to_its_memory() {
    let (rows, queries) = (clustered(DType::U8, 20_000, 37, 1), clustered(DType::U8, 5, 37, 2));
    let built = build_index(&rows, Metric::L2, IndexParams::IvfPq(params(CodecKind::Sq8, 8, 37)[0].clone()));
    let open = |memory| Index::open_with(&built.path, &OpenParams { memory: Some(memory), ..Residency::Ssd.into() });
    let Err(error) = open(100_000) else { panic!("100 kB hold the ids, and nothing else") };
    let message = error.to_string();
    let least: f64 = message.split(" MiB").next().and_then(|m| m.split(' ').next_back()?.parse().ok()).expect("a size");
    assert!(message.contains("x.kiln") && message.contains("--memory"), "{message}");
    let memory = (least * 1_048_576.0) as u64;
    let index = open(memory).expect("the least suffices");
    let all = built.open(Residency::Ssd);
    for query in 0..queries.len() {
        let [a, b] = [&index, &all].map(|index| search(index, &queries, query, 10, lists(3, 50)));
        assert_eq!((a.ids, a.distances), (b.ids, b.distances));
    }
    assert!(index.serving().total() <= memory, "{:?}", index.serving());
}

#[test]
fn a_tile_of_many_queries_answers_each_as_if_alone() {
    let (rows, queries) = (clustered(DType::U8, 3000, 16, 1), clustered(DType::U8, 2100, 16, 2));
    let index = build_index(&rows, Metric::L2, IndexParams::IvfPq(params(CodecKind::Pq4, 64, 16)[0].clone()));
    check_batch(&index.open(Residency::Memory), &queries, 5, lists(8, 30), "more than two tiles");
}

#[test]
fn ordinary_efforts_recall_what_they_should() {
    let (rows, queries) = (clustered(DType::F32, 4000, 32, 1), clustered(DType::F32, 100, 32, 5));
    let truth = build_index(&rows, Metric::L2, IndexParams::IvfPq(ivf_pq(4, 8))).open(Residency::Memory);
    let exact: Vec<Vec<u64>> = (0..100).map(|q| search(&truth, &queries, q, 10, lists(4, 4000)).ids).collect();
    for codec in CodecKind::all() {
        for params in params(codec, 32, 32) {
            let soar = params.soar;
            let index = build_index(&rows, Metric::L2, IndexParams::IvfPq(params)).open(Residency::Memory);
            let found = exact.iter().enumerate().map(|(q, exact)| {
                let ids = search(&index, &queries, q, 10, lists(16, 400)).ids;
                exact.iter().filter(|id| ids.contains(id)).count()
            });
            let recall = found.sum::<usize>() as f64 / 1000.0;
            assert!(recall >= 0.95, "{codec}, soar {soar}: {recall}");
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_byte() {
    let rows = clustered(DType::F32, 900, 19, 1);
    for metric in METRICS {
        for codec in CodecKind::all() {
            for params in params(codec, 20, 19) {
                let bytes = |threads| {
                    let params = IndexParams::IvfPq(params.clone());
                    on_threads(threads, || build_index(&rows, metric, params).bytes())
                };
                let one = bytes(1);
                assert!(one == bytes(2) && one == bytes(5), "{metric} {codec}, soar {}", params.soar);
            }
        }
    }
}

#[test]
fn tiny_and_odd_rows_are_indexes() {
    let odd: [(&str, Rows); 6] = [
        ("one row", made(1, 3, |_, j| j as f32 + 1.0)),
        ("fewer rows than a block", clustered(DType::F32, 17, 6, 1)),
        ("one coordinate", clustered(DType::F32, 70, 1, 1)),
        ("equal rows", made(90, 5, |_, j| j as f32 - 2.5)),
        ("zero rows", made(40, 4, |_, _| 0.0)),
        ("some zero rows", made(60, 5, |i, j| if i % 10 == 3 { 0.0 } else { ((i * 7 + j * 3) % 11) as f32 - 4.0 })),
    ];
    for (name, rows) in &odd {
        for metric in METRICS {
            let exact = BruteForce::new(rows, metric);
            for codec in CodecKind::all() {
                for nlist in [1, 8, 64] {
                    for params in params(codec, nlist, rows.dim()) {
                        let what = format!("{name} {metric} {codec} nlist {nlist}, soar {}", params.soar);
                        let built = build_index(rows, metric, IndexParams::IvfPq(params));
                        for residency in [Residency::Memory, Residency::Ssd] {
                            let (index, n) = (built.open(residency), rows.len());
                            for query in (0..n).step_by(n.div_ceil(4)) {
                                let effort = lists(nlist, n);
                                for k in [1, n, n + 5] {
                                    exact.check(rows, query, k, &search(&index, rows, query, k, effort), &what);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
