//! The sections of the index, from rows and edges on the drive.

use kiln_kernels::distance::quantiser_rows;
use kiln_kernels::edge_codes::{EdgeCodes, EdgeTraining};
use kiln_kernels::nodes::Edges;
use kiln_kernels::pq::ProductQuantizer;
use kiln_kernels::{Backend, Lists, NeighborCodes, NodeBlock, NodeLayout, dispatch_rows};
use rayon::prelude::*;

use super::locals::Locals;
use super::{Build, Finished, Keys};
use crate::durable::{Unit, Written};
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::writer::{IndexWriter, SectionSink};
use crate::ids::Ids;
use crate::quantiser::{QuantiserParams, SAMPLE_ROWS, sample_rows, train_quantiser};
use crate::resources::{Stopwatch, return_freed_memory};
use crate::vamana::build::{PAGES_AT_A_TIME, write_edge_codes};
use crate::vamana::entry::EntryTable;

const CODEC: Unit = Unit { stage: "codec", number: 0 };

/// What every block of nodes is made of.
struct Nodes<'a, 'b, B> {
    build: &'a Build<'b, B>,
    finished: &'a Finished,
    written: Written<'a>,
    layout: NodeLayout,
    /// Position in the file of every row.
    position_of: Vec<u32>,
    codes: Option<EdgeCodes>,
}

/// Writes all sections but meta, from where an earlier process ended; returns the entry's position.
pub(super) fn write<B: Backend>(
    build: &Build<'_, B>,
    keys: &Keys,
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
    let index_bytes = (layout.section_bytes(build.n()) + build.n() * build.params.m) as u64;
    let written = Written { store: build.store, key: &keys.written, index_bytes, kept: !build.store.is_shared() };
    written.go_on(writer)?;
    let mut nodes = Nodes { build, finished: &finished, written, layout, position_of, codes: None };
    watch.stage("train codes", 0);
    match layout.edges {
        Edges::Compact => nodes.write_codes(keys, writer, watch)?,
        Edges::Inline { bits } => nodes.codes = Some(nodes.train(bits, writer)?),
    }
    return_freed_memory();
    watch.stage("write", build.n() as u64);
    let mut locals = Locals::new(build.n());
    writer.section(Section::Nodes, |sink| {
        let steps = finished.order.chunks(layout.nodes_per_page() * PAGES_AT_A_TIME).zip(1..);
        steps.skip(sink.steps() as usize).try_for_each(|(rows, steps)| {
            nodes.pack(rows, &mut locals, sink)?;
            nodes.mark(sink, steps)
        })
    })?;
    Ids::write(&finished.order, writer)?;
    Ok(nodes.position_of[finished.middle.entry as usize])
}

impl<B: Backend> Nodes<'_, '_, B> {
    /// After a step: where it was marked the build may be stopped, and where nothing is marked at all.
    fn mark(&self, sink: &mut SectionSink<'_>, steps: u64) -> Result<(), BuilderError> {
        if self.written.mark(sink, steps)? || !self.written.kept {
            self.build.may_stop()?;
        }
        Ok(())
    }

    /// The sections `codec` and `codes` of the `compact` layout.
    fn write_codes(
        &self,
        keys: &Keys,
        writer: &mut IndexWriter,
        watch: &mut Stopwatch<'_>,
    ) -> Result<(), BuilderError> {
        let Self { build, finished, .. } = self;
        if writer.has(Section::Codes) {
            return Ok(());
        }
        let pq = self.quantiser(keys)?;
        watch.stage("encode", build.n() as u64);
        writer.section(Section::Codec, |sink| sink.write(&pq.to_bytes()))?;
        let step = build.plan.read_rows(build.source.dim() * build.dtype().bytes());
        writer.section(Section::Codes, |sink| {
            finished.order.chunks(step).zip(1..).skip(sink.steps() as usize).try_for_each(|(rows, steps)| {
                let resident = build.upload(finished.rows.gather(rows)?, &finished.summary.whole)?;
                let codes = build.backend.pq_encode(&resident, None, &pq)?;
                build.progress.advance(rows.len() as u64);
                // Of a part that was made longer for its geometry, only its own rows.
                let codes = codes.as_slice().expect("codes are contiguous by construction");
                sink.write(&codes[..rows.len() * pq.code_bytes()])?;
                self.mark(sink, steps)
            })
        })
    }

    /// What rows are coded by, trained where that is not done.
    fn quantiser(&self, keys: &Keys) -> Result<ProductQuantizer, BuilderError> {
        let Self { build, finished, .. } = self;
        let (p, store) = (build.params, build.store);
        if !store.is_shared() && store.has(CODEC, &keys.codec) {
            let bytes = store.read(&store.open_unit(CODEC)?, 0)?;
            return ProductQuantizer::from_bytes(&bytes).map_err(|_| store.spoiled(CODEC));
        }
        let quantiser = QuantiserParams { m: p.m, bits: p.bits, opq: p.opq, seed: p.seed };
        let chosen: Vec<u32> = sample_rows(build.n(), SAMPLE_ROWS, p.seed).into_iter().map(|row| row as u32).collect();
        let sample = quantiser_rows(&finished.rows.gather(&chosen)?.view(), build.metric);
        let pq = train_quantiser(build.backend, sample.view(), quantiser)?;
        if !store.is_shared() {
            let mut unit = store.begin(CODEC)?;
            unit.segment(&pq.to_bytes())?;
            unit.commit(&keys.codec, &build.backend.describe())?;
        }
        Ok(pq)
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
        let Self { build, finished, layout, position_of, codes, .. } = self;
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
