//! Builds a Vamana index and writes its sections.

use std::sync::Arc;

use kiln_kernels::distance::{Isa, Kernels, inverse_norm};
use kiln_kernels::edge_codes::{EdgeCodes, EdgeEncoder, EdgeTraining, LANES};
use kiln_kernels::nodes::{Edges, Rotated};
use kiln_kernels::{Backend, Lists, Metric, NeighborCodes, NodeBlock, NodeLayout, Progress, Rows, dispatch_rows};
use ndarray::ArrayView2;
use rayon::prelude::*;

use super::entry::EntryTable;
use super::{Graph, insert, order, partition};
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::writer::IndexWriter;
use crate::ids::Ids;
use crate::params::{GraphMethod, VamanaParams};
use crate::quantiser::{QuantiserParams, train_quantiser};
use crate::resources::Stopwatch;

/// Pages of nodes that are made at a time.
pub(super) const PAGES_AT_A_TIME: usize = 2048;

/// Rows whose coordinates are summed at a time: fixed, so that no sum depends on the number of threads.
pub(super) const SUM_BLOCK: usize = 4096;

/// Trains, builds and writes everything but meta; returns the entry's position.
pub(crate) fn build_and_write<B: Backend>(
    backend: &B,
    rows: &Arc<Rows>,
    metric: Metric,
    params: &VamanaParams,
    writer: &mut IndexWriter,
    watch: &mut Stopwatch<'_>,
    progress: &dyn Progress,
) -> Result<u32, BuilderError> {
    let resident = backend.upload(Arc::clone(rows), metric)?;
    let graph = match params.method {
        GraphMethod::Partition => partition::build_graph(backend, &resident, rows, metric, params, watch, progress)?,
        GraphMethod::Insert => {
            // Every row is inserted once and searched for once more.
            watch.stage("graph", 2 * rows.len() as u64);
            dispatch_rows!(rows.view(), v => insert::build_graph(v, metric, params, progress))
        }
    };
    let layout = params.node_layout(rows.dtype(), rows.dim(), metric);
    watch.stage("order", 0);
    let order = order::page_order(backend, &resident, &graph, layout.nodes_per_page(), params.seed)?;
    let mut position_of = vec![0u32; order.len()];
    for (position, &row) in order.iter().enumerate() {
        position_of[row as usize] = position as u32;
    }
    let placed = Placed { graph: &graph, layout, order: &order, position_of: &position_of };
    match layout.edges {
        Edges::Compact => {
            write_codes(backend, &resident, rows, metric, params, &order, writer, watch)?;
            watch.stage("write", rows.len() as u64);
            placed.write(backend, &resident, None, writer, progress)?;
        }
        Edges::Inline { bits } => {
            watch.stage("train codes", 0);
            let (mean, radius) = dispatch_rows!(rows.view(), v => mean_and_radius(&v, metric));
            let training = EdgeTraining { mean: &mean, radius, bits, metric, seed: params.seed };
            let sampled = EntryTable::rows(rows.len(), params.seed, graph.entry as usize);
            let positions: Vec<u32> = sampled.iter().map(|&row| position_of[row]).collect();
            let entries = rows.view().select(&sampled);
            let codes = dispatch_rows!(entries.view(), v => write_edge_codes(training, v, &positions, writer))?;
            watch.stage("write", rows.len() as u64);
            placed.write(backend, &resident, Some(&codes), writer, progress)?;
        }
    }
    Ids::write(&order, writer)?;
    Ok(position_of[graph.entry as usize])
}

/// The sections `codec` and `codes` of the `compact` layout.
#[expect(clippy::too_many_arguments, reason = "each is one thing, and there is one caller")]
fn write_codes<B: Backend>(
    backend: &B,
    resident: &B::Rows,
    rows: &Arc<Rows>,
    metric: Metric,
    params: &VamanaParams,
    order: &[u32],
    writer: &mut IndexWriter,
    watch: &mut Stopwatch<'_>,
) -> Result<(), BuilderError> {
    watch.stage("train codes", 0);
    let quantiser = QuantiserParams { m: params.m, bits: params.bits, opq: params.opq, seed: params.seed };
    let sample = crate::quantiser::sample(rows, metric, params.seed);
    let pq = train_quantiser(backend, sample.view(), quantiser)?;
    watch.stage("encode", 0);
    let codes = backend.pq_encode(resident, None, &pq)?;
    writer.section(Section::Codec, |sink| sink.write(&pq.to_bytes()))?;
    writer.section(Section::Codes, |sink| {
        let (width, codes) = (codes.ncols(), codes.as_slice().expect("codes are contiguous by construction"));
        order.iter().try_for_each(|&row| sink.write(&codes[row as usize * width..][..width]))
    })
}

/// A graph whose rows have their places in the file.
struct Placed<'a> {
    graph: &'a Graph,
    layout: NodeLayout,
    /// Position -> row, and back.
    order: &'a [u32],
    position_of: &'a [u32],
}

impl Placed<'_> {
    /// The section `nodes`, with the neighbours' codes in the `inline` layout.
    fn write<B: Backend>(
        &self,
        backend: &B,
        resident: &B::Rows,
        codes: Option<&EdgeCodes>,
        writer: &mut IndexWriter,
        progress: &dyn Progress,
    ) -> Result<(), BuilderError> {
        let layout = self.layout;
        writer.section(Section::Nodes, |sink| {
            for rows in self.order.chunks(layout.nodes_per_page() * PAGES_AT_A_TIME) {
                let (mut places, mut neighbors) = (Lists::default(), Vec::new());
                for &row in rows {
                    neighbors.extend_from_slice(self.graph.neighbors(row));
                    places.offsets.push(neighbors.len());
                }
                places.items = neighbors.par_iter().map(|&row| self.position_of[row as usize]).collect();
                let codes = codes.map(|codes| NeighborCodes { codes, rows: &neighbors });
                sink.write(&backend.pack_nodes(resident, &NodeBlock { layout, rows, places: &places, codes })?)?;
                progress.advance(rows.len() as u64);
            }
            Ok(())
        })
    }
}

/// The sections `codec` and `nav` of the `inline` layout, from the rows of the entry table and their positions.
pub(super) fn write_edge_codes<T: Kernels>(
    training: EdgeTraining<'_>,
    entries: ArrayView2<'_, T>,
    positions: &[u32],
    writer: &mut IndexWriter,
) -> Result<EdgeCodes, BuilderError> {
    let mut center =
        if training.metric == Metric::InnerProduct { vec![0.0; entries.ncols()] } else { training.mean.to_vec() };
    let codes = EdgeCodes::train(training, Isa::best());
    writer.section(Section::Codec, |sink| sink.write(&codes.to_bytes()))?;

    let entry_codes = EntryTable::codes(&codes);
    center.resize(codes.padded_dim(), 0.0);
    codes.rotate(&mut center);
    let rotated = Rotated::new(&codes, entries, (0..positions.len() as u32).collect());
    let mut blocks = vec![0; EntryTable::places(positions.len()) / LANES * entry_codes.block_bytes()];
    let entry = |place: usize| (place < positions.len()).then(|| rotated.row(place as u32));
    EdgeEncoder::new(&entry_codes).encode(&center, entry, &mut blocks);
    writer.section(Section::Nav, |sink| sink.write(&EntryTable::to_bytes(positions, &blocks)))?;
    Ok(codes)
}

fn slice<'a, T>(rows: &'a ArrayView2<'_, T>, row: u32) -> &'a [T] {
    let dim = rows.ncols();
    &rows.to_slice().expect("rows are contiguous by construction")[row as usize * dim..][..dim]
}

/// A row as the codes see it: f32, of unit length under cosine.
fn widen<T: Kernels>(row: &[T], metric: Metric, into: &mut [f32]) {
    let scale = if metric == Metric::Cosine { inverse_norm(row) } else { 1.0 };
    into.iter_mut().zip(row).for_each(|(x, value)| *x = value.to_f32() * scale);
}

/// The rows' mean, and the largest distance from it, or under inner product the largest norm.
fn mean_and_radius<T: Kernels>(rows: &ArrayView2<'_, T>, metric: Metric) -> (Vec<f32>, f32) {
    let (n, dim) = (rows.nrows(), rows.ncols());
    let blocks: Vec<usize> = (0..n).step_by(SUM_BLOCK).collect();
    let in_block = |&first: &usize| first..n.min(first + SUM_BLOCK);
    let sums: Vec<Vec<f64>> = blocks
        .par_iter()
        .map(|first| {
            let (mut sums, mut row) = (vec![0f64; dim], vec![0f32; dim]);
            for at in in_block(first) {
                widen(slice(rows, at as u32), metric, &mut row);
                sums.iter_mut().zip(&row).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            sums
        })
        .collect();
    let mean: Vec<f32> = (0..dim).map(|i| (sums.iter().map(|sums| sums[i]).sum::<f64>() / n as f64) as f32).collect();
    let from = |i: usize| if metric == Metric::InnerProduct { 0.0 } else { mean[i] };
    let largest = |first: &usize| {
        let mut row = vec![0f32; dim];
        let squared = in_block(first).map(|at| {
            widen(slice(rows, at as u32), metric, &mut row);
            row.iter().enumerate().map(|(i, &x)| (x - from(i)) * (x - from(i))).sum::<f32>()
        });
        squared.fold(0.0, f32::max)
    };
    let radius = blocks.par_iter().map(largest).reduce(|| 0.0, f32::max).sqrt();
    (mean, radius)
}
