//! The sections of the index, from rows and edges on the drive.

use kiln_kernels::distance::quantiser_rows;
use kiln_kernels::edge_codes::{EdgeCodes, EdgeTraining};
use kiln_kernels::nodes::Edges;
use kiln_kernels::{Backend, Lists, NeighborCodes, NodeBlock, NodeLayout, dispatch_rows};
use rayon::prelude::*;

use super::locals::Locals;
use super::{Build, Finished};
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::writer::{IndexWriter, SectionSink};
use crate::ids::Ids;
use crate::quantiser::{QuantiserParams, SAMPLE_ROWS, sample_rows, train_quantiser};
use crate::resources::{Stopwatch, return_freed_memory};
use crate::vamana::build::{PAGES_AT_A_TIME, write_edge_codes};
use crate::vamana::entry::EntryTable;

/// What every block of nodes is made of.
struct Nodes<'a, 'b, B> {
    build: &'a Build<'b, B>,
    finished: &'a Finished,
    layout: NodeLayout,
    /// Position in the file of every row.
    position_of: Vec<u32>,
    codes: Option<EdgeCodes>,
}

/// Writes all sections but meta; returns the entry's position.
pub(super) fn write<B: Backend>(
    build: &Build<'_, B>,
    finished: Finished,
    writer: &mut IndexWriter,
    watch: &mut Stopwatch<'_>,
) -> Result<u32, BuilderError> {
    let zeros = finished.summary.numbers.zeros;
    if zeros > 0 {
        tracing::warn!("{zeros} rows are zero: under cosine they are at distance 1 from everything");
    }
    let layout = build.params.node_layout(build.dtype(), build.source.dim(), build.metric);
    let mut position_of = vec![0u32; finished.order.len()];
    for (&row, position) in finished.order.iter().zip(0..) {
        position_of[row as usize] = position;
    }
    let mut nodes = Nodes { build, finished: &finished, layout, position_of, codes: None };
    watch.stage("train codes", 0);
    match layout.edges {
        Edges::Compact => nodes.write_codes(writer, watch)?,
        Edges::Inline { bits } => nodes.codes = Some(nodes.train(bits, writer)?),
    }
    return_freed_memory();
    watch.stage("write", build.n() as u64);
    let mut locals = Locals::new(build.n());
    writer.section(Section::Nodes, |sink| {
        let order = finished.order.chunks(layout.nodes_per_page() * PAGES_AT_A_TIME);
        order.into_iter().try_for_each(|rows| {
            build.may_stop()?;
            nodes.pack(rows, &mut locals, sink)
        })
    })?;
    Ids::write(&finished.order, writer)?;
    Ok(nodes.position_of[finished.middle.entry as usize])
}

impl<B: Backend> Nodes<'_, '_, B> {
    /// The sections `codec` and `codes` of the `compact` layout.
    fn write_codes(&self, writer: &mut IndexWriter, watch: &mut Stopwatch<'_>) -> Result<(), BuilderError> {
        let Self { build, finished, .. } = self;
        let p = build.params;
        let quantiser = QuantiserParams { m: p.m, bits: p.bits, opq: p.opq, seed: p.seed };
        let chosen: Vec<u32> = sample_rows(build.n(), SAMPLE_ROWS, p.seed).into_iter().map(|row| row as u32).collect();
        let sample = quantiser_rows(&finished.rows.gather(&chosen)?.view(), build.metric);
        let pq = train_quantiser(build.backend, sample.view(), quantiser)?;
        drop(sample);
        watch.stage("encode", build.n() as u64);
        writer.section(Section::Codec, |sink| sink.write(&pq.to_bytes()))?;
        let step = build.plan.read_rows(build.source.dim() * build.dtype().bytes());
        writer.section(Section::Codes, |sink| {
            finished.order.chunks(step).try_for_each(|rows| {
                build.may_stop()?;
                let resident = build.upload(finished.rows.gather(rows)?, &finished.summary.whole)?;
                let codes = build.backend.pq_encode(&resident, None, &pq)?;
                build.progress.advance(rows.len() as u64);
                // Of a part that was made longer for its geometry, only its own rows.
                let codes = codes.as_slice().expect("codes are contiguous by construction");
                sink.write(&codes[..rows.len() * pq.code_bytes()])
            })
        })
    }

    /// The sections `codec` and `nav` of the `inline` layout.
    fn train(&self, bits: u8, writer: &mut IndexWriter) -> Result<EdgeCodes, BuilderError> {
        let Self { build, finished, .. } = self;
        let (mean, radius, seed) = (&finished.summary.numbers.center, finished.middle.radius, build.params.seed);
        let training = EdgeTraining { mean, radius, bits, metric: build.metric, seed };
        let sampled: Vec<u32> = EntryTable::rows(build.n(), seed, finished.middle.entry as usize)
            .into_iter()
            .map(|row| row as u32)
            .collect();
        let positions: Vec<u32> = sampled.iter().map(|&row| self.position_of[row as usize]).collect();
        let entries = finished.rows.gather(&sampled)?;
        dispatch_rows!(entries.view(), v => write_edge_codes(training, v, &positions, writer))
    }

    /// Packs consecutive nodes, the first of which starts a page; where the rows that they name do not fit in memory, one
    /// half of their pages after the other.
    fn pack(&self, rows: &[u32], locals: &mut Locals, sink: &mut SectionSink<'_>) -> Result<(), BuilderError> {
        let Self { build, finished, layout, position_of, codes } = self;
        let lists = finished.graph.lists(&finished.rows, rows)?;
        let named = if codes.is_some() { &lists.items[..] } else { &[] };
        let count = locals.choose(rows.iter().chain(named));
        let per_page = layout.nodes_per_page();
        if count * build.source.dim() * build.dtype().bytes() > build.plan.gathered && rows.len() > per_page {
            let (first, rest) = rows.split_at(rows.len().div_ceil(per_page).div_ceil(2) * per_page);
            self.pack(first, locals, sink)?;
            return self.pack(rest, locals, sink);
        }
        let resident = build.upload(finished.rows.gather(locals.part())?, &finished.summary.whole)?;
        let items = lists.items.par_iter().map(|&row| position_of[row as usize]).collect();
        let places = Lists { offsets: lists.offsets.clone(), items };
        let (own, neighbors) = (locals.all(rows), locals.all(named));
        let codes = codes.as_ref().map(|codes| NeighborCodes { codes, rows: &neighbors });
        let block = NodeBlock { layout: *layout, rows: &own, places: &places, codes };
        sink.write(&build.backend.pack_nodes(&resident, &block)?)?;
        build.progress.advance(rows.len() as u64);
        Ok(())
    }
}
