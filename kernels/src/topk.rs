//! The k smallest under the total order (distance, id), which makes every answer deterministic.

use std::cmp::Ordering;

use ndarray::Array2;

/// The id that pads an answer when fewer than k rows exist.
pub const PAD_ID: u32 = u32::MAX;

/// A row at a distance, ordered by (distance, id). Distances are never NaN: inputs are checked finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Ordering distance (see [`Metric`](crate::Metric)).
    pub distance: f32,
    /// Row number.
    pub id: u32,
}

impl Eq for Scored {}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scored {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.id.cmp(&other.id))
    }
}

/// Keeps the `k` smallest of a stream of [`Scored`].
#[derive(Debug, Clone)]
pub struct TopK {
    k: usize,
    heap: std::collections::BinaryHeap<Scored>,
}

impl TopK {
    /// An empty selection of at most `k`.
    pub fn new(k: usize) -> Self {
        Self { k, heap: std::collections::BinaryHeap::with_capacity(k + 1) }
    }

    /// The largest distance that could still enter: infinite until k are held.
    #[inline]
    pub fn bound(&self) -> f32 {
        if self.heap.len() < self.k {
            f32::INFINITY
        } else {
            self.heap.peek().map_or(f32::NEG_INFINITY, |worst| worst.distance)
        }
    }

    /// Offers a row; true when it is among the k smallest so far.
    #[inline]
    pub fn push(&mut self, candidate: Scored) -> bool {
        if self.heap.len() < self.k {
            self.heap.push(candidate);
            return true;
        }
        match self.heap.peek_mut() {
            Some(mut worst) if candidate < *worst => {
                *worst = candidate;
                true
            }
            _ => false,
        }
    }

    /// The selection in ascending order; the selection is left empty for reuse.
    pub fn drain_sorted(&mut self) -> Vec<Scored> {
        let mut sorted = std::mem::take(&mut self.heap).into_vec();
        sorted.sort_unstable();
        sorted
    }
}

/// The nearest rows of each query, ascending by (distance, id).
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbors {
    /// Row numbers `(queries, k)`, padded by [`PAD_ID`].
    pub ids: Array2<u32>,
    /// Ordering distances `(queries, k)`, padded by infinity.
    pub distances: Array2<f32>,
}

impl Neighbors {
    /// An answer `(queries, k)` of padding only.
    pub fn padded(queries: usize, k: usize) -> Self {
        Self { ids: Array2::from_elem((queries, k), PAD_ID), distances: Array2::from_elem((queries, k), f32::INFINITY) }
    }

    /// Writes one query's sorted selection.
    pub fn set_row(&mut self, query: usize, sorted: &[Scored]) {
        for (rank, hit) in sorted.iter().enumerate() {
            self.ids[(query, rank)] = hit.id;
            self.distances[(query, rank)] = hit.distance;
        }
    }
}
