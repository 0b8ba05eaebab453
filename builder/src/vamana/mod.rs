//! Vamana: building the graph, laying it out in pages, and walking it.

pub(crate) mod build;
mod codes;
#[cfg(test)]
mod drive_tests;
mod drivers;
mod entry;
pub(crate) mod external;
pub(crate) mod insert;
mod nodes;
pub(crate) mod order;
mod page_views;
mod page_walk;
pub(crate) mod partition;
mod pinned;
mod pool;
mod refine;
pub(crate) mod repair;
pub(crate) mod saturate;
pub(crate) mod search;
mod search_drive;
pub(crate) mod split;
mod views;
pub(crate) mod walk;

use kiln_kernels::Adjacency;

/// Out-edges of every row, nearest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Graph {
    /// Row where every search starts.
    pub entry: u32,
    /// Most edges that a row may hold.
    capacity: usize,
    /// `(n, capacity)` flat; row `i` uses the first `degrees[i]`.
    edges: Vec<u32>,
    degrees: Vec<u32>,
}

impl Graph {
    /// `n` rows without edges.
    pub(crate) fn new(n: usize, capacity: usize, entry: u32) -> Self {
        Self { entry, capacity, edges: vec![0; n * capacity], degrees: vec![0; n] }
    }

    /// The graph that a backend made.
    pub(crate) fn of(adjacency: Adjacency, entry: u32) -> Self {
        let Adjacency { max_degree, edges, degrees } = adjacency;
        Self { entry, capacity: max_degree, edges, degrees }
    }

    pub(crate) fn len(&self) -> usize {
        self.degrees.len()
    }

    pub(crate) fn neighbors(&self, row: u32) -> &[u32] {
        let start = row as usize * self.capacity;
        &self.edges[start..start + self.degrees[row as usize] as usize]
    }

    /// Replaces a row's edges by `edges`, at most `capacity` of them.
    pub(crate) fn set(&mut self, row: u32, edges: &[u32]) {
        let start = row as usize * self.capacity;
        self.edges[start..start + edges.len()].copy_from_slice(edges);
        self.degrees[row as usize] = edges.len() as u32;
    }

    pub(crate) fn push(&mut self, row: u32, edge: u32) {
        let degree = &mut self.degrees[row as usize];
        self.edges[row as usize * self.capacity + *degree as usize] = edge;
        *degree += 1;
    }
}

/// One mark a row.
#[derive(Debug, Clone)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    /// `n` rows without marks.
    pub(crate) fn new(n: usize) -> Self {
        Self(vec![0; n.div_ceil(64)])
    }

    #[inline(always)]
    pub(crate) fn get(&self, row: u32) -> bool {
        self.0[row as usize / 64] >> (row % 64) & 1 == 1
    }

    /// Marks a row; whether it was marked before.
    #[inline(always)]
    pub(crate) fn set(&mut self, row: u32) -> bool {
        let (word, mark) = (&mut self.0[row as usize / 64], 1 << (row % 64));
        let before = *word & mark != 0;
        *word |= mark;
        before
    }

    /// Takes a row's mark away; whether it had one.
    #[inline(always)]
    pub(crate) fn take(&mut self, row: u32) -> bool {
        let (word, mark) = (&mut self.0[row as usize / 64], 1 << (row % 64));
        let marked = *word & mark != 0;
        *word &= !mark;
        marked
    }
}
