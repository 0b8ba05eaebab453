//! A graph of bounded degree, as backends make it and walk it.

use rayon::prelude::*;

use crate::backend::BackendError;
use crate::candidates::NO_ROW;

/// Out-edges of every row, at most `max_degree` each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjacency {
    /// Places a row.
    pub max_degree: usize,
    /// Row numbers `(n, max_degree)`; those behind a row's degree mean nothing, and backends pad them by [`NO_ROW`].
    pub edges: Vec<u32>,
    /// Edges of each row, `(n)`.
    pub degrees: Vec<u32>,
}

impl Adjacency {
    /// No rows as yet, each with room for `max_degree` edges.
    pub fn new(max_degree: usize) -> Self {
        Self { max_degree, edges: Vec::new(), degrees: Vec::new() }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.degrees.len()
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.degrees.is_empty()
    }

    /// The edges of a row.
    pub fn neighbors(&self, row: u32) -> &[u32] {
        &self.edges[row as usize * self.max_degree..][..self.degrees[row as usize] as usize]
    }

    /// Appends a row.
    ///
    /// # Panics
    /// When it has more than `max_degree` edges.
    pub fn push(&mut self, edges: &[u32]) {
        assert!(edges.len() <= self.max_degree, "{} edges, where {} have room", edges.len(), self.max_degree);
        self.edges.extend_from_slice(edges);
        self.edges.resize((self.degrees.len() + 1) * self.max_degree, NO_ROW);
        self.degrees.push(edges.len() as u32);
    }

    /// That it is a graph of `n` rows: lengths, degrees and row numbers.
    pub(crate) fn check(&self, operation: &'static str, n: usize) -> Result<(), BackendError> {
        let shape = |expected: String, got: String| Err(BackendError::Shape { operation, expected, got });
        if self.degrees.len() != n || self.edges.len() != n * self.max_degree {
            let got = format!("{} rows with {} places", self.degrees.len(), self.edges.len());
            return shape(format!("a graph of {n} rows of {} places", self.max_degree), got);
        }
        if let Some(degree) = self.degrees.iter().find(|&&degree| degree as usize > self.max_degree) {
            return shape(format!("degrees up to {}", self.max_degree), degree.to_string());
        }
        let beyond = |row: u32| self.neighbors(row).iter().copied().find(|&id| id as usize >= n);
        match (0..n as u32).into_par_iter().find_map_first(beyond) {
            Some(id) => shape(format!("row numbers below {n}"), id.to_string()),
            None => Ok(()),
        }
    }
}
