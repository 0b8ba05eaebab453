//! A graph index on a device: large batches of queries, as evaluation has them, answered there.
//!
//! In: a [`Searcher`] over a graph in memory, and a [`Backend`]. Out: the answers of a search by exact distances
//! ([`Navigate::Exact`](crate::Navigate)): of integers under L2 the same ids, of others up to near-ties that round another
//! way. Vectors and edges become resident once; a call brings queries there and answers back.

use std::sync::Arc;
use std::time::Duration;

use kiln_kernels::{Backend, DType, Element, GraphSearchParams, Lists, ResidentGraph, Rows, RowsView, Scored};
use rayon::prelude::*;

use crate::error::BuilderError;
use crate::file::pages::PageCache;
use crate::search_types::{Hits, QueryStats};
use crate::searcher::Searcher;

/// Vectors of an index on a device, and its edges.
pub struct DeviceGraph<'a, B: Backend> {
    searcher: &'a Searcher,
    backend: &'a B,
    rows: B::Rows,
    graph: ResidentGraph,
    entry: u32,
}

/// A batch of queries, answered.
#[derive(Debug, Clone, Default)]
pub struct DeviceAnswers {
    /// What was found for each query.
    pub hits: Vec<Hits>,
    /// What the walks alone took, without the way there and back; `None` where the host had a part in them.
    pub on_device: Option<Duration>,
}

impl<'a, B: Backend> DeviceGraph<'a, B> {
    /// Brings the vectors and edges of `searcher` to the device, in the order of the file.
    ///
    /// # Errors
    /// An index that is no graph or not in memory, or a device that fails.
    pub fn open(searcher: &'a Searcher, backend: &'a B) -> Result<Self, BuilderError> {
        let (graph, entry) = searcher.graph()?;
        let (n, dim, dtype) = (graph.len(), searcher.dim(), searcher.dtype());
        let width = dim * dtype.bytes();
        let (mut bytes, mut cache) = (Vec::with_capacity(n * width), PageCache::default());
        for position in 0..n as u32 {
            bytes.extend_from_slice(&searcher.record_at(position, &mut cache)?[..width]);
        }
        let rows = Rows::from_bytes(dtype, n, dim, &bytes).expect("records are of that many bytes");
        drop(bytes);
        let rows = backend.upload(Arc::new(rows), searcher.metric())?;
        let graph = backend.upload_graph(Arc::new(graph))?;
        Ok(Self { searcher, backend, rows, graph, entry })
    }

    /// The `k` nearest rows of each of `queries` `(queries, dim)` that a walk with a list of `search_list`, or k, finds.
    ///
    /// # Errors
    /// Queries that do not fit the index, k = 0, or a device that fails.
    pub fn search(&self, queries: &RowsView<'_>, k: usize, search_list: usize) -> Result<DeviceAnswers, BuilderError> {
        if k == 0 {
            return Err(BuilderError::Parameter { name: "k", value: "0".into(), allowed: "1 or more".into() });
        }
        if queries.dim() != self.searcher.dim() {
            return Err(BuilderError::Mismatch(format!(
                "queries of {} coordinates against an index of {}: use queries of the same data set",
                queries.dim(),
                self.searcher.dim()
            )));
        }
        if let Some((query, coordinate)) = queries.first_nonfinite() {
            return Err(BuilderError::Mismatch(format!(
                "query {query}: coordinate {coordinate} is not finite: remove that query"
            )));
        }
        let list_size = search_list.max(k).min(self.graph.host().len());
        let asked = self.backend.upload(Arc::new(as_stored(queries, self.searcher.dtype())), self.searcher.metric())?;
        let entries: Lists<u32> = (0..queries.len()).map(|_| vec![self.entry]).collect();
        // All of a list, for ties go to the lower row of the data set, which only its order here decides.
        let params = GraphSearchParams { list_size, k: list_size };
        let found = self.backend.graph_search(&self.rows, &self.graph, &entries, &asked, params)?;
        let answer = |query: usize| {
            let ids = found.neighbors.ids.row(query);
            let mut nearest: Vec<Scored> = (ids.iter().zip(found.neighbors.distances.row(query)))
                .take_while(|(id, _)| **id != kiln_kernels::PAD_ID)
                .map(|(&position, &distance)| Scored { distance, id: self.searcher.row_at(position) as u32 })
                .collect();
            nearest.sort_unstable();
            nearest.truncate(k);
            Hits {
                ids: nearest.iter().map(|hit| u64::from(hit.id)).collect(),
                distances: nearest.iter().map(|hit| self.searcher.metric().reported(hit.distance)).collect(),
                // A device keeps no count of distances.
                stats: QueryStats { hops: u64::from(found.expanded[query]), ..QueryStats::default() },
            }
        };
        let hits = (0..queries.len()).into_par_iter().map(answer).collect();
        Ok(DeviceAnswers { hits, on_device: found.on_device })
    }

    /// What answers, in words: where one device has failed, the next.
    pub fn device(&self) -> String {
        self.backend.describe()
    }
}

/// Queries in the type of the index where that holds them exactly, for bytes are compared exactly; others as they are.
fn as_stored(queries: &RowsView<'_>, dtype: DType) -> Rows {
    let narrowed = match dtype {
        DType::U8 if queries.dtype() != dtype => narrow(queries, |x| x as u8),
        DType::I8 if queries.dtype() != dtype => narrow(queries, |x| x as i8),
        _ => None,
    };
    narrowed.unwrap_or_else(|| queries.to_rows())
}

/// The values as bytes, if every one is held exactly (`as` saturates, so a value out of range differs).
fn narrow<T: Element>(queries: &RowsView<'_>, cast: impl Fn(f32) -> T) -> Option<Rows> {
    let values = queries.to_f32();
    values.iter().all(|&x| cast(x).to_f32() == x).then(|| T::into_rows(values.mapv(cast)))
}
