//! Reverse edges on the device. Kernels: `kernels/cuda/reverse.cu`, and those of pruning. Twin: [`crate::reverse`].
//!
//! In: pruned lists that are on the device. Out: the graph, which alone returns to the host, some rows at a time.

use bytemuck::{Pod, Zeroable};

use super::driver::{Arg, Buffer, Gpu};
use super::prune::Pruning;
use super::rows::CudaRows;
use crate::adjacency::Adjacency;
use crate::backend::{BackendError, PruneParams};
use crate::batches::in_batches;
use crate::candidates::PrunedRows;
use crate::progress::Progress;
use crate::reverse::{NAMED_BY, Pruned};

const OPERATION: &str = "reverse edges";

/// Rows that are finished at a time, at most.
const BATCH: usize = 1 << 16;

/// `SCAN_SHARE`, `SORTED` and `CLASS` of `reverse.cu`.
const SCAN_SHARE: usize = 1024;
const SORTED: usize = 1024;
const CLASS: usize = 64;

/// Blocks that share the pairs of one long list, at most.
const SORT_BLOCKS: usize = 256;

/// `PrunedLists` of `reverse.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PrunedLists {
    edges: u64,
    kept: u64,
    n: u64,
    max_degree: u32,
    padding: u32,
}

/// Pruned lists on the device: as [`Pruned`], with `kept` in 32 bits.
#[derive(Debug)]
pub(super) struct DevicePruned {
    /// `(n, max_degree)`.
    pub(super) edges: Buffer<u32>,
    /// `(n)`.
    pub(super) kept: Buffer<u32>,
    pub(super) max_degree: usize,
}

impl DevicePruned {
    /// Bytes of `n` lists.
    pub(super) fn bytes(n: usize, max_degree: usize) -> usize {
        n * (max_degree + 1) * size_of::<u32>()
    }

    /// Room for `n` lists.
    pub(super) fn new(gpu: &Gpu, n: usize, max_degree: usize) -> Result<Self, BackendError> {
        let edges = gpu.alloc(OPERATION, n * max_degree)?;
        Ok(Self { edges, kept: gpu.alloc(OPERATION, n)?, max_degree })
    }

    /// A copy of lists on the host.
    pub(super) fn upload(gpu: &Gpu, pruned: &Pruned) -> Result<Self, BackendError> {
        let (edges, kept) = pruned.parts();
        let kept: Vec<u32> = kept.iter().copied().map(u32::from).collect();
        let (edges, kept) = (gpu.upload(OPERATION, edges)?, gpu.upload(OPERATION, &kept)?);
        Ok(Self { edges, kept, max_degree: pruned.max_degree() })
    }

    /// A copy on the host of the first `rows` of `n`.
    pub(super) fn download(&self, gpu: &Gpu, rows: usize) -> Result<Pruned, BackendError> {
        let mut pruned = Pruned::new(self.kept.len(), self.max_degree);
        let edges = gpu.download(OPERATION, &self.edges, 0..rows * self.max_degree)?;
        let kept = gpu.download(OPERATION, &self.kept, 0..rows)?;
        let kept = kept.into_iter().map(|kept| kept as u16).collect();
        pruned.set_rows(&PrunedRows { first_row: 0, edges, kept });
        Ok(pruned)
    }

    fn arguments(&self) -> PrunedLists {
        PrunedLists {
            edges: self.edges.address(),
            kept: self.kept.address(),
            n: self.kept.len() as u64,
            max_degree: self.max_degree as u32,
            padding: 0,
        }
    }
}

/// Pruned lists, and the rows that name each row, ascending.
pub(super) struct Transposed<'a> {
    gpu: &'a Gpu,
    pruned: &'a DevicePruned,
    /// `(n + 1)`.
    offsets: Buffer<u64>,
    /// Row numbers.
    items: Buffer<u32>,
}

impl<'a> Transposed<'a> {
    /// Transposes the kept edges of lists of one row and one place at least.
    pub(super) fn new(gpu: &'a Gpu, pruned: &'a DevicePruned) -> Result<Self, BackendError> {
        let n = pruned.kept.len();
        let lists = pruned.arguments();
        let lists = Arg::Struct(bytemuck::bytes_of(&lists));
        let counts: Buffer<u32> = gpu.zeroed(OPERATION, n)?;
        let a_place = [pruned.edges.len().div_ceil(256) as u32, 1, 1];
        gpu.launch(OPERATION, "reverse_count", a_place, 256, 0, &[lists, (&counts).into()])?;
        let offsets = offsets_of(gpu, &counts)?;
        let edges = gpu.download(OPERATION, &offsets, n..n + 1)?[0] as usize;
        let transposed = Self { gpu, pruned, offsets, items: gpu.alloc(OPERATION, edges)? };
        let place = [lists, (&transposed.offsets).into(), (&counts).into(), (&transposed.items).into()];
        gpu.launch(OPERATION, "reverse_place", a_place, 256, 0, &place)?;
        transposed.sort(n)?;
        Ok(transposed)
    }

    /// Puts each list in ascending order.
    fn sort(&self, n: usize) -> Result<(), BackendError> {
        let gpu = self.gpu;
        let long_rows: Buffer<u32> = gpu.alloc(OPERATION, self.items.len() / SORTED)?;
        let counters: Buffer<u32> = gpu.zeroed(OPERATION, 2)?;
        let arguments =
            [(&self.offsets).into(), Arg::U64(n as u64), (&self.items).into(), (&long_rows).into(), (&counters).into()];
        let shared = 4 * SORTED * size_of::<u32>();
        gpu.launch(OPERATION, "reverse_sort", [n.div_ceil(4) as u32, 1, 1], 128, shared as u32, &arguments)?;
        let counters = gpu.download(OPERATION, &counters, 0..2)?;
        let (lists, longest) = (counters[0] as usize, counters[1] as usize);
        let blocks = longest.div_ceil(512).clamp(1, SORT_BLOCKS) as u32;
        // Lists are the grid's second dimension, which is small.
        for first in (0..lists).step_by(1 << 15) {
            let grid = [blocks, (lists - first).min(1 << 15) as u32, 1];
            let step = |span: usize, flip: bool| {
                let (span, flip) = (Arg::U32(span as u32), Arg::U32(u32::from(flip)));
                let arguments = [(&self.offsets).into(), (&self.items).into(), long_rows.at(first), span, flip];
                gpu.launch(OPERATION, "reverse_sort_step", grid, 256, 0, &arguments)
            };
            let mut span = 2;
            while span < 2 * longest {
                step(span, true)?;
                let mut inner = span / 2;
                while inner > 1 {
                    step(inner, false)?;
                    inner /= 2;
                }
                span *= 2;
            }
        }
        Ok(())
    }

    /// The graph: unions, pruned where they are crowded, filled where there is room.
    pub(super) fn graph(
        &self,
        rows: &CudaRows,
        params: PruneParams,
        progress: &dyn Progress,
    ) -> Result<Adjacency, BackendError> {
        let (n, r) = (rows.n, params.max_degree);
        let mut graph = Adjacency { max_degree: r, edges: Vec::with_capacity(n * r), degrees: Vec::with_capacity(n) };
        // A row's candidates and edges; its place in any class, in the points, offsets and counts.
        let (width, classes) = (self.width(), self.width().div_ceil(CLASS));
        let room = self.gpu.memory_left(OPERATION)? as usize / 2;
        let batch = (room / (4 * (width + r + classes) + 24)).clamp(1, BATCH);
        in_batches(n, batch, |range| {
            let (count, first) = (range.len(), Arg::U32(range.start as u32));
            let (edges, degrees) = self.finished(rows, first, count, params)?;
            graph.edges.extend(self.gpu.download(OPERATION, &edges, 0..count * r)?);
            graph.degrees.extend(self.gpu.download(OPERATION, &degrees, 0..count)?);
            progress.advance(count as u64);
            Ok(())
        })?;
        Ok(graph)
    }

    /// Edges `(count, R)` and degrees of `count` rows from `first` on.
    fn finished(
        &self,
        rows: &CudaRows,
        first: Arg<'_>,
        count: usize,
        params: PruneParams,
    ) -> Result<(Buffer<u32>, Buffer<u32>), BackendError> {
        let (gpu, width) = (self.gpu, self.width());
        let classes = width.div_ceil(CLASS);
        let pruning = Pruning {
            gpu,
            operation: OPERATION,
            base: rows,
            points: gpu.alloc(OPERATION, count)?,
            begins: gpu.alloc(OPERATION, count)?,
            counts: gpu.alloc(OPERATION, count)?,
            candidates: gpu.alloc(OPERATION, count * width)?,
            params,
        };
        let which: Buffer<u32> = gpu.alloc(OPERATION, classes * count)?;
        let class_counts: Buffer<u32> = gpu.zeroed(OPERATION, classes)?;
        let lists = self.pruned.arguments();
        let lists = Arg::Struct(bytemuck::bytes_of(&lists));
        let a_row = [count.div_ceil(4) as u32, 1, 1];
        let union = [
            lists,
            (&self.offsets).into(),
            (&self.items).into(),
            first,
            Arg::U32(count as u32),
            Arg::U32(width as u32),
            Arg::U32((NAMED_BY * params.max_degree) as u32),
            (&pruning.points).into(),
            (&pruning.begins).into(),
            (&pruning.counts).into(),
            (&pruning.candidates).into(),
            (&which).into(),
            (&class_counts).into(),
        ];
        gpu.launch(OPERATION, "reverse_union", a_row, 128, 0, &union)?;
        let kept = pruning.new_edges()?;
        for (class, members) in gpu.download(OPERATION, &class_counts, 0..classes)?.into_iter().enumerate() {
            if members > 0 {
                pruning.class(&which, class * count, members as usize, (class + 1) * CLASS, &kept)?;
            }
        }
        let fill = [
            lists,
            first,
            Arg::U32(count as u32),
            Arg::U32(width as u32),
            (&pruning.counts).into(),
            (&pruning.candidates).into(),
            (&kept.edges).into(),
            (&kept.degrees).into(),
        ];
        gpu.launch(OPERATION, "reverse_fill", a_row, 128, 0, &fill)?;
        Ok((kept.edges, kept.degrees))
    }

    /// Rows of a union at most.
    fn width(&self) -> usize {
        (NAMED_BY + 1) * self.pruned.max_degree
    }
}

/// `(n + 1)`: the sums of the counts before each, and of all.
fn offsets_of(gpu: &Gpu, counts: &Buffer<u32>) -> Result<Buffer<u64>, BackendError> {
    let (n, shares) = (counts.len(), counts.len().div_ceil(SCAN_SHARE));
    let offsets: Buffer<u64> = gpu.alloc(OPERATION, n + 1)?;
    let sums: Buffer<u64> = gpu.alloc(OPERATION, shares)?;
    let (a_share, count) = ([shares as u32, 1, 1], Arg::U64(n as u64));
    gpu.launch(OPERATION, "scan_sums", a_share, 256, 0, &[counts.into(), count, (&sums).into()])?;
    gpu.launch(OPERATION, "scan_bases", [1, 1, 1], 256, 0, &[(&sums).into(), Arg::U32(shares as u32)])?;
    let spread = [counts.into(), count, (&sums).into(), (&offsets).into()];
    gpu.launch(OPERATION, "scan_offsets", a_share, 256, 0, &spread)?;
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conformance::random_rows;
    use crate::cuda::{CudaBackend, Emulation};
    use crate::reverse::{reverse_edges, transposed};
    use crate::{Backend, DType, Metric, NoProgress};

    /// Lists of `n` rows: of every `every`-th row all name row 7, the others what is scattered.
    fn lists(n: usize, r: usize, every: usize) -> Pruned {
        let mut pruned = Pruned::new(n, r);
        for row in 0..n {
            let mut list: Vec<u32> = Vec::new();
            for j in 0..r {
                let id = if j == 0 && row % every == 0 { 7 } else { ((row * 131 + j * j * 17) % n) as u32 };
                if id as usize != row && !list.contains(&id) {
                    list.push(id);
                }
            }
            let kept = (row % (r + 1)).min(list.len()) as u16;
            list.resize(r, crate::candidates::NO_ROW);
            pruned.set_rows(&PrunedRows { first_row: row as u32, edges: list, kept: vec![kept] });
        }
        pruned
    }

    #[test]
    fn rows_that_name_each_are_those_of_the_host_in_order() {
        let Ok(gpu) = Gpu::emulated(Emulation::default()) else { return };
        // Long lists, more shares than one block scans at once would need 2^18 rows; some shares here.
        for (n, r, every) in [(1, 1, 1), (2500, 3, 1), (5000, 4, 2), (30, 8, 3)] {
            let pruned = lists(n, r, every);
            let device = DevicePruned::upload(&gpu, &pruned).expect("upload");
            assert_eq!(device.download(&gpu, n).expect("download"), pruned);
            let got = Transposed::new(&gpu, &device).expect("transposed");
            let expected = transposed(n, |row| pruned.kept(row));
            let offsets = gpu.download("test", &got.offsets, 0..n + 1).expect("offsets");
            assert!(offsets.iter().zip(&expected.offsets).all(|(&got, &expected)| got as usize == expected));
            assert_eq!(gpu.download("test", &got.items, 0..got.items.len()).expect("items"), expected.items);
        }
    }

    #[test]
    fn counts_are_summed_over_many_shares() {
        let Ok(gpu) = Gpu::emulated(Emulation::default()) else { return };
        for n in [1, 1023, 1024, 1025, 300_000] {
            let counts: Vec<u32> = (0..n as u32).map(|i| i * 7 % 13).collect();
            let offsets = offsets_of(&gpu, &gpu.upload("test", &counts).expect("upload")).expect("offsets");
            let mut sum = 0;
            let expected = std::iter::once(0).chain(counts.iter().map(|&count| {
                sum += u64::from(count);
                sum
            }));
            let expected: Vec<u64> = expected.collect();
            assert!(gpu.download("test", &offsets, 0..n + 1).expect("offsets") == expected, "{n}");
        }
    }

    #[test]
    fn little_memory_and_small_blocks_change_nothing() {
        let (n, r) = (600, 6);
        let params = PruneParams { max_degree: r, alpha: 1.2 };
        let pruned = lists(n, r, 1);
        let rows = Arc::new(random_rows(DType::U8, n, 6, 2));
        for emulation in [
            Emulation::default(),
            // Room for some rows at a time; none for the transposed graph; blocks that hold only short lists.
            Emulation { memory_budget: Some(90 << 10), ..Emulation::default() },
            Emulation { memory_budget: Some(40 << 10), ..Emulation::default() },
            Emulation { shared_memory_per_block: 24 << 10, ..Emulation::default() },
        ] {
            let Ok(cuda) = CudaBackend::emulated(emulation.clone()) else { return };
            let resident = cuda.upload(Arc::clone(&rows), Metric::L2).expect("upload");
            let expected = reverse_edges(&cuda, &resident, &pruned, params, &NoProgress).expect("host");
            let got = cuda.reverse_edges(&resident, &pruned, params, &NoProgress).expect("device");
            assert!(got == expected, "{emulation:?}");
        }
    }
}
