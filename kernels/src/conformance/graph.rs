//! The stages that make graphs and walk them.

use std::sync::Arc;

use super::{assert_close, for_every_case, magnitude, random_rows};
use crate::adjacency::Adjacency;
use crate::backend::{Backend, Lists, PruneParams};
use crate::candidates::{NO_ROW, PrunedRows};
use crate::element::DType;
use crate::graph_search::GraphSearchParams;
use crate::metric::Metric;
use crate::plain;
use crate::progress::NoProgress;
use crate::reverse::Pruned;
use crate::topk::PAD_ID;

/// Share of float lists that must be the twin's: near-ties may swap.
const AGREE: f64 = 0.9;

/// Share of the rows that float walks find that must be the twin's: a near-tie may send a walk another way.
const WALKED: f64 = 0.95;

/// Pruned lists of `n` rows: some keep none; row 0 is named by most, far more than are considered; few rows are crowded.
fn some_pruned(n: usize, r: usize) -> Pruned {
    let mut pruned = Pruned::new(n, r);
    for row in 0..n {
        let mut list: Vec<u32> = Vec::new();
        let named = |j: usize| if j == 0 { 0 } else { ((row * 31 + j * j * 7 + j) % n.min(40)) as u32 };
        for id in (0..r).map(named) {
            if id as usize != row && !list.contains(&id) {
                list.push(id);
            }
        }
        let kept = list.len().min(row % (r + 1).min(5)) as u16;
        list.resize(r, NO_ROW);
        pruned.set_rows(&PrunedRows { first_row: row as u32, edges: list, kept: vec![kept] });
    }
    pruned
}

/// [`Backend::reverse_edges`]: lists without copies or the row itself, within R. Integers under L2 are exact.
pub fn reverse_edges<B: Backend>(backend: &B) {
    for_every_case(|metric, dtype, (_, n, dim, k)| {
        let context = format!("{metric} {dtype} {n}x{dim} R {k}");
        let base = Arc::new(random_rows(dtype, n, dim, 12));
        let params = PruneParams { max_degree: k.max(2), alpha: 1.2 };
        let pruned = some_pruned(n, params.max_degree);
        let expected = plain::reverse_edges(metric, base.view().to_f32().view(), &pruned, params);
        let resident = backend.upload(base, metric).expect("upload");
        let graph = backend.reverse_edges(&resident, &pruned, params, &NoProgress).expect("reverse edges");
        assert_eq!((graph.len(), graph.edges.len()), (n, n * params.max_degree), "{context}");
        let mut same = 0;
        for (row, expected) in (0..n as u32).zip(expected.iter()) {
            let list = graph.neighbors(row);
            let padding = &graph.edges[row as usize * params.max_degree..][list.len()..params.max_degree];
            assert!(padding.iter().all(|&id| id == NO_ROW), "{context}: {row}: {padding:?}");
            let distinct: std::collections::HashSet<&u32> = list.iter().collect();
            assert!(distinct.len() == list.len() && !distinct.contains(&row), "{context}: {row}: {list:?}");
            if dtype.is_integer() && metric == Metric::L2 {
                assert_eq!(list, expected, "{context}: {row}");
            }
            same += usize::from(list == expected);
        }
        assert!(same as f64 >= AGREE * n as f64, "{context}: {same} of {n} lists agree");
    });
}

/// A graph of `n` rows: degrees from 0 up, copies and the row itself among the edges, and rows that nothing names.
fn some_graph(n: usize, max_degree: usize) -> Adjacency {
    let mut graph = Adjacency::new(max_degree);
    for row in 0..n {
        let degree = if row % 5 == 4 { 0 } else { (row * 7) % (max_degree + 1) };
        // Near ones, far ones, and nothing in the last tenth, but by itself.
        let edge = |j: usize| match j % 3 {
            0 => (row + j / 3 + 1) % (n - n / 10),
            1 => (row * 17 + j * 101) % (n - n / 10),
            _ => [row, (row + 1) % (n - n / 10)][j % 2],
        };
        graph.push(&(0..degree).map(|j| edge(j) as u32).collect::<Vec<_>>());
    }
    graph
}

/// [`Backend::graph_search`]: every answer at its distance, in order, once. Integers (but under cosine) find and expand
/// what the twin does. Lists of one place, of few, and of more than there are rows; `k` beyond the list; queries that
/// start nowhere, at several rows, at one row twice; queries of another type than the base.
pub fn graph_search<B: Backend>(backend: &B) {
    for_every_case(|metric, dtype, (queries, n, dim, k)| {
        let queries = queries.min(9);
        let base = Arc::new(random_rows(dtype, n, dim, 13));
        let b = base.view().to_f32();
        let resident = backend.upload(base, metric).expect("upload base");
        let graph = Arc::new(some_graph(n, 11));
        let there = backend.upload_graph(Arc::clone(&graph)).expect("upload graph");
        let start = |query: usize| match query % 4 {
            0 => vec![(query * 13 % n) as u32],
            1 => vec![0, (n / 2) as u32, 0, (n - 1) as u32],
            2 => (0..n as u32).step_by(3).take(150).collect(),
            _ => vec![],
        };
        let entries: Lists<u32> = (0..queries).map(start).collect();
        for (query_dtype, list_size) in [(dtype, 1), (dtype, 12), (DType::F32, 12), (dtype, (n + 3).min(100))] {
            let context = format!("{metric} {dtype} {query_dtype} {queries}x{n}x{dim} k {k} L {list_size}");
            let queries = Arc::new(random_rows(query_dtype, queries, dim, 14));
            let q = queries.view().to_f32();
            let asked = backend.upload(queries, metric).expect("upload queries");
            let params = GraphSearchParams { list_size, k };
            let found = backend.graph_search(&resident, &there, &entries, &asked, params).expect("graph search");
            let exact = dtype.is_integer() && query_dtype == dtype && metric != Metric::Cosine;
            let scale = magnitude(metric, &q, &b);
            let (mut same, mut all) = (0usize, 0usize);
            for (query, start) in entries.iter().enumerate() {
                let (expected, expanded) = plain::graph_search(metric, b.view(), &graph, start, q.row(query), params);
                let ids = found.neighbors.ids.row(query).to_vec();
                let distances = found.neighbors.distances.row(query).to_vec();
                let count = ids.iter().position(|&id| id == PAD_ID).unwrap_or(k);
                for rank in 0..k {
                    if rank >= count {
                        assert_eq!((ids[rank], distances[rank]), (PAD_ID, f32::INFINITY), "{context}: padding");
                        continue;
                    }
                    let really = plain::distance(metric, q.row(query), b.row(ids[rank] as usize));
                    assert_close(distances[rank], really, scale, &context);
                    let before = rank > 0 && (distances[rank - 1], ids[rank - 1]) >= (distances[rank], ids[rank]);
                    assert!(!before, "{context}: query {query}: {ids:?} at {distances:?}");
                }
                let wanted: Vec<u32> = expected.iter().take(k).map(|row| row.id).collect();
                if exact {
                    assert_eq!((&ids[..count], found.expanded[query]), (&wanted[..], expanded), "{context}: {query}");
                }
                same += wanted.iter().filter(|id| ids[..count].contains(id)).count();
                all += wanted.len().max(count);
            }
            assert!(same as f64 >= WALKED * all as f64, "{context}: {same} of {all} rows are the twin's");
        }
    });
    refusals(backend);
}

/// Operands of a search that do not fit together are errors that say so.
fn refusals<B: Backend>(backend: &B) {
    let upload =
        |n: usize, dim: usize| backend.upload(Arc::new(random_rows(DType::U8, n, dim, 1)), Metric::L2).expect("upload");
    let (base, queries) = (upload(6, 4), upload(2, 4));
    let graph = some_graph(6, 3);
    let entries: Lists<u32> = [vec![0], vec![5]].into_iter().collect();
    let params = GraphSearchParams { list_size: 4, k: 2 };
    let search = |graph: &Adjacency, entries: &Lists<u32>, queries: &B::Rows| {
        let graph = backend.upload_graph(Arc::new(graph.clone()))?;
        backend.graph_search(&base, &graph, entries, queries, params).map(|found| found.expanded.len())
    };
    assert_eq!(search(&graph, &entries, &queries).expect("fits"), 2);
    let three: Lists<u32> = [vec![0], vec![1], vec![2]].into_iter().collect();
    assert!(search(&graph, &three, &queries).is_err(), "more entries than queries");
    let beyond: Lists<u32> = [vec![0], vec![6]].into_iter().collect();
    assert!(search(&graph, &beyond, &queries).is_err(), "an entry that is no row");
    assert!(search(&graph, &entries, &upload(2, 5)).is_err(), "another dimension");
    assert!(search(&some_graph(7, 3), &beyond, &queries).is_err(), "a graph of other rows");
    let mut wrong = graph.clone();
    (wrong.degrees[1], wrong.edges[3]) = (1, 6);
    assert!(search(&wrong, &entries, &queries).is_err(), "an edge to no row");
    let nothing = GraphSearchParams { list_size: 0, k: 2 };
    let graph = backend.upload_graph(Arc::new(graph)).expect("upload graph");
    let found = backend.graph_search(&base, &graph, &entries, &queries, nothing).expect("an empty list");
    assert!(found.neighbors.ids.iter().all(|&id| id == PAD_ID) && found.expanded == [0, 0], "{found:?}");
}
