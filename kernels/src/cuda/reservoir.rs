//! Candidates on the device: from leaves to pruned edges without a way over the host.
//!
//! In: leaves of rows that are resident. Out: pruned edges, and the nearest candidates that were not kept. Each row's
//! reservoir holds its `keep` nearest distinct candidates by (distance in 16 bits, row number), whatever the order in which
//! leaves come. Kernels: `reservoir.cu`, between those of leaves and of pruning. Twin:
//! [`HostCandidates`](crate::candidates::HostCandidates).

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::CudaBackend;
use super::driver::{Arg, Buffer, Gpu};
use super::leaves::{LeafBatch, each_leaf_batch};
use super::prune::{Kept, Pruning};
use super::reverse::DevicePruned;
use super::rows::CudaRows;
use crate::adjacency::Adjacency;
use crate::backend::{Backend, BackendError, Lists, PruneParams};
use crate::batches::in_batches;
use crate::candidates::{CandidateParams, Candidates, PrunedRows};
use crate::checks::{check_ids, same_count};
use crate::progress::Progress;
use crate::reservoir::DistanceKey;
use crate::reverse::Pruned;

const OFFER: &str = "candidates";
const PRUNE: &str = "prune of candidates";

/// Rows that are pruned at a time, at most.
const BATCH: usize = 1 << 18;

/// Keys that `offer_merge` queues for a row.
const QUEUE: usize = 32;

/// `Reservoirs` of `reservoir.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Reservoirs {
    ids: u64,
    keys: u64,
    heads: u64,
    keep: u32,
    lowest: u32,
}

/// The reservoirs of all rows on a CUDA device: 6 bytes a place, and 4 a row.
#[derive(Debug)]
pub(super) struct CudaReservoirs<'a> {
    gpu: &'a Gpu,
    rows: &'a CudaRows,
    params: CandidateParams,
    /// `(n, keep)`, ascending by (key, row number).
    ids: Buffer<u32>,
    keys: Buffer<u16>,
    /// `(n)`: working memory of an offer.
    heads: Buffer<u32>,
    /// The first row that has not been pruned.
    next_row: usize,
    /// The rows before it, once there are any.
    pruned: Store,
}

/// Where pruned rows lie.
#[derive(Debug)]
enum Store {
    /// None yet.
    Nowhere,
    Device(DevicePruned),
    /// The device has not the room.
    Host(Pruned),
}

impl<'a> CudaReservoirs<'a> {
    /// None yet, of any of `rows`.
    pub(super) fn new(gpu: &'a Gpu, rows: &'a CudaRows, params: CandidateParams) -> Result<Self, BackendError> {
        same_count(OFFER, "reservoir", params.n, "row", rows.n)?;
        let places = params.n * params.keep;
        let (ids, keys, heads) = (gpu.alloc(OFFER, places)?, gpu.alloc(OFFER, places)?, gpu.alloc(OFFER, params.n)?);
        let reservoirs = Self { gpu, rows, params, ids, keys, heads, next_row: 0, pruned: Store::Nowhere };
        let arguments = reservoirs.arguments();
        let arguments = [Arg::Struct(bytemuck::bytes_of(&arguments)), (places as u64).into(), (params.n as u32).into()];
        let grid = [places.max(params.n).div_ceil(256) as u32, 1, 1];
        gpu.launch(OFFER, "reservoir_clear", grid, 256, 0, &arguments)?;
        Ok(reservoirs)
    }

    fn arguments(&self) -> Reservoirs {
        Reservoirs {
            ids: self.ids.address(),
            keys: self.keys.address(),
            heads: self.heads.address(),
            keep: self.params.keep as u32,
            lowest: DistanceKey::new(self.params.largest_distance).lowest(),
        }
    }

    /// Offers members what a launch found for them.
    fn offer(&self, batch: &LeafBatch<'_>) -> Result<(), BackendError> {
        let members = self.gpu.upload(OFFER, batch.members)?;
        let next: Buffer<u32> = self.gpu.alloc(OFFER, batch.members.len())?;
        let reservoirs = self.arguments();
        let reservoirs = Arg::Struct(bytemuck::bytes_of(&reservoirs));
        let count = (batch.members.len() as u32).into();
        let link = [reservoirs, (&members).into(), count, (&next).into()];
        let grid = [batch.members.len().div_ceil(256) as u32, 1, 1];
        self.gpu.launch(OFFER, "offer_link", grid, 256, 0, &link)?;
        let merge = [
            reservoirs,
            (&members).into(),
            count,
            (&next).into(),
            (&batch.answers.ids).into(),
            (&batch.answers.distances).into(),
            (batch.k as u32).into(),
        ];
        // Fewer rows a block where reservoirs are large.
        let a_warp = (self.params.keep + QUEUE) * size_of::<u64>();
        let warps = (self.gpu.properties().shared_memory_per_block as usize / a_warp).clamp(1, 4);
        let grid = [batch.members.len().div_ceil(warps) as u32, 1, 1];
        self.gpu.launch(OFFER, "offer_merge", grid, warps as u32 * 32, (warps * a_warp) as u32, &merge)
    }

    /// Prunes `range` and completes its edges with candidates that were not kept.
    fn prune(&self, range: Range<usize>, params: PruneParams) -> Result<Kept, BackendError> {
        let (gpu, count, width) = (self.gpu, range.len(), self.width());
        let pruning = Pruning {
            gpu,
            operation: PRUNE,
            base: self.rows,
            points: gpu.alloc(PRUNE, count)?,
            begins: gpu.alloc(PRUNE, count)?,
            counts: gpu.alloc(PRUNE, count)?,
            candidates: gpu.alloc(PRUNE, count * width)?,
            params,
        };
        let reservoirs = self.arguments();
        let gather = [
            Arg::Struct(bytemuck::bytes_of(&reservoirs)),
            (range.start as u32).into(),
            (count as u32).into(),
            (self.params.n as u64).into(),
            self.params.seed.into(),
            self.params.far.into(),
            (&pruning.points).into(),
            (&pruning.begins).into(),
            (&pruning.counts).into(),
            (&pruning.candidates).into(),
        ];
        let grid = [count.div_ceil(4) as u32, 1, 1];
        gpu.launch(PRUNE, "offer_candidates", grid, 128, 0, &gather)?;
        let kept = pruning.new_edges()?;
        pruning.all(width, &kept)?;
        let fill = [
            (count as u32).into(),
            (params.max_degree as u32).into(),
            (&pruning.begins).into(),
            (&pruning.counts).into(),
            (&pruning.candidates).into(),
            (&kept.degrees).into(),
            (&kept.edges).into(),
        ];
        gpu.launch(PRUNE, "prune_edges", grid, 128, 0, &fill)?;
        Ok(kept)
    }

    /// Room for pruned rows: on the device where they leave half of it to the work.
    fn store(&self, degree: usize) -> Result<Store, BackendError> {
        let n = self.params.n;
        let host = || Store::Host(Pruned::new(n, degree));
        if DevicePruned::bytes(n, degree) as u64 > self.gpu.memory_left(PRUNE)? / 2 {
            return Ok(host());
        }
        match DevicePruned::new(self.gpu, n, degree) {
            Ok(pruned) => Ok(Store::Device(pruned)),
            Err(BackendError::OutOfMemory { .. }) => Ok(host()),
            Err(error) => Err(error),
        }
    }

    /// Candidates of a row at most.
    fn width(&self) -> usize {
        self.params.keep + self.params.far as usize
    }
}

impl Candidates for CudaReservoirs<'_> {
    fn add_leaves(&mut self, leaves: &Lists<u32>, k: usize) -> Result<(), BackendError> {
        check_ids(OFFER, leaves.items.iter().copied(), self.params.n)?;
        if self.params.keep == 0 {
            return Ok(());
        }
        // What is offered twice, because memory ended midway, is kept once.
        each_leaf_batch(self.gpu, self.rows, leaves, k, |batch| self.offer(&batch))
    }

    fn prune_next(&mut self, params: PruneParams) -> Result<Option<usize>, BackendError> {
        let first = self.next_row;
        if first == self.params.n {
            return Ok(None);
        }
        let (n, degree) = (self.params.n, params.max_degree);
        if matches!(self.pruned, Store::Nowhere) {
            self.pruned = self.store(degree)?;
        }
        let room = self.gpu.memory_left(PRUNE)? as usize / 2;
        let batch = (room / (self.width() * 4 + degree * 4 + 20)).clamp(1, BATCH);
        let count = batch.min(n - first);
        in_batches(count, count, |part| {
            let rows = first + part.start..first + part.end;
            if degree == 0 {
                return Ok(());
            }
            let kept = self.prune(rows.clone(), params)?;
            match &mut self.pruned {
                Store::Nowhere => unreachable!("chosen above"),
                Store::Device(pruned) => {
                    let places = 0..rows.len() * degree;
                    self.gpu.copy(PRUNE, &kept.edges, places, &pruned.edges, rows.start * degree)?;
                    self.gpu.copy(PRUNE, &kept.degrees, 0..rows.len(), &pruned.kept, rows.start)
                }
                Store::Host(pruned) => {
                    let edges = self.gpu.download(PRUNE, &kept.edges, 0..rows.len() * degree)?;
                    let degrees = self.gpu.download(PRUNE, &kept.degrees, 0..rows.len())?;
                    let kept = degrees.into_iter().map(|degree| degree as u16).collect();
                    pruned.set_rows(&PrunedRows { first_row: rows.start as u32, edges, kept });
                    Ok(())
                }
            }
        })?;
        self.next_row += count;
        Ok(Some(count))
    }

    fn into_graph(
        mut self: Box<Self>,
        params: PruneParams,
        progress: &dyn Progress,
    ) -> Result<Adjacency, BackendError> {
        while self.prune_next(params)?.is_some() {}
        let Self { gpu, rows, pruned, .. } = *self;
        let backend = CudaBackend { gpu: gpu.clone() };
        match pruned {
            Store::Device(pruned) => backend.graph_of(rows, &pruned, params, progress),
            Store::Host(pruned) => backend.reverse_edges(rows, &pruned, params, progress),
            Store::Nowhere => backend.reverse_edges(rows, &Pruned::new(0, params.max_degree), params, progress),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::candidates::HostCandidates;
    use crate::conformance::random_rows;
    use crate::cuda::{CudaBackend, Emulation};
    use crate::reverse::reverse_edges;
    use crate::rows::Rows;
    use crate::{DType, Metric, NoProgress, OutOfCore};

    /// Overlapping leaves, of one member up, in an order of their own.
    fn leaves(n: usize, seed: usize) -> Vec<Vec<u32>> {
        let leaf = |i: usize| -> Vec<u32> {
            let size = [60, 1, 33, 150, 7][i % 5];
            let mut leaf: Vec<u32> = (0..size).map(|j| ((i * 37 + j * (1 + i % 3) + seed) % n) as u32).collect();
            leaf.sort_unstable();
            leaf.dedup();
            leaf
        };
        (0..25).map(leaf).collect()
    }

    const PARAMS: PruneParams = PruneParams { max_degree: 12, alpha: 1.2 };

    fn drained(candidates: &mut dyn Candidates, batches: &[Lists<u32>], k: usize) {
        for batch in batches {
            candidates.add_leaves(batch, k).expect("leaves");
        }
        while candidates.prune_next(PARAMS).expect("prune").is_some() {}
    }

    fn on_device(
        cuda: &CudaBackend,
        rows: &CudaRows,
        params: CandidateParams,
        batches: &[Lists<u32>],
        k: usize,
    ) -> Pruned {
        let mut candidates = CudaReservoirs::new(&cuda.gpu, rows, params).expect("reservoirs");
        drained(&mut candidates, batches, k);
        match candidates.pruned {
            Store::Nowhere => panic!("nothing was pruned"),
            Store::Device(pruned) => pruned.download(&cuda.gpu, params.n).expect("download"),
            Store::Host(pruned) => pruned,
        }
    }

    #[test]
    fn edges_are_those_of_candidates_on_the_host_in_any_order() {
        let Ok(cuda) = CudaBackend::emulated(Emulation::default()) else { return };
        let little = Emulation { free_memory: Some(300 << 10), ..Emulation::default() };
        let little = CudaBackend::emulated(little).expect("emulator");
        // Keys of a small largest distance are often equal, those of a large one seldom.
        for (dtype, metric, keep, k, largest_distance, far) in [
            (DType::U8, Metric::L2, 16, 8, 1e5, 4),
            (DType::F32, Metric::L2, 40, 33, 1.0, 0),
            (DType::I8, Metric::Cosine, 5, 100, 1e-9, 9),
            (DType::F16, Metric::InnerProduct, 16, 8, 1e2, 4),
        ] {
            let (n, all) = (400, leaves(400, 3));
            let rows = Arc::new(random_rows(dtype, n, 6, 2));
            let params = CandidateParams { n, keep, largest_distance, far, seed: 7 };
            let resident = cuda.upload(Arc::clone(&rows), metric).expect("upload");
            let mut host = HostCandidates::new(&cuda, &resident, params);
            drained(&mut host, &[all.iter().cloned().collect()], k);
            let expected = host.into_pruned(PARAMS);
            for batch in [25, 4] {
                let mut shuffled = all.clone();
                shuffled.rotate_left(batch % 25);
                shuffled.reverse();
                let batches: Vec<Lists<u32>> =
                    shuffled.chunks(batch).map(|leaves| leaves.iter().cloned().collect()).collect();
                assert!(
                    on_device(&cuda, &resident, params, &batches, k) == expected,
                    "{dtype} {metric} {params:?} {batch}"
                );
            }
            let resident = little.upload(rows, metric).expect("upload");
            let all = [all.into_iter().collect()];
            assert!(on_device(&little, &resident, params, &all, k) == expected, "{dtype} {metric} little memory");
        }
    }

    #[test]
    fn where_only_rows_fit_the_graph_is_the_same() {
        let Ok(cuda) = CudaBackend::emulated(Emulation::default()) else { return };
        let budget = Emulation { memory_budget: Some(45 << 10), ..Emulation::default() };
        let little = OutOfCore::new(CudaBackend::emulated(budget).expect("emulator"));
        let (n, rows) = (400, Arc::new(random_rows(DType::U8, 400, 6, 2)));
        let params = CandidateParams { n, keep: 16, largest_distance: 1e5, far: 4, seed: 7 };
        fn graph<B: Backend>(backend: &B, rows: &Arc<Rows>, params: CandidateParams) -> Adjacency {
            let resident = backend.upload(Arc::clone(rows), Metric::L2).expect("upload");
            let mut candidates = backend.candidates(&resident, params).expect("candidates");
            candidates.add_leaves(&leaves(400, 3).into_iter().collect(), 8).expect("leaves");
            candidates.into_graph(PARAMS, &NoProgress).expect("graph")
        }
        let alone = cuda.upload(Arc::clone(&rows), Metric::L2).expect("upload");
        let mut host = HostCandidates::new(&cuda, &alone, params);
        drained(&mut host, &[leaves(n, 3).into_iter().collect()], 8);
        let expected = reverse_edges(&cuda, &alone, &host.into_pruned(PARAMS), PARAMS, &NoProgress).expect("host");
        assert!(graph(&cuda, &rows, params) == expected);
        assert!(little.upload(Arc::clone(&rows), Metric::L2).is_ok_and(|rows| rows.is_resident()));
        assert!(graph(&little, &rows, params) == expected);
    }

    #[test]
    fn rows_without_candidates_have_no_edges() {
        let Ok(cuda) = CudaBackend::emulated(Emulation::default()) else { return };
        let resident = cuda.upload(Arc::new(random_rows(DType::U8, 3, 4, 2)), Metric::L2).expect("upload");
        let params = CandidateParams { n: 3, keep: 4, largest_distance: 1.0, far: 0, seed: 1 };
        assert_eq!(on_device(&cuda, &resident, params, &[], 2), Pruned::new(3, PARAMS.max_degree));
        let wrong = CandidateParams { n: 4, ..params };
        assert!(matches!(cuda.candidates(&resident, wrong).err(), Some(BackendError::Shape { .. })));
    }
}
