//! A backend of one's own, as far as it need be to build indexes: two stages are its own, the others are the processor's.
//!
//! In: rows, as [`Backend::upload`] gives them. Out: what the stages of [`Backend`] promise. To write a backend for a device,
//! begin like this and replace one stage after another; the conformance suite at the end holds every stage against its
//! twin, whoever computes it. `cargo test -p kiln-kernels --example backend` runs it.

use std::sync::Arc;

use kiln_kernels::codec::Rabitq;
use kiln_kernels::cpu::CpuRows;
use kiln_kernels::pq::ProductQuantizer;
use kiln_kernels::{
    Backend, BackendError, Ceilings, CpuBackend, KMeansStep, Lists, Metric, Neighbors, NodeBlock, PruneParams, Rows,
    Scored, TopK, plain,
};
use ndarray::{Array2, ArrayView1, ArrayView2};

// ANCHOR: rows
/// What computes: sums in f64, one query after another.
struct Careful {
    cpu: CpuBackend,
}

/// Rows where the device keeps them. A device of its own would hold a buffer; this one holds coordinates `(n, dim)`.
struct CarefulRows {
    coordinates: Array2<f32>,
    metric: Metric,
    /// For the stages that are the processor's.
    cpu: CpuRows,
}
// ANCHOR_END: rows

impl Careful {
    fn new() -> Self {
        Self { cpu: CpuBackend::new() }
    }
}

/// An operand that does not fit is an error that says what would.
fn refused<T>(operation: &'static str, expected: String, got: usize) -> Result<T, BackendError> {
    Err(BackendError::Shape { operation, expected, got: got.to_string() })
}

/// What two operands that are compared must have in common.
fn same_dim(operation: &'static str, queries: &CarefulRows, base: &CarefulRows) -> Result<(), BackendError> {
    let (got, expected) = (queries.coordinates.ncols(), base.coordinates.ncols());
    if got == expected { Ok(()) } else { refused(operation, format!("rows of {expected} coordinates"), got) }
}

/// Distance by which a base row is ordered; smaller is nearer under every metric.
fn distance(base: &CarefulRows, query: ArrayView1<'_, f32>, id: usize) -> f32 {
    plain::distance(base.metric, query, base.coordinates.row(id)) as f32
}

impl Backend for Careful {
    type Rows = CarefulRows;

    fn describe(&self) -> String {
        "careful (f64)".into()
    }

    fn ceilings(&self) -> Result<Ceilings, BackendError> {
        self.cpu.ceilings()
    }

    // ANCHOR: own
    fn upload(&self, rows: Arc<Rows>, metric: Metric) -> Result<CarefulRows, BackendError> {
        let coordinates = rows.view().to_f32();
        Ok(CarefulRows { coordinates, metric, cpu: self.cpu.upload(rows, metric)? })
    }

    fn nearest(&self, queries: &CarefulRows, base: &CarefulRows, k: usize) -> Result<Neighbors, BackendError> {
        same_dim("nearest", queries, base)?;
        let mut neighbors = Neighbors::padded(queries.coordinates.nrows(), k);
        for (number, query) in queries.coordinates.outer_iter().enumerate() {
            // Ordered by (distance, id): ties fall alike on every device.
            let mut nearest = TopK::new(k);
            for id in 0..base.coordinates.nrows() {
                nearest.push(Scored { distance: distance(base, query, id), id: id as u32 });
            }
            neighbors.set_row(number, &nearest.drain_sorted());
        }
        Ok(neighbors)
    }

    fn gather_distances(
        &self,
        queries: &CarefulRows,
        base: &CarefulRows,
        lists: &Lists<u32>,
    ) -> Result<Vec<f32>, BackendError> {
        same_dim("gather distances", queries, base)?;
        let (asked, n) = (queries.coordinates.nrows(), base.coordinates.nrows());
        if lists.len() != asked {
            return refused("gather distances", format!("one list for each query, {asked}"), lists.len());
        }
        if let Some(&id) = lists.items.iter().find(|&&id| id as usize >= n) {
            return refused("gather distances", format!("row numbers below {n}"), id as usize);
        }
        let of_query = |(query, ids): (ArrayView1<'_, f32>, &[u32])| -> Vec<f32> {
            ids.iter().map(|&id| distance(base, query, id as usize)).collect()
        };
        Ok(queries.coordinates.outer_iter().zip(lists.iter()).flat_map(of_query).collect())
    }
    // ANCHOR_END: own

    // ANCHOR: others
    fn leaf_neighbors(&self, rows: &CarefulRows, leaves: &Lists<u32>, k: usize) -> Result<Lists<Scored>, BackendError> {
        self.cpu.leaf_neighbors(&rows.cpu, leaves, k)
    }
    // ANCHOR_END: others

    fn nearest_leaders(
        &self,
        rows: &CarefulRows,
        points: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>, BackendError> {
        self.cpu.nearest_leaders(&rows.cpu, points, leaders, k)
    }

    fn robust_prune(
        &self,
        base: &CarefulRows,
        points: &[u32],
        candidates: &Lists<u32>,
        params: PruneParams,
    ) -> Result<Lists<u32>, BackendError> {
        self.cpu.robust_prune(&base.cpu, points, candidates, params)
    }

    fn kmeans_step(&self, points: &CarefulRows, centroids: ArrayView2<'_, f32>) -> Result<KMeansStep, BackendError> {
        self.cpu.kmeans_step(&points.cpu, centroids)
    }

    fn pq_encode(
        &self,
        rows: &CarefulRows,
        residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
        pq: &ProductQuantizer,
    ) -> Result<Array2<u8>, BackendError> {
        self.cpu.pq_encode(&rows.cpu, residual_to, pq)
    }

    fn pack_nodes(&self, rows: &CarefulRows, nodes: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError> {
        self.cpu.pack_nodes(&rows.cpu, nodes)
    }

    fn rabitq_encode(
        &self,
        rows: &CarefulRows,
        ids: &[u32],
        residual_to: (ArrayView2<'_, f32>, &[u32]),
        rabitq: &Rabitq,
    ) -> Result<Array2<u8>, BackendError> {
        self.cpu.rabitq_encode(&rows.cpu, ids, residual_to, rabitq)
    }
}

fn main() -> Result<(), BackendError> {
    let backend = Careful::new();
    let base = backend.upload(Arc::new(Rows::U8(ndarray::arr2(&[[0, 0], [3, 4]]))), Metric::L2)?;
    let queries = backend.upload(Arc::new(Rows::U8(ndarray::arr2(&[[0, 1], [3, 3]]))), Metric::L2)?;
    let found = backend.nearest(&queries, &base, 1)?;
    println!("{}: rows {} at squared distances {}", backend.describe(), found.ids, found.distances);
    Ok(())
}

// ANCHOR: enrol
#[cfg(test)]
kiln_kernels::conformance_tests!(careful, || Ok::<_, String>(Careful::new()));
// ANCHOR_END: enrol
