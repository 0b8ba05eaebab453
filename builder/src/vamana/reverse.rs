//! Reverse edges: every row is named by those it names, as far as both have room.
//!
//! In: pruned lists, and beside each the candidates it did not keep. Out: a [`Graph`] in which each list is the union of
//! the row's own edges and those that name it, pruned where it exceeds R, filled where it does not reach R.

use kiln_kernels::candidates::NO_ROW;
use kiln_kernels::{Backend, Lists, Progress, PruneParams, PrunedRows};
use rayon::prelude::*;

use super::Graph;
use crate::error::BuilderError;

/// Rows pruned at a time.
const BLOCK: usize = 1 << 14;

/// Rows naming one row that are considered at most, as a multiple of R; of more, every so many-th.
const NAMED_BY: usize = 8;

/// Pruned lists: `kept` edges first, then the nearest candidates not kept, `(n, R)`, padded by [`NO_ROW`].
pub(super) struct Pruned {
    max_degree: usize,
    edges: Vec<u32>,
    kept: Vec<u16>,
}

impl Pruned {
    pub(super) fn new(n: usize, max_degree: usize) -> Self {
        Self { max_degree, edges: vec![0; n * max_degree], kept: vec![0; n] }
    }

    /// Writes pruned rows.
    pub(super) fn set_rows(&mut self, rows: &PrunedRows) {
        let (first, r) = (rows.first_row as usize, self.max_degree);
        self.edges[first * r..][..rows.edges.len()].copy_from_slice(&rows.edges);
        self.kept[first..][..rows.kept.len()].copy_from_slice(&rows.kept);
    }

    fn kept(&self, row: u32) -> &[u32] {
        &self.edges[row as usize * self.max_degree..][..usize::from(self.kept[row as usize])]
    }

    fn others(&self, row: u32) -> &[u32] {
        &self.edges[row as usize * self.max_degree..][usize::from(self.kept[row as usize])..self.max_degree]
    }
}

/// The rows that name each row, ascending: the transposed graph.
pub(super) fn transposed<'a>(n: usize, edges: impl Fn(u32) -> &'a [u32]) -> Lists<u32> {
    let mut offsets = vec![0usize; n + 1];
    for row in 0..n as u32 {
        edges(row).iter().for_each(|&to| offsets[to as usize + 1] += 1);
    }
    for i in 1..offsets.len() {
        offsets[i] += offsets[i - 1];
    }
    let mut items = vec![0u32; offsets[n]];
    // Each offset moves to its list's end, which is where the next began.
    for row in 0..n as u32 {
        for &to in edges(row) {
            items[offsets[to as usize]] = row;
            offsets[to as usize] += 1;
        }
    }
    offsets.rotate_right(1);
    offsets[0] = 0;
    Lists { offsets, items }
}

/// The graph of the pruned lists and their reverse edges.
pub(super) fn with_reverse_edges<B: Backend>(
    backend: &B,
    resident: &B::Rows,
    pruned: Pruned,
    entry: u32,
    params: PruneParams,
    progress: &dyn Progress,
) -> Result<Graph, BuilderError> {
    let (n, r) = (pruned.kept.len(), pruned.max_degree);
    let named_by = transposed(n, |row| pruned.kept(row));
    let mut graph = Graph::new(n, r, entry);
    let rows: Vec<u32> = (0..n as u32).collect();
    for block in rows.chunks(BLOCK) {
        let unions: Vec<Vec<u32>> = block.par_iter().map(|&row| union(&pruned, &named_by, row)).collect();
        let (mut crowded, mut candidates) = (Vec::new(), Lists::default());
        for (&row, union) in block.iter().zip(&unions).filter(|(_, union)| union.len() > r) {
            crowded.push(row);
            candidates.push(union);
        }
        let kept = backend.robust_prune(resident, &crowded, &candidates, params)?;
        let mut next = 0;
        let mut list = Vec::with_capacity(2 * r);
        for (&row, union) in block.iter().zip(&unions) {
            list.clear();
            if union.len() > r {
                list.extend_from_slice(kept.get(next));
                next += 1;
            } else {
                list.extend_from_slice(union);
            }
            let fill = pruned.others(row).iter().chain(union);
            for &id in fill.filter(|&&id| id != NO_ROW) {
                if list.len() == r {
                    break;
                }
                if !list.contains(&id) {
                    list.push(id);
                }
            }
            graph.set(row, &list);
        }
        progress.advance(block.len() as u64);
    }
    Ok(graph)
}

/// A row's own edges and the rows that name it.
fn union(pruned: &Pruned, named_by: &Lists<u32>, row: u32) -> Vec<u32> {
    let (own, named_by) = (pruned.kept(row), named_by.get(row as usize));
    let step = named_by.len().div_ceil(NAMED_BY * pruned.max_degree).max(1);
    let others = named_by.iter().step_by(step).filter(|source| !own.contains(source));
    own.iter().chain(others).copied().collect()
}
