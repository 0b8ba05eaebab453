//! Exact nearest rows: products of tiles, whose selection keeps the k best of each query on the device.
//!
//! In: a block of queries, blocks of base rows, and which rows of the base each tile of queries looks at. Out: each
//! query's k best by (distance, id). Base rows come in chunks that double, so that after the first the k-th best of
//! what was seen turns nearly all others away: a queue holds what passes, and is merged after every chunk.

use std::ops::Range;

use super::device::{Buffer, Gpu, Task, fold};
use super::pipelines::{Constants, Distance, Kernel};
use super::rows::{Block, NUMBERS, WgpuRows};
use crate::backend::{BackendError, Lists};
use crate::batches::in_batches;
use crate::topk::{Neighbors, PAD_ID, Scored};

/// Rows of a tile.
const TILE: usize = 64;

/// Base rows that one chunk examines at first.
const FIRST_CHUNK: usize = 256;

/// Places of a queue at most where there are many queries: longer chunks save dispatches, and cost memory.
const QUEUE: usize = 4096;

/// Bytes of an entry of a queue: key and id.
const ENTRY: usize = 8;

/// Base rows, and what they are called.
struct Base<'a> {
    block: &'a Block,
    names: Names<'a>,
}

#[derive(Clone, Copy)]
enum Names<'a> {
    /// Row i is number `first + i`.
    From(usize),
    /// Row i is number `names[first + i]`; where `own` is given, query q is row `q + own` and not its own neighbour.
    Listed { names: &'a Buffer, first: usize, own: Option<usize> },
}

/// The k best of each of a block's queries, while base rows stream by.
struct Selection<'a> {
    task: Task<'a>,
    constants: Constants,
    k: usize,
    capacity: usize,
    /// Queries in the block of queries.
    queries: Range<usize>,
    /// `(queries, k)` entries.
    best: Buffer,
    /// `(queries, capacity)` entries.
    queue: Buffer,
    /// `(queries, 3)` words.
    state: Buffer,
    /// Base rows examined.
    seen: usize,
}

impl<'a> Selection<'a> {
    fn new(
        task: Task<'a>,
        constants: Constants,
        k: usize,
        capacity: usize,
        queries: Range<usize>,
    ) -> Result<Self, BackendError> {
        let entries = |each: usize| (queries.len() * each * ENTRY) as u64;
        let best = task.allocate(entries(k))?;
        let queue = task.allocate(entries(capacity))?;
        let state = task.allocate((queries.len() * 12) as u64)?;
        let mut commands = task.commands();
        commands.clear(&state);
        commands.submit();
        Ok(Self { task, constants, k, capacity, queries, best, queue, state, seen: 0 })
    }

    /// Examines `tiles`: (first and end query, first and end base row), rows of the blocks given.
    fn examine(&mut self, queries: &Block, base: &Base<'_>, tiles: &[[u32; 4]]) -> Result<(), BackendError> {
        let longest = tiles.iter().map(|tile| (tile[3] - tile[2]) as usize).max().unwrap_or(0);
        if longest == 0 {
            return Ok(());
        }
        let tiles_buffer = self.task.upload(tiles)?;
        let (names, id_first, id_mode, own) = match base.names {
            Names::From(first) => (&tiles_buffer, first, 0, 0),
            Names::Listed { names, first, own: None } => (names, first, 1, 0),
            Names::Listed { names, first, own: Some(own) } => (names, first, 2, own),
        };
        let mut done = 0;
        while done < longest {
            let wanted = self.seen.max(FIRST_CHUNK).max(self.k);
            let chunk = wanted.min(self.capacity).min(longest - done);
            let first = u32::from(self.seen == 0);
            let mut commands = self.task.commands();
            let (width, height) = fold((tiles.len() * chunk.div_ceil(TILE)) as u64);
            let params = [
                queries.shape.stride() as u32,
                base.block.shape.stride() as u32,
                queries.shape.quads(),
                tiles.len() as u32,
                done as u32,
                chunk as u32,
                self.capacity as u32,
                first,
                self.queries.start as u32,
                id_first as u32,
                id_mode,
                own as u32,
                width,
            ];
            let buffers = [
                &queries.rows,
                &queries.numbers,
                &base.block.rows,
                &base.block.numbers,
                &tiles_buffer,
                names,
                &self.state,
                &self.queue,
            ];
            commands.dispatch(Kernel::Nearest, self.constants, &params, &buffers, (width, height))?;
            let (width, height) = fold(self.queries.len() as u64);
            let params = [self.queries.len() as u32, self.k as u32, self.capacity as u32, first, width];
            let buffers = [&self.best, &self.queue, &self.state];
            commands.dispatch(Kernel::Select, Constants::default(), &params, &buffers, (width, height))?;
            commands.submit();
            done += chunk;
            self.seen += chunk;
        }
        Ok(())
    }

    /// `(queries, k)`, each query's ascending, of rows below `n`; places without a row hold [`PAD_ID`].
    fn finish(self, n: usize) -> Result<Vec<Scored>, BackendError> {
        let entries: Vec<[u32; 2]> = self.task.read(&self.best, self.queries.len() * self.k)?;
        let found: Vec<Scored> = entries.into_iter().map(scored).collect();
        match found.iter().find(|found| found.id != PAD_ID && found.id as usize >= n) {
            None => Ok(found),
            Some(found) => Err(self.task.refused(format!("row {} of {n} came back", found.id))),
        }
    }
}

/// An entry as kernels keep it.
pub(super) fn scored([key, id]: [u32; 2]) -> Scored {
    if id == PAD_ID {
        return Scored { distance: f32::INFINITY, id };
    }
    let bits = if key >> 31 == 1 { key & 0x7fff_ffff } else { !key };
    Scored { distance: f32::from_bits(bits), id }
}

/// Tiles of the queries `range`, each against `base`.
fn tiles_of(range: Range<usize>, base: Range<usize>) -> impl Iterator<Item = [u32; 4]> {
    range.clone().step_by(TILE).map(move |first| {
        let end = range.end.min(first + TILE);
        [first as u32, end as u32, base.start as u32, base.end as u32]
    })
}

/// Places of a queue, and queries of a batch, for `queries` against sets of `longest` base rows.
fn plan(gpu: &Gpu, queries: usize, longest: usize, k: usize) -> (usize, usize) {
    let bytes = gpu.binding().min(gpu.scratch() / 2);
    let places = (bytes as usize / ENTRY).max(1);
    let most = longest.next_multiple_of(TILE);
    // Few queries have long queues; where memory is short, queues are, and a tile of queries still fits.
    let least = most.min(QUEUE).min((places / TILE).max(TILE));
    let capacity = (places / queries.max(1)).clamp(least, most).min(places);
    (capacity, (places / (capacity + k)).max(1))
}

/// The `k` nearest base rows of each query; `k` is at most the number of base rows, and not 0.
pub(super) fn nearest(
    task: Task<'_>,
    queries: &WgpuRows,
    base: &WgpuRows,
    k: usize,
    out: &mut Neighbors,
) -> Result<(), BackendError> {
    let types = (queries.shape.dtype, base.shape.dtype);
    let constants = Constants { types, distance: Distance::of_metric(base.metric), long: false };
    for shard in &queries.shards {
        let (capacity, batch) = plan(task.gpu, shard.len(), base.n, k);
        in_batches(shard.len(), batch, |range| {
            let first = shard.range.start + range.start;
            let best = task.scoped(|| {
                let mut selection = Selection::new(task, constants, k, capacity, range.clone())?;
                for part in &base.shards {
                    let tiles: Vec<_> = tiles_of(range.clone(), 0..part.len()).collect();
                    let base = Base { block: part, names: Names::From(part.range.start) };
                    selection.examine(shard, &base, &tiles)?;
                }
                selection.finish(base.n)
            })?;
            best.chunks_exact(k).enumerate().for_each(|(i, best)| out.set_row(first + i, best));
            Ok(())
        })?;
    }
    Ok(())
}

/// The `k` nearest of `set` to each of `points` in the graph geometry: `(points, k)`. Where `own` is given, point i is
/// member `own + i` of the set, and not its own neighbour. `k` is not 0.
pub(super) fn among(
    task: Task<'_>,
    rows: &WgpuRows,
    points: &[u32],
    set: &[u32],
    own: Option<usize>,
    k: usize,
) -> Result<Vec<Scored>, BackendError> {
    let block = rows.shape.rows_in(task.gpu.binding().min(task.gpu.scratch() / 4));
    let (capacity, batch) = plan(task.gpu, points.len(), set.len(), k);
    let mut all = Vec::with_capacity(points.len() * k);
    in_batches(points.len(), batch.min(block), |range| {
        let best = task.scoped(|| {
            let mut commands = task.commands();
            let queries = rows.gather(task, &mut commands, &points[range.clone()])?;
            commands.submit();
            let mut selection = Selection::new(task, graph_constants(rows), k, capacity, 0..range.len())?;
            for (i, part) in set.chunks(block).enumerate() {
                let names = task.upload(part)?;
                let mut commands = task.commands();
                let base = rows.gather(task, &mut commands, part)?;
                commands.submit();
                let tiles: Vec<_> = tiles_of(0..range.len(), 0..part.len()).collect();
                // Wraps where the point lies in another part: then no row is its own.
                let own = own.map(|own| (own + range.start).wrapping_sub(i * block));
                let names = Names::Listed { names: &names, first: 0, own };
                selection.examine(&queries, &Base { block: &base, names }, &tiles)?;
                if part.len() == block {
                    // Another part may follow: its block is to take this one's memory.
                    task.wait()?;
                }
            }
            selection.finish(rows.n)
        })?;
        all.extend(best);
        Ok(())
    })?;
    complete(task, &all)?;
    Ok(all)
}

/// Refuses places without a row where there are rows for all.
fn complete(task: Task<'_>, found: &[Scored]) -> Result<(), BackendError> {
    if found.iter().any(|found| found.id == PAD_ID) { Err(task.refused("neighbours are missing")) } else { Ok(()) }
}

fn graph_constants(rows: &WgpuRows) -> Constants {
    let types = (rows.shape.dtype, rows.shape.dtype);
    Constants { types, distance: Distance::of_graph(rows.metric), long: false }
}

/// For each member of each leaf its `k` nearest other members in the graph geometry.
pub(super) fn leaf_neighbors(
    task: Task<'_>,
    rows: &WgpuRows,
    leaves: &Lists<u32>,
    k: usize,
) -> Result<Lists<Scored>, BackendError> {
    let mut out = Lists::default();
    let mut first = 0;
    while first < leaves.len() {
        let batch = leaves_of_batch(task.gpu, rows, leaves, first, k);
        if batch.is_empty() {
            // A leaf that does not fit into one binding, or has nothing to find.
            let leaf = leaves.get(first);
            let each = k.min(leaf.len().saturating_sub(1));
            if each == 0 {
                leaf.iter().for_each(|_| out.push(&[]));
            } else {
                among(task, rows, leaf, leaf, Some(0), each)?.chunks_exact(each).for_each(|best| out.push(best));
            }
            first += 1;
            continue;
        }
        let mut next = first;
        in_batches(batch.len(), batch.len(), |range| {
            let some = first + range.start..first + range.end;
            next = some.end;
            whole_leaves(task, rows, leaves, some, k, &mut out)
        })?;
        first = next;
    }
    Ok(out)
}

/// The leaves from `first` on that fit into a batch together; empty where the first does not fit.
fn leaves_of_batch(gpu: &Gpu, rows: &WgpuRows, leaves: &Lists<u32>, first: usize, k: usize) -> Range<usize> {
    let binding = gpu.binding().min(gpu.scratch() / 4) as usize;
    let row = rows.shape.row_bytes().max(NUMBERS);
    let (mut members, mut longest, mut end) = (0, 0, first);
    while end < leaves.len() {
        let size = leaves.get(end).len();
        members += size;
        longest = longest.max(size);
        let entries = k.min(longest).max(leaf_capacity(longest));
        if members * row > binding || members * entries * ENTRY > binding {
            break;
        }
        end += 1;
    }
    // At least one product: leaves without a pair go elsewhere.
    if longest < 2 || k == 0 { first..first } else { first..end }
}

/// Places of a queue for leaves of at most `longest` members: short, so that a batch has many leaves.
fn leaf_capacity(longest: usize) -> usize {
    longest.next_multiple_of(TILE).min(FIRST_CHUNK)
}

/// Leaves whose members fit into one block, appended to `out`.
fn whole_leaves(
    task: Task<'_>,
    rows: &WgpuRows,
    leaves: &Lists<u32>,
    range: Range<usize>,
    k: usize,
    out: &mut Lists<Scored>,
) -> Result<(), BackendError> {
    let start = leaves.offsets[range.start];
    let ids = &leaves.items[start..leaves.offsets[range.end]];
    let members = |leaf: usize| leaves.offsets[leaf] - start..leaves.offsets[leaf + 1] - start;
    let longest = range.clone().map(|leaf| members(leaf).len()).max().unwrap_or(0);
    let k = k.min(longest.saturating_sub(1));
    if k == 0 {
        ids.iter().for_each(|_| out.push(&[]));
        return Ok(());
    }
    let best = task.scoped(|| {
        let mut commands = task.commands();
        let block = rows.gather(task, &mut commands, ids)?;
        commands.submit();
        let names = task.upload(ids)?;
        let tiles: Vec<_> = range.clone().flat_map(|leaf| tiles_of(members(leaf), members(leaf))).collect();
        let mut selection = Selection::new(task, graph_constants(rows), k, leaf_capacity(longest), 0..ids.len())?;
        let names = Names::Listed { names: &names, first: 0, own: Some(0) };
        selection.examine(&block, &Base { block: &block, names }, &tiles)?;
        selection.finish(rows.n)
    })?;
    let mut best = best.chunks_exact(k);
    for leaf in range {
        let size = members(leaf).len();
        let each = k.min(size.saturating_sub(1));
        for best in best.by_ref().take(size) {
            complete(task, &best[..each])?;
            out.push(&best[..each]);
        }
    }
    Ok(())
}
