//! Builds an IVF-PQ index and writes its sections.

use std::sync::Arc;

use kiln_kernels::distance::Kernels;
use kiln_kernels::kmeans::{self, BalancedParams};
use kiln_kernels::pq::ProductQuantizer;
use kiln_kernels::{Backend, Metric, Progress, Rows, dispatch_rows};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::layout::{ListEntry, encode_codec, encode_directory, lay_out};
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::writer::IndexWriter;
use crate::ids::Ids;
use crate::params::IvfPqParams;
use crate::quantiser::{QuantiserParams, chosen_rows, sample_rows, train_quantiser};
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
    let balanced = BalancedParams { nlist: params.nlist, iterations: ITERATIONS, seed: params.seed };
    watch.stage("train", balanced.steps());
    let chosen = sample_rows(rows.len(), params.nlist.saturating_mul(TRAINING_ROWS_PER_LIST), params.seed);
    let training = Arc::new(rows.view().select(&chosen));
    let centroids = kmeans::balanced(backend, &training, metric, balanced, progress)?;
    drop(training);

    watch.stage("assign", 0);
    let resident = backend.upload(Arc::clone(rows), metric)?;
    let assigned = backend.kmeans_step(&resident, centroids.view())?;

    watch.stage("train codes", 0);
    let sample = sample_rows(rows.len(), RESIDUAL_ROWS, params.seed.wrapping_add(1));
    let mut residuals = chosen_rows(rows, &sample, metric);
    for (mut residual, &row) in residuals.outer_iter_mut().zip(&sample) {
        residual -= &centroids.row(assigned.assignments[row] as usize);
    }
    let quantiser = QuantiserParams { m: params.m, bits: params.bits, opq: params.opq, seed: params.seed };
    let pq = train_quantiser(backend, residuals.view(), quantiser)?;
    watch.stage("encode", 0);
    let codes = backend.pq_encode(&resident, Some((centroids.view(), &assigned.assignments)), &pq)?;
    let lists = lay_out(&assigned.counts, pq.code_bytes());
    let order = grouped(&assigned.assignments, &assigned.counts);
    let members = |list: &ListEntry| &order[list.first as usize..(list.first + list.count) as usize];
    let biases = match metric {
        Metric::L2 | Metric::Cosine => biases(&pq, &centroids, &lists, members, &codes),
        Metric::InnerProduct => vec![0.0; rows.len()],
    };

    watch.stage("write", rows.len() as u64);
    writer.section(Section::Codec, |sink| sink.write(&encode_codec(&pq, &centroids)))?;
    writer.section(Section::Lists, |sink| {
        sink.write(&encode_directory(&lists))?;
        for list in &lists {
            sink.pad_to_page()?;
            let first = list.first as usize;
            sink.write(bytemuck::cast_slice(&biases[first..first + list.count as usize]))?;
            members(list).iter().try_for_each(|&row| sink.write(code_of(&codes, row)))?;
        }
        Ok(())
    })?;
    let record = VectorRecord { dtype: rows.dtype(), dim: rows.dim(), metric };
    dispatch_rows!(rows.view(), v => write_vectors(v, record, &order, writer, progress))?;
    Ids::write(&order, writer)?;
    Ok(centroids.nrows())
}

/// A row's packed code.
fn code_of(codes: &Array2<u8>, row: u32) -> &[u8] {
    let width = codes.ncols();
    &codes.as_slice().expect("codes are contiguous by construction")[row as usize * width..][..width]
}

/// |r|^2 + 2 c.r of the decoded residual r at each position, around its list's centroid c (see `layout`).
fn biases<'a>(
    pq: &ProductQuantizer,
    centroids: &Array2<f32>,
    lists: &[ListEntry],
    members: impl Fn(&ListEntry) -> &'a [u32] + Sync,
    codes: &Array2<u8>,
) -> Vec<f32> {
    let squares = pq.l2_table(&vec![0.0; pq.dim()]);
    // One table at a time a thread: all of them together would not fit for many lists.
    let of_list = |(list, entry): (usize, &ListEntry)| -> Vec<f32> {
        // Codes describe rotated residuals, so the centroid is rotated too; dot products do not change.
        let table = pq.dot_table(&pq.rotate(&centroids.row(list).to_vec()));
        let bias = |&row: &u32| {
            let code = code_of(codes, row);
            pq.score(&squares, code) - 2.0 * pq.score(&table, code)
        };
        members(entry).iter().map(bias).collect()
    };
    lists.par_iter().enumerate().flat_map_iter(of_list).collect()
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
