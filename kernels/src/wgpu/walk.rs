//! Greedy search of a graph: one workgroup a query, where rows and graph lie in one binding each and the list fits
//! workgroup memory. Kernel: `wgsl/walk.wgsl`. Twin, and what serves all else: [`crate::graph_search`].

use std::time::{Duration, Instant};

use super::device::{Buffer, Task, fold};
use super::pipelines::{Constants, Distance, Kernel};
use super::rows::WgpuRows;
use crate::adjacency::Adjacency;
use crate::backend::{BackendError, Lists};
use crate::batches::in_batches;
use crate::graph_search::{GraphNeighbors, GraphSearchParams};
use crate::topk::{PAD_ID, Scored};

/// Places of a list that workgroup memory holds; `MOST` in `walk.wgsl`.
const MOST: usize = 256;

/// Queries of a dispatch at most: drivers end what runs for seconds.
const BATCH: usize = 1 << 12;

/// A graph in the device's memory: a row's degree, then its places.
pub(super) struct DeviceEdges {
    words: Buffer,
    max_degree: usize,
}

impl DeviceEdges {
    /// Brings a sound graph there. One that no binding holds has no room.
    pub(super) fn upload(task: Task<'_>, graph: &Adjacency) -> Result<Self, BackendError> {
        let mut words = Vec::with_capacity(graph.len() * (graph.max_degree + 1));
        for (edges, &degree) in graph.edges.chunks(graph.max_degree.max(1)).zip(&graph.degrees) {
            words.push(degree);
            words.extend_from_slice(edges);
        }
        if graph.max_degree == 0 {
            words.resize(graph.len(), 0);
        }
        Ok(Self { words: task.scoped(|| task.upload(&words))?, max_degree: graph.max_degree })
    }
}

/// Whether the kernel can do it.
pub(super) fn fits(
    task: Task<'_>,
    base: &WgpuRows,
    entries: &Lists<u32>,
    queries: &WgpuRows,
    params: GraphSearchParams,
) -> bool {
    let words = (entries.offsets.len() + entries.items.len()).max(2 * params.k + 1);
    let room = task.gpu.binding().min(u64::from(u32::MAX));
    (1..=MOST).contains(&params.list_size)
        && (base.shards.len(), queries.shards.len()) == (1, 1)
        && (words * size_of::<u32>()) as u64 <= room
}

/// Searches a graph of all of `base`; operands were checked, and [`fits`] holds.
pub(super) fn graph_search(
    task: Task<'_>,
    base: &WgpuRows,
    graph: &DeviceEdges,
    entries: &Lists<u32>,
    queries: &WgpuRows,
    params: GraphSearchParams,
) -> Result<GraphNeighbors, BackendError> {
    let GraphSearchParams { list_size, k } = params;
    let (rows, asked) = (&base.shards[0], &queries.shards[0]);
    let begins = entries.offsets.iter().map(|offset| (entries.offsets.len() + offset) as u32);
    let starts: Vec<u32> = begins.chain(entries.items.iter().copied()).collect();
    let starts = task.scoped(|| task.upload(&starts))?;
    let constants = Constants {
        types: (queries.shape.dtype, base.shape.dtype),
        distance: Distance::of_metric(base.metric),
        long: false,
    };
    let width = 1 + 2 * k;
    let room = task.gpu.binding().min(task.gpu.scratch() / 2) as usize / (width * size_of::<u32>());
    let mut found = GraphNeighbors::padded(queries.n, k);
    let mut on_device = Duration::ZERO;
    in_batches(queries.n, room.min(BATCH), |range| {
        let answers = task.scoped(|| {
            let out = task.allocate((range.len() * width * size_of::<u32>()) as u64)?;
            let (fold, height) = fold(range.len() as u64);
            let mut commands = task.commands();
            commands.dispatch(
                Kernel::Walk,
                constants,
                &[
                    asked.shape.stride() as u32,
                    rows.shape.stride() as u32,
                    asked.shape.quads(),
                    range.start as u32,
                    range.len() as u32,
                    graph.max_degree as u32 + 1,
                    list_size as u32,
                    k as u32,
                    fold,
                ],
                &[&asked.rows, &asked.numbers, &rows.rows, &rows.numbers, &graph.words, &starts, &out],
                (fold, height),
            )?;
            task.settle()?;
            let began = Instant::now();
            commands.submit();
            task.wait()?;
            on_device += began.elapsed();
            task.read::<u32>(&out, range.len() * width)
        })?;
        for (query, answer) in range.zip(answers.chunks_exact(width)) {
            let entries = answer[1..].chunks_exact(2).take_while(|entry| entry[1] != PAD_ID);
            let row: Vec<Scored> = entries.map(|entry| Scored { distance: of_key(entry[0]), id: entry[1] }).collect();
            found.neighbors.set_row(query, &row);
            found.expanded[query] = answer[0];
        }
        Ok(())
    })?;
    found.on_device = Some(on_device);
    Ok(found)
}

/// The distance of which a key was made, see `key_of` of `rows.wgsl`.
fn of_key(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & 0x7fff_ffff } else { !key })
}
