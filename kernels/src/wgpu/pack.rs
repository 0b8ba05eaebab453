//! Pages of nodes, some at a time. Kernels: `wgsl/pack.wgsl`, `edge_codes.wgsl`, `hadamard.wgsl`. Twin: [`crate::nodes`] on
//! the host.
//!
//! Rows do not leave the device. Those that a batch names are gathered, and rotated, once each.

use std::ops::Range;

use super::device::{Buffer, Task, fold};
use super::pipelines::{Commands, Constants, Kernel};
use super::rotate::WgpuRotation;
use super::rows::{Block, WgpuRows};
use crate::backend::BackendError;
use crate::batches::in_batches;
use crate::edge_codes::{LANES, gaussian_step};
use crate::metric::Metric;
use crate::nodes::{Edges, NeighborCodes, NodeBlock, NodeLayout, PAGE};

/// Codes on the device.
struct Coder<'a> {
    codes: NeighborCodes<'a>,
    rotation: WgpuRotation,
    /// `(padded_dim)`, zeros behind the dimension.
    center: Buffer,
}

/// Words of `bytes`.
fn words(bytes: usize) -> u32 {
    (bytes / 4) as u32
}

pub(super) fn pack_nodes(task: Task<'_>, rows: &WgpuRows, block: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError> {
    let layout = block.layout;
    let per_page = layout.nodes_per_page();
    let coder = task.scoped(|| block.codes.map(|codes| Coder::upload(task, codes)).transpose())?;
    let width = coder.as_ref().map_or(1, |coder| coder.codes.codes.padded_dim());
    let named = if coder.is_some() { 1 + layout.max_degree } else { 1 };
    // Rows, their rotation and the pages: the largest of them decides.
    let each = (named * rows.shape.row_bytes().max(width * size_of::<f32>())).max(layout.node_bytes()) * per_page;
    let batch = task.gpu.binding().min(task.gpu.scratch() / 4) as usize / each.max(layout.pages_per_node() * PAGE);
    let mut pages = Vec::with_capacity(layout.section_bytes(block.rows.len()));
    in_batches(block.rows.len().div_ceil(per_page), batch, |some| {
        let nodes = some.start * per_page..block.rows.len().min(some.end * per_page);
        pages.extend(task.scoped(|| pack_batch(task, rows, block, coder.as_ref(), nodes))?);
        Ok(())
    })?;
    Ok(pages)
}

/// The pages of nodes of a batch.
fn pack_batch(
    task: Task<'_>,
    rows: &WgpuRows,
    block: &NodeBlock<'_>,
    coder: Option<&Coder<'_>>,
    nodes: Range<usize>,
) -> Result<Vec<u8>, BackendError> {
    let layout = block.layout;
    let of_nodes = &block.rows[nodes.clone()];
    let from = &block.places.offsets[nodes.start..=nodes.end];
    let of_batch = from[0]..from[nodes.len()];
    let neighbors = coder.map_or(&[][..], |coder| &coder.codes.rows[of_batch.clone()]);
    let mut named = [of_nodes, neighbors].concat();
    named.sort_unstable();
    named.dedup();
    let place = |id: &u32| named.partition_point(|other| other < id) as u32;

    let mut commands = task.commands();
    let gathered = rows.gather(task, &mut commands, &named)?;
    let node_rows = task.upload(&of_nodes.iter().map(place).collect::<Vec<u32>>())?;
    let offsets = task.upload(&from.iter().map(|offset| (offset - from[0]) as u32).collect::<Vec<u32>>())?;
    let positions = task.upload(&block.places.items[of_batch])?;
    let bytes = layout.section_bytes(nodes.len());
    let pages = task.allocate(bytes as u64)?;
    let (across, down) = fold(u64::from(words(bytes)).div_ceil(64));
    let params = [
        words(rows.shape.row_bytes()),
        words(layout.record.coordinates()),
        words(layout.node_bytes()),
        words(layout.pages_per_node() * PAGE),
        words(bytes),
        layout.nodes_per_page() as u32,
        nodes.len() as u32,
        layout.max_degree as u32,
        u32::from(layout.record.metric == Metric::Cosine),
        u32::from(layout.edges == Edges::Compact),
        across,
    ];
    let buffers = [&gathered.rows, &gathered.numbers, &node_rows, &offsets, &positions, &pages];
    commands.dispatch(Kernel::PackRecords, Constants::default(), &params, &buffers, (across, down))?;
    if let Some(coder) = coder {
        let neighbor_rows = task.upload(&neighbors.iter().map(place).collect::<Vec<u32>>())?;
        let rotated = coder.rotated(task, &mut commands, &gathered)?;
        let buffers = [&rotated, &node_rows, &neighbor_rows, &offsets, &coder.center, &pages];
        coder.record(&mut commands, layout, nodes.len(), &buffers)?;
    }
    commands.submit();
    task.read(&pages, bytes)
}

impl<'a> Coder<'a> {
    fn upload(task: Task<'_>, codes: NeighborCodes<'a>) -> Result<Self, BackendError> {
        let mut center = codes.codes.center().to_vec();
        center.resize(codes.codes.padded_dim(), 0.0);
        let rotation = WgpuRotation::upload(task, codes.codes.rotation())?;
        Ok(Self { codes, rotation, center: task.upload(&center)? })
    }

    fn rotated(&self, task: Task<'_>, commands: &mut Commands<'_>, rows: &Block) -> Result<Buffer, BackendError> {
        let codes = self.codes.codes;
        self.rotation.record(task, commands, rows, None, codes.metric() == Metric::Cosine, codes.padded_dim())
    }

    /// Records the codes of the neighbours of `count` nodes.
    fn record(
        &self,
        commands: &mut Commands<'_>,
        layout: NodeLayout,
        count: usize,
        buffers: &[&Buffer],
    ) -> Result<(), BackendError> {
        let codes = self.codes.codes;
        let [additive_unit, multiplicative_unit] = codes.units();
        debug_assert!(layout.max_degree.is_multiple_of(LANES));
        let (across, down) = fold(((count * layout.max_degree) as u64).div_ceil(64));
        let params = [
            codes.dim() as u32,
            codes.padded_dim() as u32,
            u32::from(codes.bits()),
            codes.metric() as u32,
            words(layout.node_bytes()),
            layout.nodes_per_page() as u32,
            words(layout.pages_per_node() * PAGE),
            words(layout.codes_at()),
            words(codes.block_bytes()),
            layout.max_degree as u32,
            count as u32,
            gaussian_step(codes.bits()).to_bits(),
            additive_unit.to_bits(),
            multiplicative_unit.to_bits(),
            across,
        ];
        commands.dispatch(Kernel::EdgeCodes, Constants::default(), &params, buffers, (across, down))
    }
}
