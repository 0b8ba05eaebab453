//! Nearest neighbours within small sets of rows, on the device: all pairs of many leaves, and points against leaders.
//!
//! In: rows resident there, row numbers. Out: neighbours at their distances in the graph geometry; for the reservoirs they
//! stay on the device. Each leaf is cut into tiles of 128 members against the whole leaf; one launch takes the
//! tiles of many leaves. Twins: [`crate::plain::leaf_neighbors`].

use super::driver::{Buffer, Gpu};
use super::product::{Answers, Certificate, Form, Item, Mode, RowSet, Search, TILE};
use super::rows::CudaRows;
use crate::backend::{BackendError, Lists};
use crate::batches::in_batches;
use crate::topk::{PAD_ID, Scored};

const LEAVES: &str = "leaf neighbors";
const LEADERS: &str = "nearest leaders";

/// Tiles of a launch at most.
const BATCH: usize = 1 << 16;

/// For each member of each leaf, in order, its `k` nearest other members.
pub(super) fn leaf_neighbors(
    gpu: &Gpu,
    rows: &CudaRows,
    leaves: &Lists<u32>,
    k: usize,
) -> Result<Lists<Scored>, BackendError> {
    let mut all = Lists::default();
    let mut counts =
        leaves.iter().flat_map(|leaf| std::iter::repeat_n(k.min(leaf.len().saturating_sub(1)), leaf.len()));
    each_leaf_batch(gpu, rows, leaves, k, |batch| {
        let cells = batch.members.len() * batch.k;
        let ids = gpu.download(LEAVES, &batch.answers.ids, 0..cells)?;
        let distances = gpu.download(LEAVES, &batch.answers.distances, 0..cells)?;
        for (place, count) in (0..batch.members.len()).zip(&mut counts) {
            let place = place * batch.k..place * batch.k + count;
            let scored = ids[place.clone()].iter().zip(&distances[place]);
            all.items.extend(scored.map(|(&id, &distance)| Scored { distance, id }));
            all.offsets.push(all.items.len());
        }
        Ok(())
    })?;
    // No leaf has two members, or k is 0.
    all.offsets.extend(counts.map(|_| 0));
    Ok(all)
}

/// What a launch of tiles answered: the neighbours of consecutive members.
pub(super) struct LeafBatch<'a> {
    /// The members: a part of all leaves' members, one after another.
    pub members: &'a [u32],
    /// Places of an answer.
    pub k: usize,
    pub answers: Answers,
}

/// Runs `take` on the answers of batch after batch of the leaves' members, in order; on nothing where no member has a
/// neighbour to name. A batch for which memory does not suffice (`take` included) is tried again in halves.
pub(super) fn each_leaf_batch(
    gpu: &Gpu,
    rows: &CudaRows,
    leaves: &Lists<u32>,
    k: usize,
    mut take: impl FnMut(LeafBatch<'_>) -> Result<(), BackendError>,
) -> Result<(), BackendError> {
    let k = k.min(leaves.iter().map(<[u32]>::len).max().unwrap_or(0).saturating_sub(1));
    if k == 0 {
        return Ok(());
    }
    let tiles: Vec<Item> = leaves
        .offsets
        .windows(2)
        .flat_map(|leaf| {
            let tile = move |first: usize| Item {
                row_first: first as u32,
                row_count: TILE.min(leaf[1] - first) as u32,
                base_first: leaf[0] as u32,
                base_count: (leaf[1] - leaf[0]) as u32,
                list: 0,
            };
            (leaf[0]..leaf[1]).step_by(TILE).map(tile)
        })
        .collect();
    let members = gpu.upload(LEAVES, &leaves.items)?;
    let form = Form::of(rows.dtype, rows.dtype);
    let set = RowSet::new(rows, Some(&members), form);
    let search = Search {
        gpu,
        operation: LEAVES,
        form,
        mode: Mode::graph(rows.metric),
        rows: set,
        base: set,
        k,
        exclude_self: true,
        certificate: Certificate::none(),
    };
    tile_batches(&search, &tiles, |range, answers| take(LeafBatch { members: &leaves.items[range], k, answers }))
}

/// The `k` nearest of `leaders` to each of `points`, nearest first: `(points, min(k, leaders))`.
pub(super) fn nearest_leaders(
    gpu: &Gpu,
    rows: &CudaRows,
    points: &[u32],
    leaders: &[u32],
    k: usize,
) -> Result<Vec<u32>, BackendError> {
    let k = k.min(leaders.len());
    if k == 0 {
        return Ok(Vec::new());
    }
    let (device_points, device_leaders) = (gpu.upload(LEADERS, points)?, gpu.upload(LEADERS, leaders)?);
    let form = Form::of(rows.dtype, rows.dtype);
    let search = Search {
        gpu,
        operation: LEADERS,
        form,
        mode: Mode::graph(rows.metric),
        rows: RowSet::new(rows, Some(&device_points), form),
        base: RowSet::new(rows, Some(&device_leaders), form),
        k,
        exclude_self: false,
        certificate: Certificate::none(),
    };
    let tile = |first: usize| Item {
        row_first: first as u32,
        row_count: TILE.min(points.len() - first) as u32,
        base_first: 0,
        base_count: leaders.len() as u32,
        list: 0,
    };
    let tiles: Vec<Item> = (0..points.len()).step_by(TILE).map(tile).collect();
    let mut nearest = Vec::with_capacity(points.len() * k);
    tile_batches(&search, &tiles, |range, answers| {
        nearest.extend(gpu.download(LEADERS, &answers.ids, 0..range.len() * k)?);
        Ok(())
    })?;
    debug_assert!(!nearest.contains(&PAD_ID));
    Ok(nearest)
}

/// Searches tile after tile, many a launch; `take` gets the positions of the rows that were searched, and their answers.
fn tile_batches(
    search: &Search<'_>,
    tiles: &[Item],
    mut take: impl FnMut(std::ops::Range<usize>, Answers) -> Result<(), BackendError>,
) -> Result<(), BackendError> {
    let room = search.gpu.memory_left(search.operation)? as usize / 2;
    let batch = (room / (TILE * search.bytes_a_row(1))).clamp(1, BATCH);
    in_batches(tiles.len(), batch, |range| {
        let first = tiles[range.start].row_first;
        let tiles: Vec<Item> =
            tiles[range].iter().map(|tile| Item { list: u64::from(tile.row_first - first), ..*tile }).collect();
        let count = tiles.iter().map(|tile| tile.row_count as usize).sum::<usize>();
        let lists: Buffer<u64> = search.gpu.alloc(search.operation, count * search.selected())?;
        search.select(&tiles, &lists)?;
        let (answers, _) = search.answer(&lists, first as usize, count)?;
        drop(lists);
        take(first as usize..first as usize + count, answers)
    })
}
