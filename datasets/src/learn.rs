//! What the files of VIBE hold beside base, queries and truth.
//!
//! VIBE (Jaasaari et al., "VIBE: Vector Index Benchmark for Embeddings", 2025) adds to the layout of ann-benchmarks
//!
//! | matrix | shape | what |
//! |---|---|---|
//! | `avg_distances` | (queries) | mean distance of each query of `test` to all base rows |
//! | `learn` | (n, dim) | further rows from where the queries come from, for indexes that learn from queries |
//! | `learn_neighbors` | (n, depth) | the nearest base rows of each |
//!
//! In: a file. Out: a [`Learning`], each part of which may be missing.

use std::path::Path;

use ndarray::Array2;

use crate::error::DatasetError;
use crate::format::Format;
use crate::hdf5_file::Hdf5File;
use crate::source::RowSource;

/// What an index may learn from, and what the file says of how far its queries lie.
#[derive(Default)]
pub struct Learning {
    /// Rows of the queries' distribution, `(n, dim)`, of the base's dimension.
    pub rows: Option<Box<dyn RowSource>>,
    /// Their nearest base rows `(n, depth)`.
    pub neighbors: Option<Array2<i64>>,
    /// The mean distance of each query to all base rows, as the file states it.
    pub avg_distances: Option<Vec<f64>>,
}

impl std::fmt::Debug for Learning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Learning")
            .field("rows", &self.rows.as_ref().map(|rows| (rows.len(), rows.dim())))
            .field("neighbors", &self.neighbors.as_ref().map(Array2::dim))
            .field("avg_distances", &self.avg_distances.as_ref().map(Vec::len))
            .finish()
    }
}

impl Learning {
    /// Reads these parts of the file at `path`; of a file that is not HDF5, or has none of them, nothing.
    ///
    /// # Errors
    /// When a part is malformed, or does not fit the others: rows of another dimension than the base's, neighbours of
    /// another number of rows, or beyond the base.
    pub fn open(path: &Path) -> Result<Self, DatasetError> {
        if Format::guess(path) != Some(Format::Hdf5) {
            return Ok(Self::default());
        }
        let file = Hdf5File::open(path)?;
        let mut found = Self::default();
        if file.holds("avg_distances") {
            let distances = file.numbers("avg_distances")?;
            let queries = if file.holds("test") { file.rows("test")?.len() } else { 0 };
            if distances.len() as u64 != queries {
                let problem = format!("it has {queries} queries, but `avg_distances` of {}", distances.len());
                return Err(DatasetError::invalid(path, problem, AGAIN));
            }
            found.avg_distances = Some(distances);
        }
        if !file.holds("learn") {
            return Ok(found);
        }
        let (base, rows) = (file.rows("train")?, file.rows("learn")?);
        if rows.dim() != base.dim() {
            let problem = format!("its rows have {} coordinates, but those of `learn` {}", base.dim(), rows.dim());
            return Err(DatasetError::invalid(path, problem, AGAIN));
        }
        if file.holds("learn_neighbors") {
            let ids = file.ids("learn_neighbors")?;
            if ids.nrows() as u64 != rows.len() {
                let problem = format!("`learn` has {} rows, but `learn_neighbors` {}", rows.len(), ids.nrows());
                return Err(DatasetError::invalid(path, problem, AGAIN));
            }
            let foreign =
                ids.indexed_iter().find(|&(_, &id)| u64::try_from(id).map_or(id != -1, |id| id >= base.len()));
            if let Some(((row, rank), id)) = foreign {
                let problem =
                    format!("`learn_neighbors` row {row}, rank {rank} is {id}, but the base has {} rows", base.len());
                return Err(DatasetError::invalid(path, problem, AGAIN));
            }
            found.neighbors = Some(ids);
        }
        found.rows = Some(Box::new(rows));
        Ok(found)
    }
}

const AGAIN: &str = "fetch the file again, or leave that matrix out of it";
