//! Greedy search of a graph on the device. Kernel: `kernels/cuda/walk.cu`. Twin: [`crate::graph_search`].
//!
//! The graph is there before: 4 bytes a place and a row. A call brings entries, and takes answers.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use ndarray::Array2;

use super::driver::{Arg, Buffer, Gpu};
use super::product::{Form, Mode, RowSet};
use super::rows::CudaRows;
use crate::adjacency::Adjacency;
use crate::backend::{BackendError, Lists};
use crate::batches::in_batches;
use crate::graph_search::{GraphNeighbors, GraphSearchParams, OPERATION};
use crate::topk::Neighbors;

const THREADS: u32 = 128;

/// Bytes of a block's shared memory beside its table and lists.
const FIXED_BYTES: usize = 2576;

/// Bytes of a place of both lists: a key and a flag each.
const LIST_BYTES: usize = 18;

/// `WalkArguments` of `walk.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct WalkArguments {
    base: RowSet,
    queries: RowSet,
    edges: u64,
    degrees: u64,
    begins: u64,
    entries: u64,
    lists: u64,
    flags: u64,
    ids: u64,
    distances: u64,
    expanded: u64,
    first_query: u32,
    max_degree: u32,
    list_size: u32,
    k: u32,
    mode: u32,
    places: u32,
}

/// A graph in the device's memory.
pub(super) struct DeviceEdges {
    edges: Buffer<u32>,
    degrees: Buffer<u32>,
    max_degree: usize,
}

impl DeviceEdges {
    /// Brings a sound graph there.
    pub(super) fn upload(gpu: &Gpu, graph: &Adjacency) -> Result<Self, BackendError> {
        Ok(Self {
            edges: gpu.upload(OPERATION, &graph.edges)?,
            degrees: gpu.upload(OPERATION, &graph.degrees)?,
            max_degree: graph.max_degree,
        })
    }
}

/// Searches a graph of all of `base`; operands were checked, and a list has a place at least.
pub(super) fn graph_search(
    gpu: &Gpu,
    base: &CudaRows,
    graph: &DeviceEdges,
    entries: &Lists<u32>,
    queries: &CudaRows,
    params: GraphSearchParams,
) -> Result<GraphNeighbors, BackendError> {
    let GraphSearchParams { list_size, k } = params;
    let form = Form::of(queries.dtype, base.dtype);
    let query_norms = queries.inverse_norms(gpu, OPERATION, base.metric)?;
    let base_norms = base.inverse_norms(gpu, OPERATION, base.metric)?;
    let begins: Vec<u64> = entries.offsets.iter().map(|&offset| offset as u64).collect();
    let (begins, entries) = (gpu.upload(OPERATION, &begins)?, gpu.upload(OPERATION, &entries.items)?);
    let ids: Buffer<u32> = gpu.alloc(OPERATION, queries.n * k)?;
    let distances: Buffer<f32> = gpu.alloc(OPERATION, queries.n * k)?;
    let expanded: Buffer<u32> = gpu.alloc(OPERATION, queries.n)?;

    // A walk sees some rows for each that it expands; the table forgets what it has no place for.
    let places = (16 * list_size).next_power_of_two().clamp(1 << 10, 1 << 13);
    let own = FIXED_BYTES + 4 * places;
    let limit = gpu.properties().shared_memory_per_block as usize;
    let fits = own + LIST_BYTES * list_size <= limit;
    let batch = if fits {
        queries.n
    } else {
        (gpu.memory_left(OPERATION)? as usize / 2 / (LIST_BYTES * list_size)).clamp(1, queries.n.max(1))
    };
    let walk = |range: Range<usize>| {
        let outside = if fits { 0 } else { range.len() * 2 * list_size };
        let (lists, flags) = (gpu.alloc::<u64>(OPERATION, outside)?, gpu.alloc::<u8>(OPERATION, outside)?);
        let arguments = WalkArguments {
            base: RowSet::new(base, None, form).with_inverse_norms(&base_norms),
            queries: RowSet::new(queries, None, form).with_inverse_norms(&query_norms),
            edges: graph.edges.address(),
            degrees: graph.degrees.address(),
            begins: begins.address(),
            entries: entries.address(),
            lists: lists.address(),
            flags: flags.address(),
            ids: ids.address(),
            distances: distances.address(),
            expanded: expanded.address(),
            first_query: range.start as u32,
            max_degree: graph.max_degree as u32,
            list_size: list_size as u32,
            k: k as u32,
            mode: Mode::query(base.metric) as u32,
            places: places as u32,
        };
        let shared = if fits { own + LIST_BYTES * list_size } else { own };
        let arguments = [Arg::Struct(bytemuck::bytes_of(&arguments))];
        gpu.launch(OPERATION, "graph_walk", [range.len() as u32, 1, 1], THREADS, shared as u32, &arguments)
    };
    let ((), on_device) = gpu.timed(OPERATION, || in_batches(queries.n, batch, walk))?;
    // Padded there as here.
    let (ids, distances) =
        (gpu.download(OPERATION, &ids, 0..ids.len())?, gpu.download(OPERATION, &distances, 0..distances.len())?);
    let shaped = "so many were downloaded";
    let neighbors = Neighbors {
        ids: Array2::from_shape_vec((queries.n, k), ids).expect(shaped),
        distances: Array2::from_shape_vec((queries.n, k), distances).expect(shaped),
    };
    let expanded = gpu.download(OPERATION, &expanded, 0..queries.n)?;
    Ok(GraphNeighbors { neighbors, expanded, on_device: Some(on_device) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conformance::random_rows;
    use crate::cuda::{CudaBackend, Emulation};
    use crate::{Backend, DType, Metric};

    #[test]
    fn long_lists_and_a_small_block_change_nothing() {
        let (n, queries) = (3000, 6);
        let mut graph = Adjacency::new(140);
        for row in 0..n {
            // More neighbours than a step takes at a time, for some.
            let degree = if row % 50 == 0 { 140 } else { 3 };
            graph.push(&(0..degree).map(|j| ((row * 37 + j * 211 + 1) % n) as u32).collect::<Vec<_>>());
        }
        let graph = Arc::new(graph);
        let entries: Lists<u32> = (0..queries).map(|query| vec![query as u32 * 50]).collect();
        let base = Arc::new(random_rows(DType::I8, n, 9, 3));
        let asked = Arc::new(random_rows(DType::I8, queries, 9, 4));
        for list_size in [40, 1500] {
            let params = GraphSearchParams { list_size, k: 20 };
            for emulation in [
                Emulation::default(),
                // No room in a block for any list, then little outside too.
                Emulation { shared_memory_per_block: 36 << 10, ..Emulation::default() },
                Emulation {
                    shared_memory_per_block: 36 << 10,
                    memory_budget: Some(2_100 << 10),
                    ..Emulation::default()
                },
                // None for the edges: all walks a step at a time.
                Emulation { memory_budget: Some(900 << 10), ..Emulation::default() },
            ] {
                let room_for_edges = emulation.memory_budget.is_none_or(|budget| budget > 1 << 20);
                let Ok(cuda) = CudaBackend::emulated(emulation) else { return };
                let resident = cuda.upload(Arc::clone(&base), Metric::L2).expect("upload");
                let queries = cuda.upload(Arc::clone(&asked), Metric::L2).expect("upload");
                let there = cuda.upload_graph(Arc::clone(&graph)).expect("upload");
                let expected = crate::graph_search::in_lockstep(&cuda, &resident, &graph, &entries, &queries, params);
                let got = cuda.graph_search(&resident, &there, &entries, &queries, params).expect("device");
                let expected = expected.expect("host");
                // The table forgets by then: more rows are seen than it has places.
                assert_eq!((got.neighbors, got.expanded), (expected.neighbors, expected.expanded), "L {list_size}");
                assert_eq!(got.on_device.is_some(), room_for_edges, "L {list_size}");
            }
        }
    }
}
