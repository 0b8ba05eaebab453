//! Reverse edges: every row is named by those it names, as far as both have room.
//!
//! In: pruned lists, and beside each the candidates it did not keep. Out: an [`Adjacency`] in which each list is the
//! union of the row's own edges and those that name it, pruned where it exceeds R, filled where it does not reach R.
//! [`reverse_edges`] serves every backend that can prune, and is the twin of those that do it all on their device; its
//! own twin is [`crate::plain::reverse_edges`].

use rayon::prelude::*;

use crate::adjacency::Adjacency;
use crate::backend::{Backend, BackendError, Lists, PruneParams};
use crate::candidates::{NO_ROW, PrunedRows};
use crate::checks::{check_ids, same_count};
use crate::progress::Progress;

const OPERATION: &str = "reverse edges";

/// Rows pruned at a time.
const BLOCK: usize = 1 << 14;

/// Rows naming one row that are considered at most, as a multiple of R; of more, every so many-th.
pub const NAMED_BY: usize = 8;

/// Pruned lists: `kept` edges first, then the nearest candidates not kept, `(n, R)`, padded by [`NO_ROW`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    max_degree: usize,
    edges: Vec<u32>,
    kept: Vec<u16>,
}

impl Pruned {
    /// `n` rows without edges.
    pub fn new(n: usize, max_degree: usize) -> Self {
        let mut pruned = Self::in_order(n, max_degree);
        pruned.complete();
        pruned
    }

    /// `n` rows to be written in order, and [completed](Self::complete) at last. Their memory is taken as they come: that
    /// of their candidates goes meanwhile.
    pub(crate) fn in_order(n: usize, max_degree: usize) -> Self {
        Self { max_degree, edges: Vec::with_capacity(n * max_degree), kept: vec![0; n] }
    }

    /// Rows that were not written have no edges.
    pub(crate) fn complete(&mut self) {
        self.edges.resize(self.kept.len() * self.max_degree, NO_ROW);
    }

    /// Writes pruned rows.
    pub fn set_rows(&mut self, rows: &PrunedRows) {
        let (first, r) = (rows.first_row as usize, self.max_degree);
        if first * r == self.edges.len() {
            self.edges.extend_from_slice(&rows.edges);
        } else {
            self.edges[first * r..][..rows.edges.len()].copy_from_slice(&rows.edges);
        }
        self.kept[first..][..rows.kept.len()].copy_from_slice(&rows.kept);
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// R.
    pub fn max_degree(&self) -> usize {
        self.max_degree
    }

    /// The edges kept of a row.
    pub fn kept(&self, row: u32) -> &[u32] {
        &self.edges[row as usize * self.max_degree..][..usize::from(self.kept[row as usize])]
    }

    /// The nearest candidates that a row did not keep, padded by [`NO_ROW`].
    pub fn others(&self, row: u32) -> &[u32] {
        &self.edges[row as usize * self.max_degree..][usize::from(self.kept[row as usize])..self.max_degree]
    }

    /// All edges `(n, R)`, and how many of each row are kept `(n)`.
    pub(crate) fn parts(&self) -> (&[u32], &[u16]) {
        (&self.edges, &self.kept)
    }

    /// That these are lists of `n` rows, by numbers of such, as `params` pruned them.
    pub(crate) fn check(&self, n: usize, params: PruneParams) -> Result<(), BackendError> {
        same_count(OPERATION, "pruned list", self.len(), "row", n)?;
        same_count(OPERATION, "place", self.max_degree, "edge kept at most", params.max_degree)?;
        let all = 0..n as u32;
        let kept = |row: u32| check_ids(OPERATION, self.kept(row).iter().copied(), n).err();
        let others = |row: u32| {
            let others = self.others(row).iter().copied();
            check_ids(OPERATION, others.filter(|&id| id != NO_ROW), n).err()
        };
        all.into_par_iter().find_map_first(|row| kept(row).or_else(|| others(row))).map_or(Ok(()), Err)
    }
}

/// The rows that name each row, ascending: the transposed graph.
pub fn transposed<'a>(n: usize, edges: impl Fn(u32) -> &'a [u32]) -> Lists<u32> {
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

/// The graph of the pruned lists and their reverse edges, pruned by `backend`, on which `rows` are resident.
///
/// # Errors
/// Whatever pruning comes to.
pub fn reverse_edges<B: Backend>(
    backend: &B,
    rows: &B::Rows,
    pruned: &Pruned,
    params: PruneParams,
    progress: &dyn Progress,
) -> Result<Adjacency, BackendError> {
    let (n, r) = (pruned.len(), pruned.max_degree);
    pruned.check(n, params)?;
    let named_by = transposed(n, |row| pruned.kept(row));
    let mut graph = Adjacency { max_degree: r, edges: Vec::with_capacity(n * r), degrees: Vec::with_capacity(n) };
    let all: Vec<u32> = (0..n as u32).collect();
    for block in all.chunks(BLOCK) {
        let unions: Vec<Vec<u32>> =
            block.par_iter().map(|&row| union(pruned.kept(row), named_by.get(row as usize), r)).collect();
        let (mut crowded, mut candidates) = (Vec::new(), Lists::default());
        for (&row, union) in block.iter().zip(&unions).filter(|(_, union)| union.len() > r) {
            crowded.push(row);
            candidates.push(union);
        }
        let kept = backend.robust_prune(rows, &crowded, &candidates, params)?;
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
            filled(&mut list, pruned.others(row), union, r);
            graph.push(&list);
        }
        progress.advance(block.len() as u64);
    }
    Ok(graph)
}

/// A row's own edges and the rows that name it, ascending, of which a multiple of `max_degree` are considered at most.
pub fn union(own: &[u32], named_by: &[u32], max_degree: usize) -> Vec<u32> {
    let step = named_by.len().div_ceil((NAMED_BY * max_degree).max(1)).max(1);
    let others = named_by.iter().step_by(step).filter(|source| !own.contains(source));
    own.iter().chain(others).copied().collect()
}

/// Fills a list up to `max_degree` by what pruning left over, then by what the union holds.
pub fn filled(list: &mut Vec<u32>, left_over: &[u32], union: &[u32], max_degree: usize) {
    for &id in left_over.iter().chain(union).filter(|&&id| id != NO_ROW) {
        if list.len() == max_degree {
            break;
        }
        if !list.contains(&id) {
            list.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_graph_names_in_ascending_order() {
        let edges: [&[u32]; 4] = [&[3, 1], &[], &[1, 3, 0], &[1]];
        let named_by = transposed(4, |row| edges[row as usize]);
        assert_eq!(named_by, [vec![2], vec![0, 2, 3], vec![], vec![0, 2]].into_iter().collect());
        assert!(transposed(0, |_| &[]).is_empty());
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let params = PruneParams { max_degree: 2, alpha: 1.2 };
        let mut pruned = Pruned::new(3, 2);
        assert!(pruned.check(3, params).is_ok());
        assert!(pruned.check(4, params).is_err());
        assert!(pruned.check(3, PruneParams { max_degree: 3, ..params }).is_err());
        pruned.set_rows(&PrunedRows { first_row: 1, edges: vec![0, 3], kept: vec![1] });
        let error = pruned.check(3, params).unwrap_err().to_string();
        assert_eq!(error, "reverse edges: row numbers below 3, got 3");
        pruned.set_rows(&PrunedRows { first_row: 1, edges: vec![0, NO_ROW], kept: vec![2] });
        assert!(pruned.check(3, params).is_err(), "a kept edge is a row");
    }
}
