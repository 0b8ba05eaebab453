//! Builds an IVF-PQ index and writes its sections.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use kiln_kernels::codec::{Codec, CodecKind, ListRows, Pq4, Rabitq, Sq8Lists};
use kiln_kernels::distance::{Kernels, inverse_norm};
use kiln_kernels::kmeans::{self, BalancedParams};
use kiln_kernels::nodes::VectorRecord;
use kiln_kernels::pq::CodeBits;
use kiln_kernels::{Backend, CentroidTree, Lists, Metric, Progress, Rows, dispatch_rows};
use ndarray::{Array2, ArrayView1, ArrayView2, s};
use rayon::prelude::*;

use super::layout::{ListEntry, encode_codec, encode_directory, lay_out};
use super::nav::{NAVIGATED_LISTS, Navigation};
use super::spill::SecondLists;
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::writer::{IndexWriter, SectionSink};
use crate::ids::Ids;
use crate::params::IvfPqParams;
use crate::quantiser::{QuantiserParams, chosen_rows, sample_rows, train_quantiser};
use crate::resources::Stopwatch;

/// Rows a list that the centroids are trained on.
pub(super) const TRAINING_ROWS_PER_LIST: usize = 100;

/// Lloyd iterations at each level of the clustering.
pub(super) const ITERATIONS: usize = 10;

/// Rows whose residuals the quantiser is trained on at most.
pub(crate) const RESIDUAL_ROWS: usize = 65_536;

/// Lists encoded at a time: enough for every thread, and little memory.
const ENCODED_LISTS: usize = 64;

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
    let tree = CentroidTree::new(kmeans::balanced(backend, &training, metric, balanced, progress)?)?;
    let centroids = tree.centroids();
    drop(training);

    watch.stage("assign", 0);
    let resident = backend.upload(Arc::clone(rows), metric)?;
    let assigned = backend.kmeans_step_among(&resident, &tree)?;

    watch.stage("train codes", 0);
    let sample = sample_rows(rows.len(), RESIDUAL_ROWS, params.seed.wrapping_add(1));
    let sample_lists: Vec<u32> = sample.iter().map(|&row| assigned.assignments[row]).collect();
    let residuals = residuals(rows, &sample, metric, centroids, |i| sample_lists[i]);
    let codec = train_codec(backend, residuals.view(), centroids, params)?;
    drop(residuals);

    watch.stage("encode", 0);
    let codes = |lists: &[u32]| match codec.product() {
        Some(pq) => backend.pq_encode(&resident, Some((centroids.view(), lists)), pq),
        None => Ok(Array2::zeros((rows.len(), 0))),
    };
    let own = Members::new(&assigned.assignments, centroids.nrows(), codes(&assigned.assignments)?);
    let spilled = match params.soar && centroids.nrows() > 1 {
        true => {
            let second = SecondLists::among(backend, centroids)?.of(rows, metric, &assigned.assignments)?;
            Members::new(&second, centroids.nrows(), codes(&second)?)
        }
        false => Members::none(centroids.nrows()),
    };
    let lists = lay_out(&own.counts(), &spilled.counts(), &codec);

    watch.stage("write", rows.len() as u64);
    writer.section(Section::Codec, |sink| sink.write(&encode_codec(&codec, centroids)))?;
    if centroids.nrows() >= NAVIGATED_LISTS {
        let graph = Navigation::build(centroids, metric, params.seed);
        writer.section(Section::Nav, |sink| sink.write(&graph.to_bytes()))?;
    }
    let encoder = Encoder::new(rows, metric, &codec, centroids, &own, &spilled);
    writer.section(Section::Lists, |sink| encoder.write(backend, &resident, &lists, sink))?;
    drop(resident);
    let record = VectorRecord { dtype: rows.dtype(), dim: rows.dim(), metric };
    dispatch_rows!(rows.view(), v => write_vectors(v, record, &own.rows.items, writer, progress))?;
    Ids::write(&own.rows.items, writer)?;
    Ok(centroids.nrows())
}

/// Trains the codes on residuals `(n, dim)`.
pub(super) fn train_codec<B: Backend>(
    backend: &B,
    residuals: ArrayView2<'_, f32>,
    centroids: &Array2<f32>,
    params: &IvfPqParams,
) -> Result<Codec, BuilderError> {
    let product = |bits: CodeBits| {
        let quantiser = QuantiserParams { m: params.m, bits, opq: params.opq, seed: params.seed };
        train_quantiser(backend, residuals, quantiser)
    };
    Ok(match params.codec {
        CodecKind::Pq => Codec::Pq(product(params.bits)?),
        CodecKind::Pq4 => Codec::Pq4(Pq4::new(product(CodeBits::Four)?, centroids.view())),
        CodecKind::Rabitq(bits) => Codec::Rabitq(Rabitq::new(bits, centroids.view(), params.seed)),
        CodecKind::Sq8 => Codec::Sq8(Sq8Lists::new(residuals, centroids.view())),
    })
}

/// The chosen rows as quantisers see them, less the centroids of their lists.
pub(super) fn residuals(
    rows: &Rows,
    chosen: &[usize],
    metric: Metric,
    centroids: &Array2<f32>,
    list: impl Fn(usize) -> u32,
) -> Array2<f32> {
    let mut residuals = chosen_rows(rows, chosen, metric);
    for (i, mut residual) in residuals.outer_iter_mut().enumerate() {
        residual -= &centroids.row(list(i) as usize);
    }
    residuals
}

/// The rows of every list, with their product codes.
struct Members {
    /// Rows by list, ascending within each.
    rows: Lists<u32>,
    /// Product codes of all rows, where the codec has them, by row.
    codes: Array2<u8>,
}

impl Members {
    fn new(assignments: &[u32], nlist: usize, codes: Array2<u8>) -> Self {
        Self { rows: Lists::grouped(assignments, nlist), codes }
    }

    fn none(nlist: usize) -> Self {
        Self::new(&[], nlist, Array2::zeros((0, 0)))
    }

    fn counts(&self) -> Vec<u64> {
        self.rows.iter().map(|list| list.len() as u64).collect()
    }
}

/// Everything that lists are encoded from.
struct Encoder<'a> {
    rows: &'a Rows,
    metric: Metric,
    codec: &'a Codec,
    centroids: &'a Array2<f32>,
    own: &'a Members,
    spilled: &'a Members,
    /// Position of each row, where some are spilled.
    positions: Vec<u32>,
}

impl<'a> Encoder<'a> {
    fn new(
        rows: &'a Rows,
        metric: Metric,
        codec: &'a Codec,
        centroids: &'a Array2<f32>,
        own: &'a Members,
        spilled: &'a Members,
    ) -> Self {
        let mut positions = vec![0; if spilled.rows.items.is_empty() { 0 } else { rows.len() }];
        if !positions.is_empty() {
            own.rows.items.iter().zip(0..).for_each(|(&row, position)| positions[row as usize] = position);
        }
        Self { rows, metric, codec, centroids, own, spilled, positions }
    }

    /// Writes the directory and the lists, a few of them in memory at a time.
    fn write<B: Backend>(
        &self,
        backend: &B,
        resident: &B::Rows,
        lists: &[ListEntry],
        sink: &mut SectionSink<'_>,
    ) -> Result<(), BuilderError> {
        sink.write(&encode_directory(lists))?;
        for (chunk, some) in lists.chunks(ENCODED_LISTS).enumerate() {
            let first = chunk * ENCODED_LISTS;
            let codes = match self.codec {
                Codec::Rabitq(rabitq) => {
                    Some(self.rabitq_codes(backend, resident, rabitq, first..first + some.len())?)
                }
                Codec::Pq(_) | Codec::Pq4(_) | Codec::Sq8(_) => None,
            };
            let encode = |(i, list)| self.encode(first + i, list, codes.as_ref().map(|codes| codes.get(i)));
            let encoded: Vec<Vec<u8>> = some.par_iter().enumerate().map(encode).collect();
            for bytes in encoded {
                sink.pad_to_page()?;
                sink.write(&bytes)?;
            }
        }
        Ok(())
    }

    /// RaBitQ codes of the rows of some lists: of each list's own rows and then of the spilled.
    fn rabitq_codes<B: Backend>(
        &self,
        backend: &B,
        resident: &B::Rows,
        rabitq: &Rabitq,
        lists: Range<usize>,
    ) -> Result<Lists<u8>, BuilderError> {
        let (mut ids, mut assignments, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
        for number in lists.clone() {
            ids.extend(self.own.rows.get(number).iter().chain(self.spilled.rows.get(number)));
            assignments.resize(ids.len(), (number - lists.start) as u32);
            offsets.push(ids.len() * rabitq.row_bytes());
        }
        let centroids = self.centroids.slice(s![lists, ..]);
        let codes = backend.rabitq_encode(resident, &ids, (centroids, &assignments), rabitq)?;
        Ok(Lists { offsets, items: codes.into_raw_vec_and_offset().0 })
    }

    /// The bytes of a list. `codes` are those of its rows where they were made for it; product codes were made for all.
    fn encode(&self, number: usize, list: &ListEntry, codes: Option<&[u8]>) -> Vec<u8> {
        let (own, spilled) = (self.own.rows.get(number), self.spilled.rows.get(number));
        let residuals = if self.codec.codes_residuals() {
            let chosen: Vec<usize> = own.iter().chain(spilled).map(|&row| row as usize).collect();
            residuals(self.rows, &chosen, self.metric, self.centroids, |_| number as u32)
        } else {
            Array2::zeros((0, 0))
        };
        let product = || -> Vec<u8> {
            let of_own = own.iter().map(|&row| self.own.codes.row(row as usize));
            let of_spilled = spilled.iter().map(|&row| self.spilled.codes.row(row as usize));
            of_own.chain(of_spilled).flatten().copied().collect()
        };
        let codes = codes.map_or_else(|| Cow::Owned(product()), Cow::Borrowed);
        let centroid = self.centroids.row(number).to_vec();
        let mut bytes = Vec::new();
        let rows = ListRows { centroid: &centroid, residuals: residuals.view(), codes: &codes };
        self.codec.encode_list(rows, self.metric, &mut bytes);
        bytes.extend(spilled.iter().flat_map(|&row| self.positions[row as usize].to_le_bytes()));
        debug_assert_eq!(bytes.len() as u64, list.bytes(self.codec));
        bytes
    }
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
        for members in order.chunks(BLOCK) {
            let mut block = vec![0; members.len() * record.bytes()];
            for (&row, into) in members.iter().zip(block.chunks_exact_mut(record.bytes())) {
                write_record(rows.row(row as usize), record, into);
            }
            sink.write(&block)?;
            progress.advance(members.len() as u64);
        }
        Ok(())
    })
}

/// Writes the record of a row.
pub(super) fn write_record<T: Kernels>(row: ArrayView1<'_, T>, record: VectorRecord, into: &mut [u8]) {
    let vector = row.to_slice().expect("rows are contiguous by construction");
    let norm = if record.metric == Metric::Cosine { inverse_norm(vector) } else { 1.0 };
    record.write(bytemuck::cast_slice(vector), norm, into);
}
