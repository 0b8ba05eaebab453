//! What cannot be built or searched is refused with a typed error that says what to do.

use crate::common::*;
use kiln_builder::{BuilderError, Effort, IndexKind, IndexParams, Residency, SearchParams, Searcher};
use kiln_kernels::{DType, Metric, Rows};
use ndarray::Array2;

const N: usize = 100;
const DIM: usize = 6;

fn rows() -> Rows {
    clustered(DType::F32, N, DIM, 1)
}

fn both(mut check: impl FnMut(Searcher)) {
    for kind in KINDS {
        let built = build_index(&rows(), Metric::L2, defaults(kind, &rows()));
        for residency in [Residency::Memory, Residency::Ssd] {
            check(built.open(residency));
        }
    }
}

fn refusal(index: &Searcher, query: &Rows, k: usize, effort: Effort) -> BuilderError {
    let answered = index.search(&query.view(), &SearchParams { k, effort });
    let error = answered.expect_err("refused");
    // A search that was refused costs the next one nothing.
    let hits = search(index, &rows(), 0, 3, everything(index.kind(), N));
    assert_eq!(hits.distances[0], 0.0);
    error
}

fn some_effort(kind: IndexKind) -> Effort {
    Effort::default_for(kind, 10)
}

#[test]
fn no_neighbours_at_all_are_refused() {
    both(|index| {
        let error = refusal(&index, &made(1, DIM, |_, _| 0.0), 0, some_effort(index.kind()));
        assert!(matches!(error, BuilderError::Parameter { name: "k", .. }), "{error:?}");
        assert_eq!(error.to_string(), "--k 0 is out of range: allowed is 1 or more");
    });
}

#[test]
fn a_query_of_another_dimension_is_refused() {
    both(|index| {
        for dim in [1, DIM - 1, DIM + 1, 1000] {
            let error = refusal(&index, &made(1, dim, |_, _| 0.0), 1, some_effort(index.kind()));
            assert!(matches!(error, BuilderError::Mismatch(_)), "{error:?}");
            let message = error.to_string();
            assert!(message.contains(&format!("{dim} coordinates")) && message.contains("of 6"), "{message}");
        }
    });
}

#[test]
fn a_query_that_is_not_finite_is_refused() {
    both(|index| {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let query = made(1, DIM, |_, j| if j == 4 { value } else { 1.0 });
            let error = refusal(&index, &query, 1, some_effort(index.kind()));
            assert!(matches!(error, BuilderError::Mismatch(_)), "{error:?}");
            assert!(error.to_string().contains("coordinate 4 is not finite"), "{error}");
        }
    });
}

#[test]
fn an_effort_of_the_other_kind_is_refused() {
    both(|index| {
        let (effort, right) = match index.kind() {
            IndexKind::Vamana => (lists(4, 10), "--search-list"),
            IndexKind::IvfPq => (graph(10), "--nprobe"),
        };
        let error = refusal(&index, &made(1, DIM, |_, _| 0.0), 1, effort);
        assert!(matches!(error, BuilderError::Mismatch(_)), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("x.kiln") && message.contains(&format!("takes {right}")), "{message}");
    });
}

#[test]
fn efforts_beyond_the_index_ask_for_all_of_it() {
    both(|index| {
        let huge = match index.kind() {
            IndexKind::Vamana => vec![graph(usize::MAX), by_codes(usize::MAX)],
            IndexKind::IvfPq => vec![lists(usize::MAX, usize::MAX), lists(usize::MAX, N)],
        };
        for effort in huge {
            let hits = search(&index, &rows(), 3, N, effort);
            BruteForce::new(&rows(), Metric::L2).check(&rows(), 3, N, &hits, "all of it");
            let more = search(&index, &rows(), 3, usize::MAX, effort);
            assert_eq!(timeless(&more), timeless(&hits), "{effort:?}");
        }
        // None at all is taken as the least that k allows.
        let none = if index.kind() == IndexKind::Vamana { graph(0) } else { lists(0, 0) };
        assert_eq!(search(&index, &rows(), 3, 1, none).ids.len(), 1);
    });
}

#[test]
fn no_rows_are_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for kind in KINDS {
        for (n, dim) in [(0, 4), (0, 0), (3, 0)] {
            let rows = Rows::F32(Array2::zeros((n, dim)));
            let params = IndexParams::defaults(kind, n as u64, dim);
            let error = try_build(&rows, Metric::L2, params, &folder.path().join("x.kiln")).expect_err("no rows");
            assert!(matches!(error, BuilderError::Mismatch(_)), "{error:?}");
            let message = error.to_string();
            assert!(message.contains("made-up rows") && message.contains(&format!("{n} rows of {dim}")), "{message}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
}

#[test]
fn parameters_out_of_range_are_named_with_what_is_allowed() {
    let graph = |change: fn(&mut kiln_builder::VamanaParams)| {
        let mut params = vamana(32, 64, 2);
        change(&mut params);
        IndexParams::Vamana(params)
    };
    let lists = |change: fn(&mut kiln_builder::IvfPqParams)| {
        let mut params = ivf_pq(8, 2);
        change(&mut params);
        IndexParams::IvfPq(params)
    };
    let cases = [
        (graph(|p| p.max_degree = 0), "max-degree", "2 to 4096"),
        (graph(|p| p.max_degree = 1), "max-degree", "2 to 4096"),
        (graph(|p| p.max_degree = 4097), "max-degree", "2 to 4096"),
        (graph(|p| p.build_list = 0), "build-list", "1 to 65536"),
        (graph(|p| p.build_list = 65537), "build-list", "1 to 65536"),
        (graph(|p| p.alpha = 0.99), "alpha", "1"),
        (graph(|p| p.alpha = f64::NAN), "alpha", "1"),
        (graph(|p| p.alpha = f64::INFINITY), "alpha", "1"),
        (graph(|p| p.m = 0), "m", "1 to the dimension, 6"),
        (graph(|p| p.m = DIM + 1), "m", "1 to the dimension, 6"),
        (lists(|p| p.nlist = 0), "nlist", "1 to 16777216"),
        (lists(|p| p.nlist = usize::MAX), "nlist", "1 to 16777216"),
        (lists(|p| p.m = 0), "m", "1 to the dimension, 6"),
        (lists(|p| p.m = DIM + 1), "m", "1 to the dimension, 6"),
    ];
    let folder = tempfile::tempdir().expect("temporary folder");
    for (params, name, allowed) in cases {
        let error = try_build(&rows(), Metric::L2, params, &folder.path().join("x.kiln")).expect_err(name);
        let BuilderError::Parameter { name: named, .. } = &error else { panic!("{error:?}") };
        let message = error.to_string();
        assert!(*named == name && message.contains(&format!("--{name} ")) && message.contains(allowed), "{message}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
}
