//! Graphs by their definitions: reverse edges, and greedy search.

use std::collections::BTreeSet;

use ndarray::{ArrayView1, ArrayView2};

use super::{distance, robust_prune};
use crate::adjacency::Adjacency;
use crate::backend::{Lists, PruneParams};
use crate::candidates::NO_ROW;
use crate::graph_search::GraphSearchParams;
use crate::metric::Metric;
use crate::reverse::{NAMED_BY, Pruned};
use crate::topk::Scored;

/// Each row's list with its reverse edges: its own and every so many-th that names it, so that at most 8 R do; of more
/// than R what robust prune keeps; then, while there is room, candidates that were not kept, and the rest of the union.
pub fn reverse_edges(metric: Metric, base: ArrayView2<'_, f32>, pruned: &Pruned, params: PruneParams) -> Lists<u32> {
    let (n, r) = (pruned.len() as u32, params.max_degree);
    let mut all = Lists::default();
    for row in 0..n {
        let named_by: Vec<u32> = (0..n).filter(|&other| pruned.kept(other).contains(&row)).collect();
        let step = named_by.len().div_ceil((NAMED_BY * r).max(1)).max(1);
        let mut union = pruned.kept(row).to_vec();
        for &source in named_by.iter().step_by(step) {
            if !pruned.kept(row).contains(&source) {
                union.push(source);
            }
        }
        let mut list = union.clone();
        if union.len() > r {
            let candidates = [union.clone()].into_iter().collect();
            list = robust_prune(metric, base, &[row], &candidates, params).get(0).to_vec();
        }
        for &id in pruned.others(row).iter().chain(&union) {
            if id != NO_ROW && list.len() < r && !list.contains(&id) {
                list.push(id);
            }
        }
        all.push(&list);
    }
    all
}

/// One greedy search: the `list_size` nearest rows of those seen when all of them are expanded, and how many were.
pub fn graph_search(
    metric: Metric,
    base: ArrayView2<'_, f32>,
    graph: &Adjacency,
    entries: &[u32],
    query: ArrayView1<'_, f32>,
    params: GraphSearchParams,
) -> (Vec<Scored>, u32) {
    let scored = |&id: &u32| Scored { distance: distance(metric, query, base.row(id as usize)) as f32, id };
    let mut seen: BTreeSet<Scored> = entries.iter().map(scored).collect();
    let mut expanded = BTreeSet::new();
    while let Some(next) = seen.iter().take(params.list_size).find(|row| !expanded.contains(&row.id)) {
        let id = next.id;
        expanded.insert(id);
        seen.extend(graph.neighbors(id).iter().map(scored));
    }
    (seen.into_iter().take(params.list_size).collect(), expanded.len() as u32)
}
