//! Data that is odd but legal: few rows, equal rows, one coordinate or thousands, zero rows, many copies.

use crate::common::*;
use kiln_builder::{
    Effort, GraphMethod, IndexKind, IndexParams, IvfPqParams, Layout, Navigate, Residency, Searcher, VamanaParams,
};
use kiln_kernels::codec::CodecKind;
use kiln_kernels::{DType, Metric, Rows};
use ndarray::Array2;

/// A name, and what it makes of default parameters.
type Variant<P> = (&'static str, fn(P) -> P);

/// Ways to build and lay out a graph. A new method or layout is one more line.
const GRAPHS: [Variant<VamanaParams>; 4] = [
    ("insert", |graph| VamanaParams { method: GraphMethod::Insert, layout: Layout::Compact, ..graph }),
    ("insert inline", |graph| VamanaParams { method: GraphMethod::Insert, layout: Layout::Inline, ..graph }),
    ("partition", |graph| VamanaParams { method: GraphMethod::Partition, layout: Layout::Compact, ..graph }),
    ("partition inline", |graph| VamanaParams { method: GraphMethod::Partition, layout: Layout::Inline, ..graph }),
];

/// Ways to build inverted lists. A new codec is one more line.
const LISTS: [Variant<IvfPqParams>; 5] = [
    ("pq", |lists| IvfPqParams { codec: CodecKind::Pq, ..lists }),
    ("pq4", |lists| IvfPqParams { codec: CodecKind::Pq4, ..lists }),
    ("rabitq1", |lists| IvfPqParams { codec: CodecKind::Rabitq(1), ..lists }),
    ("rabitq4", |lists| IvfPqParams { codec: CodecKind::Rabitq(4), ..lists }),
    ("sq8", |lists| IvfPqParams { codec: CodecKind::Sq8, ..lists }),
];

/// Every way to index `rows`, with default parameters but for rows so wide that the codes would take minutes.
fn variants(rows: &Rows) -> Vec<(&'static str, IndexParams)> {
    let mut variants = Vec::new();
    for kind in KINDS {
        match defaults(kind, rows) {
            IndexParams::Vamana(graph) => {
                let graph = VamanaParams { m: graph.m.min(32), ..graph };
                variants.extend(GRAPHS.map(|(name, of)| (name, IndexParams::Vamana(of(graph.clone())))));
            }
            IndexParams::IvfPq(lists) => {
                let lists = IvfPqParams { m: lists.m.min(32), ..lists };
                variants.extend(LISTS.map(|(name, of)| (name, IndexParams::IvfPq(of(lists.clone())))));
            }
        }
    }
    variants
}

/// The effort at which an index of `n` rows misses nothing, as its layout does it best.
fn everything(index: &Searcher, n: usize) -> Effort {
    match index.kind() {
        IndexKind::Vamana => Effort::Graph { search_list: n, navigate: Navigate::Best },
        IndexKind::IvfPq => lists(n, n),
    }
}

/// Builds every variant, and hands over each in memory and on the drive.
fn with_indexes(rows: &Rows, metric: Metric, mut check: impl FnMut(&Searcher, &str)) {
    for (name, params) in variants(rows) {
        let kind = params.kind();
        let built = build_index(rows, metric, params);
        for residency in [Residency::Memory, Residency::Ssd] {
            check(&built.open(residency), &format!("{kind} {name} {metric} {} rows {residency:?}", rows.len()));
        }
    }
}

/// Every row is reached, and some queries are answered as by brute force, however large k is.
fn check_some(rows: &Rows, metric: Metric, queries: &[usize]) {
    let exact = BruteForce::new(rows, metric);
    let n = rows.len();
    with_indexes(rows, metric, |index, what| {
        for (at, &query) in queries.iter().enumerate() {
            for k in [10, n].into_iter().take(if at == 0 { 2 } else { 1 }) {
                let hits = search(index, rows, query, k, everything(index, n));
                exact.check(rows, query, k, &hits, what);
            }
        }
    });
}

/// Every row is found when it is searched for, all rows are returned when all are asked for, and more than all too.
fn check_whole(rows: &Rows, metric: Metric) {
    let exact = BruteForce::new(rows, metric);
    let n = rows.len();
    with_indexes(rows, metric, |index, what| {
        for query in (0..n).step_by(n.div_ceil(25)) {
            for k in [1, n, n + 5] {
                let hits = search(index, rows, query, k, everything(index, n));
                exact.check(rows, query, k, &hits, what);
            }
        }
    });
}

#[test]
fn one_row_is_an_index() {
    for metric in METRICS {
        check_whole(&made(1, 3, |_, j| j as f32 + 1.0), metric);
    }
}

#[test]
fn two_rows_are_an_index() {
    for metric in METRICS {
        check_whole(&made(2, 3, |i, j| (i * 5 + j) as f32 + 1.0), metric);
    }
}

#[test]
fn fewer_rows_than_edges_are_an_index() {
    for metric in METRICS {
        for n in [3, 10, 63] {
            check_whole(&clustered(DType::F32, n, 6, 1), metric);
        }
    }
}

#[test]
fn equal_rows_are_all_found() {
    for metric in METRICS {
        check_whole(&made(200, 8, |_, j| j as f32 - 2.5), metric);
    }
}

#[test]
fn equal_rows_past_any_leaf_or_page_are_all_found() {
    check_some(&made(3000, 4, |_, j| j as f32 + 0.5), Metric::L2, &[0, 2999]);
}

#[test]
fn fewer_rows_than_a_block_of_codes_are_found() {
    for n in [31, 32, 33] {
        for metric in METRICS {
            check_whole(&clustered(DType::F32, n, 7, 2), metric);
        }
    }
}

#[test]
fn dimensions_that_are_a_multiple_of_nothing_are_found() {
    for dim in [2, 3, 5, 7, 13, 17, 31, 33, 65] {
        for dtype in [DType::F32, DType::U8] {
            check_whole(&clustered(dtype, 120, dim, 4), Metric::L2);
        }
    }
}

#[test]
fn clusters_of_very_different_size_are_found() {
    // One row, four, forty, and all others, far from each other.
    let cluster = |i: usize| match i % 1000 {
        500 if i < 1000 => 0,
        501 => 1,
        510..520 => 2,
        _ => 3,
    };
    let Rows::F32(spread) = clustered(DType::F32, 4000, 12, 6) else { unreachable!() };
    let rows = Rows::F32(Array2::from_shape_fn((4000, 12), |(i, j)| {
        let far = if j == cluster(i) { 5000.0 } else { 0.0 };
        far + spread[(8 * (i / 8), j)] + spread[(i, j)] / 64.0
    }));
    for metric in METRICS {
        check_some(&rows, metric, &[500, 501, 3515, 7]);
    }
}

#[test]
fn some_zero_rows_are_found_by_every_metric() {
    let rows = made(400, 9, |i, j| if i % 7 == 2 { 0.0 } else { ((i * 11 + j * 5) % 23) as f32 - 11.0 });
    for metric in METRICS {
        check_whole(&rows, metric);
    }
}

#[test]
fn many_copies_of_one_row_do_not_hide_the_others() {
    // Every tenth of ten thousand rows is the same one.
    let Rows::F32(different) = clustered(DType::F32, 10_000, 16, 3) else { unreachable!() };
    let rows = Rows::F32(Array2::from_shape_fn((10_000, 16), |(i, j)| different[(if i % 10 == 4 { 4 } else { i }, j)]));
    check_some(&rows, Metric::L2, &[4, 5, 9_999]);
    with_indexes(&rows, Metric::L2, |index, what| {
        let hits = search(index, &rows, 4, 1000, everything(index, rows.len()));
        let mut copies = hits.ids;
        copies.sort_unstable();
        assert!(copies.iter().copied().eq((0..1000).map(|i| 10 * i + 4)), "{what}");
        assert_eq!(hits.distances, vec![0.0; 1000], "{what}");
    });
}

#[test]
fn one_coordinate_is_enough() {
    for metric in METRICS {
        for dtype in DTYPES {
            check_whole(&clustered(dtype, 150, 1, 1), metric);
        }
    }
}

#[test]
fn rows_of_more_than_a_page_are_found() {
    for metric in METRICS {
        check_whole(&clustered(DType::F32, 30, 4096, 1), metric);
    }
    check_whole(&clustered(DType::U8, 30, 4096, 1), Metric::L2);
}

#[test]
fn under_cosine_a_zero_row_is_at_distance_one_from_everything() {
    let rows = made(120, 5, |i, j| if i % 10 == 3 { 0.0 } else { ((i * 7 + j * 3) % 11) as f32 - 4.0 });
    check_whole(&rows, Metric::Cosine);
    with_indexes(&rows, Metric::Cosine, |index, what| {
        let effort = everything(index, 120);
        let from_zero = search(index, &rows, 3, 120, effort);
        assert!(from_zero.distances.iter().all(|&d| d == 1.0), "{what}: {:?}", from_zero.distances);
        let from_other = search(index, &rows, 0, 120, effort);
        let zeros = from_other.ids.iter().zip(&from_other.distances).filter(|(id, _)| **id % 10 == 3);
        assert!(zeros.map(|(_, &d)| d).eq([1.0; 12]), "{what}: {from_other:?}");
    });
}

#[test]
fn nothing_but_zero_rows_is_an_index() {
    for metric in METRICS {
        check_whole(&made(90, 4, |_, _| 0.0), metric);
    }
}

#[test]
fn the_length_of_rows_does_not_matter_under_cosine() {
    let scale = |i: usize| [1e-18f32, 1.0, 1e15][i % 3];
    let rows = made(150, 6, |i, j| (((i * 13 + j * 5) % 17) as f32 - 8.0) * scale(i));
    check_whole(&rows, Metric::Cosine);
}

#[test]
fn copies_of_rows_are_all_found() {
    let Rows::F32(different) = clustered(DType::F32, 40, 12, 3) else { unreachable!() };
    // Copy i of row r is row i * 40 + r.
    let rows = Rows::F32(Array2::from_shape_fn((40 * 50, 12), |(i, j)| different[(i % 40, j)]));
    let originals = Rows::F32(different);
    for metric in METRICS {
        let exact = BruteForce::new(&rows, metric);
        with_indexes(&rows, metric, |index, what| {
            for query in (0..originals.len()).step_by(8) {
                for k in [1, 10, 73] {
                    let hits = search(index, &originals, query, k, everything(index, rows.len()));
                    exact.check(&originals, query, k, &hits, what);
                }
            }
        });
    }
    with_indexes(&rows, Metric::L2, |index, what| {
        for query in (0..originals.len()).step_by(4) {
            let hits = search(index, &originals, query, 50, everything(index, rows.len()));
            let mut copies = hits.ids.clone();
            copies.sort_unstable();
            let expected: Vec<u64> = (0..50).map(|copy| copy * 40 + query as u64).collect();
            assert_eq!((copies, hits.distances), (expected, vec![0.0; 50]), "{what}, query {query}");
        }
    });
}

#[test]
fn every_row_can_be_reached_however_few_edges_there_are() {
    let copies = made(600, 4, |i, j| ((i % 20) * (j + 1)) as f32);
    let apart = clustered(DType::F32, 600, 4, 5);
    for rows in [&copies, &apart] {
        for metric in METRICS {
            for (max_degree, build_list) in [(2, 1), (3, 8), (64, 100)] {
                for (name, of) in GRAPHS {
                    let params = of(vamana(max_degree, build_list, 2));
                    if IndexParams::Vamana(params.clone()).validate(rows.dim()).is_err() {
                        continue; // A layout may ask for more edges.
                    }
                    let index = build_index(rows, metric, IndexParams::Vamana(params)).open(Residency::Memory);
                    let hits = search(&index, rows, 0, 600, graph(600));
                    let mut found = hits.ids;
                    found.sort_unstable();
                    assert!(found.iter().copied().eq(0..600), "{name} {metric}, R {max_degree}: {} rows", found.len());
                }
            }
        }
    }
}

#[test]
fn each_row_finds_itself_with_an_ordinary_search_list() {
    let rows = clustered(DType::U8, 2000, 24, 8);
    for kind in KINDS {
        let index = build_index(&rows, Metric::L2, defaults(kind, &rows)).open(Residency::Memory);
        let effort = if kind == IndexKind::Vamana { graph(40) } else { lists(8, 100) };
        for query in 0..rows.len() {
            assert_eq!(search(&index, &rows, query, 1, effort).distances, [0.0], "{kind}, row {query}");
        }
    }
}

#[test]
fn values_at_the_ends_of_a_type_are_kept() {
    let ends = |low: f32, high: f32| made(64, 7, move |i, j| if (i >> (j % 6)) & 1 == 0 { low } else { high });
    let as_type = |dtype: DType, low, high| {
        let wide = ends(low, high).view().to_f32();
        match dtype {
            DType::U8 => Rows::U8(wide.mapv(|x| x as u8)),
            DType::I8 => Rows::I8(wide.mapv(|x| x as i8)),
            _ => Rows::F32(wide),
        }
    };
    for metric in METRICS {
        check_whole(&as_type(DType::U8, 0.0, 255.0), metric);
        check_whole(&as_type(DType::I8, -128.0, 127.0), metric);
    }
}

/// Builds by partition and checks a few queries, with a list that holds all rows, against brute force.
fn check_partition(rows: &Rows, max_degree: usize, what: &str) {
    let n = rows.len();
    for metric in [Metric::L2, Metric::Cosine] {
        let params = VamanaParams { method: GraphMethod::Partition, ..vamana(max_degree, 50, 1) };
        let index = build_index(rows, metric, IndexParams::Vamana(params)).open(Residency::Memory);
        let exact = BruteForce::new(rows, metric);
        for query in [0, n / 2, n - 1] {
            exact.check(rows, query, n, &search(&index, rows, query, n, graph(n)), what);
        }
    }
}

#[test]
fn many_copies_of_one_row_among_others_are_all_reached() {
    // Copies that no leader separates, more than a leaf holds, scattered and in one run.
    let different = |i: usize, j: usize| ((i * 37 + j * 101) % 251) as f32 - 100.0;
    let scattered = made(6000, 6, |i, j| if i % 3 == 0 { 5.0 + j as f32 } else { different(i, j) });
    let in_one_run = made(6000, 6, |i, j| if i < 2500 { 5.0 + j as f32 } else { different(i, j) });
    for max_degree in [8, 64] {
        check_partition(&scattered, max_degree, "scattered copies");
        check_partition(&in_one_run, max_degree, "copies in one run");
    }
}

#[test]
fn more_equal_rows_than_a_leaf_holds_are_all_reached() {
    check_partition(&made(5000, 3, |_, j| j as f32 + 1.0), 16, "equal rows");
    check_partition(&made(5000, 1, |i, _| (i % 7) as f32), 16, "seven values of one coordinate");
    check_partition(&made(3000, 4, |_, _| 0.0), 16, "zero rows");
}

#[test]
fn clusters_of_very_different_size_are_all_reached() {
    let far = |i: usize| match i {
        0..5 => 1e6,
        5..300 => -3e4,
        _ => 0.0,
    };
    let rows = made(5000, 4, |i, j| far(i) + ((i * 7919 + j * 104_729) % 1009) as f32 / 50.0);
    check_partition(&rows, 24, "clusters");
}
