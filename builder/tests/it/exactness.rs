//! With enough effort an index answers as a plain scan does, for every metric and element type.

use crate::common::*;
use kiln_builder::{IndexKind, IndexParams, Residency};
use kiln_kernels::{DType, Metric, Rows, f16};

const N: usize = 1000;
const DIM: usize = 19;

/// Queries that no row equals.
fn queries(dtype: DType) -> Rows {
    clustered(dtype, 30, DIM, 99)
}

fn check_all(base: &Rows, queries: &Rows, metric: Metric, params: IndexParams, efforts: &[kiln_builder::Effort]) {
    let what = format!("{metric} {} queried in {}, {params:?}", base.dtype(), queries.dtype());
    let index = build_index(base, metric, params).open(Residency::Memory);
    let exact = BruteForce::new(base, metric);
    for &effort in efforts {
        for query in 0..queries.len() {
            let hits = search(&index, queries, query, 10, effort);
            exact.check(queries, query, 10, &hits, &format!("{what} {effort:?}"));
        }
    }
}

#[test]
fn a_graph_with_a_large_search_list_equals_brute_force() {
    for metric in METRICS {
        for dtype in DTYPES {
            let params = IndexParams::Vamana(vamana(32, 64, 5));
            let efforts = [graph(N), by_codes(N)];
            check_all(&clustered(dtype, N, DIM, 1), &queries(dtype), metric, params, &efforts);
        }
    }
}

#[test]
fn all_lists_probed_and_all_rows_reranked_equal_brute_force() {
    for metric in METRICS {
        for dtype in DTYPES {
            let params = IndexParams::IvfPq(ivf_pq(16, 5));
            check_all(&clustered(dtype, N, DIM, 1), &queries(dtype), metric, params, &[lists(16, N)]);
        }
    }
}

#[test]
fn queries_of_any_type_are_answered_as_their_values_say() {
    let fractional = {
        let Rows::F32(rows) = queries(DType::F32) else { unreachable!() };
        // Not a value of any byte, and beyond f16's precision.
        rows.mapv(|x| x * 5.3 + 0.061)
    };
    let as_f16 = fractional.mapv(f16::from_f32);
    for metric in METRICS {
        for base in DTYPES {
            for asked in
                [Rows::F32(fractional.clone()), Rows::F16(as_f16.clone()), queries(DType::U8), queries(DType::I8)]
            {
                let rows = clustered(base, 300, DIM, 2);
                check_all(&rows, &asked, metric, IndexParams::Vamana(vamana(24, 40, 5)), &[graph(300)]);
                check_all(&rows, &asked, metric, IndexParams::IvfPq(ivf_pq(8, 5)), &[lists(8, 300)]);
            }
        }
    }
}

#[test]
fn whole_numbers_in_f32_answer_as_bytes_do() {
    for kind in KINDS {
        let rows = clustered(DType::U8, N, DIM, 1);
        let index = build_index(&rows, Metric::L2, defaults(kind, &rows)).open(Residency::Memory);
        let bytes = queries(DType::U8);
        let floats = Rows::F32(bytes.view().to_f32());
        for query in 0..bytes.len() {
            let effort = if kind == IndexKind::Vamana { graph(20) } else { lists(4, 50) };
            assert_eq!(search(&index, &bytes, query, 10, effort), search(&index, &floats, query, 10, effort));
        }
    }
}

#[test]
fn lists_that_hold_fewer_rows_than_k_give_all_that_they_hold() {
    let rows = clustered(DType::F32, 200, DIM, 4);
    let index = build_index(&rows, Metric::L2, IndexParams::IvfPq(ivf_pq(100, 5))).open(Residency::Memory);
    let mut short = 0;
    for query in 0..rows.len() {
        let hits = search(&index, &rows, query, 50, lists(1, 50));
        let mut distinct = hits.ids.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(!hits.ids.is_empty() && distinct.len() == hits.ids.len() && hits.distances.len() == hits.ids.len());
        assert!(hits.distances[0] == 0.0 && hits.distances.is_sorted(), "query {query}: {:?}", hits.distances);
        short += usize::from(hits.ids.len() < 50);
    }
    assert!(short > 0, "no list was small");
}
