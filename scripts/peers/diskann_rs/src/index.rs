//! Vamana in memory, of the crates `diskann` (the graph) and `diskann-inmem` (rows and lists of neighbours).

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use diskann::graph::config::{Builder, MaxDegree};
use diskann::graph::glue::PruneStrategy;
use diskann::graph::search::Knn;
use diskann::graph::search_output_buffer::IdDistance;
use diskann::graph::{AdjacencyList, DiskANNIndex, SearchOutputBuffer};
use diskann::provider::NeighborAccessor;
use diskann_inmem::repr::{Full, FullPrecision, full};
use diskann_inmem::{Context, Provider, Strategy, num};
use diskann_utils::sampling::medoid::ComputeMedoid;
use diskann_utils::views::rowmajor::{Matrix, Owned};
use diskann_vector::distance::Metric;
use tokio::runtime::{Builder as RuntimeBuilder, Runtime};

use crate::Result;
use crate::matrix::Rows;

pub trait Element: FullPrecision + ComputeMedoid {}

impl<T: FullPrecision + ComputeMedoid> Element for T {}

pub struct Building {
    pub max_degree: usize,
    pub search_list: usize,
    pub alpha: f32,
    pub threads: usize,
}

pub struct Searching {
    pub k: usize,
    pub search_list: usize,
}

pub struct Index<T: Element> {
    graph: DiskANNIndex<Provider<Full<T>, u32>>,
    rows: usize,
    dim: usize,
    runtime: Runtime, // of the thread that searches
}

impl<T: Element> Index<T> {
    /// Inserts the rows in their order, as the threads come to them. Searches will start at the medoid.
    pub fn build(base: &Rows<T>, building: &Building) -> Result<Self> {
        let metric = Metric::L2;
        let slack = MaxDegree::default_slack(); // lists may outgrow max_degree by 30% before they are pruned
        let mut config = Builder::new(building.max_degree, slack, building.search_list, metric.into());
        config.alpha(building.alpha);
        let config = config.build()?;

        let capacity = num::Capacity::new(base.nrows());
        let max_degree = num::MaxDegree::new(config.max_degree().get());
        let start = Owned::row_vector(T::compute_medoid(base.as_view()).into());
        let provider = Provider::new(full::Config::new(capacity, max_degree, metric, start)?)?;
        // Without the number of threads, scratch space would be allocated anew for every insertion and every query.
        let graph = DiskANNIndex::new(config, provider, NonZeroUsize::new(building.threads));

        let index = Self { graph, rows: base.nrows(), dim: base.ncols(), runtime: runtime()? };
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let insert = || index.insert(base, &next);
            let threads: Vec<_> = (0..building.threads).map(|_| scope.spawn(insert)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread that inserts panicked")?)
        })?;
        Ok(index)
    }

    /// Inserts rows until none is left that no other thread has taken.
    fn insert(&self, base: &Rows<T>, next: &AtomicUsize) -> Result<()> {
        runtime()?.block_on(async {
            loop {
                let row = next.fetch_add(1, Ordering::Relaxed);
                if row >= self.rows {
                    return Ok(());
                }
                self.graph.insert(&Strategy, &Context, &u32::try_from(row)?, base.row(row)).await?;
            }
        })
    }

    /// diskann-inmem does not save. In the format of DiskANN, whose C++ saves: degree and neighbours of every node in
    /// 4 bytes each, then the rows.
    pub fn bytes(&self) -> Result<usize> {
        let provider = self.graph.provider();
        let mut lists = Strategy.prune_accessor(provider, &Context, 0)?;
        let mut neighbours = AdjacencyList::new();
        let mut numbers = 0;
        for node in 0..=u32::try_from(self.rows)? {
            self.runtime.block_on(lists.get_neighbors(node, &mut neighbours))?; // the last is the start's
            numbers += 1 + neighbours.len();
        }
        Ok(numbers * size_of::<u32>() + (self.rows + 1) * self.dim * size_of::<T>())
    }

    /// Answers all queries, one after the other: `ids` (queries, k), -1 where fewer are found.
    pub fn search(&self, queries: &Rows<T>, searching: &Searching, ids: &mut [i32]) -> Result<()> {
        let knn = Knn::new_default(searching.search_list)?;
        let mut found = vec![0; searching.k];
        let mut distances = vec![0.0; searching.k];
        self.runtime.block_on(async {
            for (query, ids) in queries.rows().zip(ids.chunks_exact_mut(searching.k)) {
                let mut output = IdDistance::new(&mut found, &mut distances);
                self.graph.search(knn, &Strategy, &Context, query, &mut output).await?;
                let count = output.current_len(); // the statistics that come with an answer have one too few
                for (id, &found) in ids.iter_mut().zip(&found[..count]) {
                    *id = i32::try_from(found)?;
                }
            }
            Ok(())
        })
    }

    /// Microseconds of each of the first `count` queries.
    pub fn latencies(&self, queries: &Rows<T>, searching: &Searching, count: usize) -> Result<Vec<f64>> {
        let knn = Knn::new_default(searching.search_list)?;
        let mut found = vec![0; searching.k];
        let mut distances = vec![0.0; searching.k];
        let answered = queries.rows().take(count).map(|query| {
            let started = std::time::Instant::now();
            let mut output = IdDistance::new(&mut found, &mut distances);
            self.runtime.block_on(self.graph.search(knn, &Strategy, &Context, query, &mut output))?;
            Ok(1e6 * started.elapsed().as_secs_f64())
        });
        answered.collect()
    }
}

fn runtime() -> Result<Runtime> {
    Ok(RuntimeBuilder::new_current_thread().build()?)
}
