//! Builds a Vamana index and writes its sections.

use std::sync::Arc;

use kiln_kernels::distance::Kernels;
use kiln_kernels::{Backend, Metric, Progress, Rows, dispatch_rows};
use ndarray::ArrayView2;

use super::layout::NodeLayout;
use super::{Graph, insert, order, partition};
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::writer::IndexWriter;
use crate::ids::Ids;
use crate::params::{GraphMethod, VamanaParams};
use crate::quantiser::{QuantiserParams, train_quantiser};
use crate::record::VectorRecord;
use crate::resources::Stopwatch;

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

    watch.stage("train codes", 0);
    let quantiser = QuantiserParams { m: params.m, bits: params.bits, opq: params.opq, seed: params.seed };
    let sample = crate::quantiser::sample(rows, metric, params.seed);
    let pq = train_quantiser(backend, sample.view(), quantiser)?;

    watch.stage("encode", 0);
    let codes = backend.pq_encode(&resident, None, &pq)?;

    watch.stage("write", rows.len() as u64);
    let record = VectorRecord { dtype: rows.dtype(), dim: rows.dim(), metric };
    let layout = NodeLayout { record, max_degree: params.max_degree };
    let order = order::page_order(&graph, layout.nodes_per_page());
    assert_eq!(order.len(), rows.len(), "after the repair every row is reachable");
    let mut position_of = vec![0u32; order.len()];
    for (position, &row) in order.iter().enumerate() {
        position_of[row as usize] = position as u32;
    }
    writer.section(Section::Codec, |sink| sink.write(&pq.to_bytes()))?;
    writer.section(Section::Codes, |sink| {
        let (width, codes) = (codes.ncols(), codes.as_slice().expect("codes are contiguous by construction"));
        order.iter().try_for_each(|&row| sink.write(&codes[row as usize * width..][..width]))
    })?;
    dispatch_rows!(rows.view(), v => write_nodes(v, &graph, layout, &order, &position_of, writer, progress))?;
    Ids::write(&order, writer)?;
    Ok(position_of[graph.entry as usize])
}

fn write_nodes<T: Kernels>(
    rows: ArrayView2<'_, T>,
    graph: &Graph,
    layout: NodeLayout,
    order: &[u32],
    position_of: &[u32],
    writer: &mut IndexWriter,
    progress: &dyn Progress,
) -> Result<(), BuilderError> {
    writer.section(Section::Nodes, |sink| {
        let mut page = Vec::new();
        for nodes in order.chunks(layout.nodes_per_page()) {
            page.clear();
            for &row in nodes {
                let vector = rows.row(row as usize);
                layout.record.append(vector.to_slice().expect("rows are contiguous by construction"), &mut page);
                layout.append_edges(graph.neighbors(row).iter().map(|&n| position_of[n as usize]), &mut page);
            }
            sink.write(&page)?;
            sink.pad_to_page()?;
            progress.advance(nodes.len() as u64);
        }
        Ok(())
    })
}
