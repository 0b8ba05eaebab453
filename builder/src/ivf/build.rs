//! Builds an IVF-PQ index and writes its sections.

use std::sync::Arc;

use kiln_kernels::distance::Kernels;
use kiln_kernels::kmeans::{self, BalancedParams};
use kiln_kernels::pq::ProductQuantizer;
use kiln_kernels::{Backend, Metric, Progress, Rows, RowsView};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::layout::{encode_codec, encode_directory, lay_out};
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::writer::IndexWriter;
use crate::ids::Ids;
use crate::params::IvfPqParams;
use crate::quantiser::{QuantiserParams, sample_rows, scaled, train_quantiser};
use crate::record::VectorRecord;
use crate::resources::Stopwatch;

/// Rows a list that the centroids are trained on.
const TRAINING_ROWS_PER_LIST: usize = 100;

/// Lloyd iterations at each level of the clustering.
const ITERATIONS: usize = 10;

/// Rows whose residuals the quantiser is trained on at most.
const RESIDUAL_ROWS: usize = 65_536;

/// Trains, assigns, encodes and writes everything but meta; returns the number of lists, which is
/// smaller than asked for where there are fewer rows.
pub(crate) fn build_and_write<B: Backend>(
    backend: &B,
    rows: &Arc<Rows>,
    metric: Metric,
    params: &IvfPqParams,
    writer: &mut IndexWriter,
    watch: &mut Stopwatch<'_>,
    progress: &dyn Progress,
) -> Result<usize, BuilderError> {
    watch.stage("train", 0);
    let chosen = sample_rows(rows.len(), params.nlist.saturating_mul(TRAINING_ROWS_PER_LIST), params.seed);
    let training = Arc::new(rows.view().select(&chosen));
    let balanced = BalancedParams { nlist: params.nlist, iterations: ITERATIONS, seed: params.seed };
    let centroids = kmeans::balanced(backend, &training, metric, balanced, progress)?;
    drop(training);

    watch.stage("assign", 0);
    let resident = backend.upload(Arc::clone(rows), metric)?;
    let assigned = backend.kmeans_step(&resident, centroids.view())?;

    watch.stage("encode", 0);
    let sample = sample_rows(rows.len(), RESIDUAL_ROWS, params.seed + 1);
    let mut residuals = scaled(rows, &sample, metric);
    for (mut residual, &row) in residuals.outer_iter_mut().zip(&sample) {
        residual -= &centroids.row(assigned.assignments[row] as usize);
    }
    let quantiser = QuantiserParams { m: params.m, bits: params.bits, opq: params.opq, seed: params.seed };
    let pq = train_quantiser(backend, residuals.view(), quantiser)?;
    let codes = backend.pq_encode(&resident, Some((centroids.view(), &assigned.assignments)), &pq)?;
    let biases = match metric {
        Metric::L2 | Metric::Cosine => biases(&pq, &centroids, &assigned.assignments, &codes),
        Metric::InnerProduct => vec![0.0; rows.len()],
    };

    watch.stage("write", rows.len() as u64);
    let lists = lay_out(&assigned.counts, pq.code_bytes());
    let order = grouped(&assigned.assignments, &assigned.counts);
    writer.section(Section::Codec, |sink| sink.write(&encode_codec(&pq, &centroids)))?;
    writer.section(Section::Lists, |sink| {
        sink.write(&encode_directory(&lists))?;
        for list in &lists {
            sink.pad_to_page()?;
            let members = &order[list.first as usize..(list.first + list.count) as usize];
            members.iter().try_for_each(|&row| sink.write(&biases[row as usize].to_le_bytes()))?;
            members.iter().try_for_each(|&row| sink.write(&codes.row(row as usize).to_vec()))?;
        }
        Ok(())
    })?;
    let record = VectorRecord { dtype: rows.dtype(), dim: rows.dim(), metric };
    match rows.view() {
        RowsView::F32(v) => write_vectors(v, record, &order, writer, progress),
        RowsView::F16(v) => write_vectors(v, record, &order, writer, progress),
        RowsView::U8(v) => write_vectors(v, record, &order, writer, progress),
        RowsView::I8(v) => write_vectors(v, record, &order, writer, progress),
    }?;
    Ids::write(&order, writer)?;
    Ok(centroids.nrows())
}

/// |r|^2 + 2 c.r of each row's decoded residual r around its centroid c (see `layout`).
fn biases(pq: &ProductQuantizer, centroids: &Array2<f32>, assignments: &[u32], codes: &Array2<u8>) -> Vec<f32> {
    // Codes describe rotated residuals, so centroids are rotated once too; dot products do not change.
    let rotated = match pq.rotation() {
        Some(rotation) => centroids.dot(&rotation.t()),
        None => centroids.clone(),
    };
    let squares: Vec<f32> = pq.l2_table(&vec![0.0; pq.dim()]);
    let table = |list: usize| pq.dot_table(&rotated.row(list).to_vec());
    let tables: Vec<Vec<f32>> = (0..rotated.nrows()).into_par_iter().map(table).collect();
    let bias = |row: usize| {
        let code = codes.row(row).to_vec();
        pq.score(&squares, &code) - 2.0 * pq.score(&tables[assignments[row] as usize], &code)
    };
    (0..codes.nrows()).into_par_iter().map(bias).collect()
}

/// Rows grouped by list, ascending within each.
fn grouped(assignments: &[u32], counts: &[u64]) -> Vec<u32> {
    let mut next: Vec<u64> = counts
        .iter()
        .scan(0, |sum, &count| {
            *sum += count;
            Some(*sum - count)
        })
        .collect();
    let mut order = vec![0u32; assignments.len()];
    for (row, &list) in assignments.iter().enumerate() {
        let slot = &mut next[list as usize];
        order[*slot as usize] = row as u32;
        *slot += 1;
    }
    order
}

fn write_vectors<T: Kernels>(
    rows: ArrayView2<'_, T>,
    record: VectorRecord,
    order: &[u32],
    writer: &mut IndexWriter,
    progress: &dyn Progress,
) -> Result<(), BuilderError> {
    const BLOCK: usize = 1024;
    writer.section(Section::Vectors, |sink| {
        let mut block = Vec::with_capacity(BLOCK * record.bytes());
        for members in order.chunks(BLOCK) {
            block.clear();
            for &row in members {
                let vector = rows.row(row as usize);
                record.append(vector.to_slice().expect("rows are contiguous by construction"), &mut block);
            }
            sink.write(&block)?;
            progress.advance(members.len() as u64);
        }
        Ok(())
    })
}
