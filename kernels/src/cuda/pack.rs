//! Pages of nodes, some at a time. Kernels: `kernels/cuda/pack.cu`, `rotate.cu`. Twin: [`crate::nodes`] on the host, equal
//! byte by byte.
//!
//! Rows do not leave the device. Those that a batch names are rotated once each, on the device.

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::driver::{Arg, Buffer, Gpu};
use super::rotate::{CudaRotation, Unrotated};
use super::rows::{CudaRows, InverseNorms};
use crate::backend::BackendError;
use crate::batches::in_batches;
use crate::edge_codes::{LANES, gaussian_step};
use crate::nodes::{Edges, NeighborCodes, NodeBlock, NodeLayout, PACK, PAGE};

/// Bytes of rotated rows in a batch, at most.
const BATCH_BYTES: usize = 256 << 20;

/// `pack::Layout` of the kernels.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LayoutArg {
    node_words: u32,
    nodes_a_page: u32,
    page_words: u32,
    coordinate_words: u32,
    record_words: u32,
    max_degree: u32,
    compact: u32,
}

impl LayoutArg {
    fn new(layout: NodeLayout) -> Self {
        let words = |bytes: usize| (bytes / 4) as u32;
        Self {
            node_words: words(layout.node_bytes()),
            nodes_a_page: layout.nodes_per_page() as u32,
            page_words: words(layout.pages_per_node() * PAGE),
            coordinate_words: words(layout.record.coordinates()),
            record_words: words(layout.record.bytes()),
            max_degree: layout.max_degree as u32,
            compact: u32::from(layout.edges == Edges::Compact),
        }
    }
}

/// `pack::Codes` of the kernels.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CodesArg {
    dim: u32,
    padded: u32,
    bits: u32,
    metric: u32,
    step: f32,
    additive_unit: f32,
    multiplicative_unit: f32,
}

/// Codes on the device.
struct Coder<'a> {
    codes: NeighborCodes<'a>,
    rotation: CudaRotation,
    center: Buffer<f32>,
    arg: CodesArg,
}

/// A batch of nodes on the device.
struct Batch<'a> {
    block: &'a NodeBlock<'a>,
    nodes: std::ops::Range<usize>,
    /// Where each node's neighbours begin among those of the batch, `(nodes + 1)`.
    offsets: Buffer<u32>,
    pages: Buffer<u8>,
    layout: LayoutArg,
}

pub(super) fn pack_nodes(gpu: &Gpu, rows: &CudaRows, block: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError> {
    let layout = block.layout;
    let per_page = layout.nodes_per_page();
    let norms = rows.inverse_norms(gpu, PACK, rows.metric)?;
    let coder = block.codes.map(|codes| Coder::upload(gpu, codes)).transpose()?;
    let width = coder.as_ref().map_or(1, |coder| coder.codes.codes.padded_dim());
    let page_bytes = per_page * (1 + layout.max_degree) * width * size_of::<f32>();
    let mut pages = Vec::with_capacity(layout.section_bytes(block.rows.len()));
    in_batches(block.rows.len().div_ceil(per_page), BATCH_BYTES / page_bytes, |some| {
        let nodes = some.start * per_page..block.rows.len().min(some.end * per_page);
        let batch = Batch::records(gpu, rows, &norms, block, nodes)?;
        if let Some(coder) = &coder {
            coder.encode(gpu, rows, &norms, &batch)?;
        }
        pages.extend(gpu.download(PACK, &batch.pages, 0..batch.pages.len())?);
        Ok(())
    })?;
    Ok(pages)
}

impl<'a> Batch<'a> {
    /// Pages with the records and places of some nodes.
    fn records(
        gpu: &Gpu,
        rows: &CudaRows,
        norms: &InverseNorms<'_>,
        block: &'a NodeBlock<'a>,
        nodes: std::ops::Range<usize>,
    ) -> Result<Self, BackendError> {
        let count = nodes.len();
        let from = &block.places.offsets[nodes.start..=nodes.end];
        let offsets: Vec<u32> = from.iter().map(|offset| (offset - from[0]) as u32).collect();
        let offsets = gpu.upload(PACK, &offsets)?;
        let positions = gpu.upload(PACK, &block.places.items[from[0]..from[count]])?;
        let ids = gpu.upload(PACK, &block.rows[nodes.clone()])?;
        let pages = gpu.zeroed::<u8>(PACK, block.layout.section_bytes(count))?;
        let layout = LayoutArg::new(block.layout);
        let args = [
            (&rows.data).into(),
            Arg::U64(rows.pitch as u64),
            norms.arg(),
            (&ids).into(),
            (&offsets).into(),
            (&positions).into(),
            (&pages).into(),
            Arg::Struct(bytemuck::bytes_of(&layout)),
            Arg::U32(count as u32),
        ];
        gpu.launch(PACK, "pack_records", [count.div_ceil(8) as u32, 1, 1], 256, 0, &args)?;
        Ok(Self { block, nodes, offsets, pages, layout })
    }
}

impl<'a> Coder<'a> {
    fn upload(gpu: &Gpu, codes: NeighborCodes<'a>) -> Result<Self, BackendError> {
        let own = codes.codes;
        let [additive_unit, multiplicative_unit] = own.units();
        let arg = CodesArg {
            dim: own.dim() as u32,
            padded: own.padded_dim() as u32,
            bits: u32::from(own.bits()),
            metric: own.metric() as u32,
            step: gaussian_step(own.bits()),
            additive_unit,
            multiplicative_unit,
        };
        let rotation = CudaRotation::upload(gpu, PACK, own.rotation())?;
        Ok(Self { codes, rotation, center: gpu.upload(PACK, own.center())?, arg })
    }

    /// Adds the codes of the neighbours of a batch's nodes to its pages.
    fn encode(
        &self,
        gpu: &Gpu,
        rows: &CudaRows,
        norms: &InverseNorms<'_>,
        batch: &Batch<'_>,
    ) -> Result<(), BackendError> {
        let Batch { block, nodes, offsets, pages, layout } = batch;
        let of_nodes = &block.rows[nodes.clone()];
        let places = &block.places.offsets;
        let neighbors = &self.codes.rows[places[nodes.start]..places[nodes.end]];
        let mut named = [of_nodes, neighbors].concat();
        named.par_sort_unstable();
        named.dedup();
        let ids = gpu.upload(PACK, &named)?;
        let unrotated = Unrotated {
            data: (&rows.data).into(),
            pitch: rows.pitch,
            dtype: rows.dtype,
            norms,
            ids: Some(&ids),
            residual_to: None,
        };
        let rotated = self.rotation.apply(gpu, PACK, &unrotated, named.len(), self.arg.padded as usize)?;
        let place = |id: &u32| named.partition_point(|other| other < id) as u32;
        let of_nodes = gpu.upload(PACK, &of_nodes.par_iter().map(place).collect::<Vec<u32>>())?;
        let neighbors = gpu.upload(PACK, &neighbors.par_iter().map(place).collect::<Vec<u32>>())?;
        let args = [
            (&rotated).into(),
            (&of_nodes).into(),
            (&neighbors).into(),
            offsets.into(),
            (&self.center).into(),
            pages.into(),
            Arg::Struct(bytemuck::bytes_of(layout)),
            Arg::Struct(bytemuck::bytes_of(&self.arg)),
        ];
        let blocks = nodes.len() * block.layout.max_degree / LANES;
        gpu.launch(PACK, "pack_codes", [blocks as u32, 1, 1], 256, 0, &args)
    }
}
