//! The first pass over the rows: what the rest must know of all of them.

use kiln_datasets::blocks;
use kiln_kernels::distance::{Kernels, inverse_norm};
use kiln_kernels::{Backend, Metric, Rows, RowsView, Whole, dispatch_rows};
use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{Build, Keys};
use crate::durable::Unit;
use crate::error::BuilderError;
use crate::resources::Stopwatch;
use crate::vamana::build::SUM_BLOCK;

pub(super) const STAGE: &str = "summary";

/// What is known of all rows.
pub(super) struct Summary {
    pub whole: Whole,
    pub numbers: Numbers,
}

/// The part of it that is numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Numbers {
    /// The rows' mean, summed row by row: what the entry is nearest to.
    pub mean: Vec<f32>,
    /// The same, summed by blocks: what edge codes are centred on.
    pub center: Vec<f32>,
    /// Rows whose every coordinate is zero.
    pub zeros: u64,
    /// Of each unit's rows, as they were read.
    pub hashes: Vec<u64>,
    /// Of all of them, as 32 hexadecimal digits.
    pub hash: String,
}

impl<B: Backend> Build<'_, B> {
    /// Reads all rows, or what was kept of that.
    pub(super) fn summary(&self, keys: &Keys, watch: &mut Stopwatch<'_>) -> Result<Summary, BuilderError> {
        let unit = Unit { stage: STAGE, number: 0 };
        if !self.store.has(unit, &keys.summary) {
            watch.stage("read", self.n() as u64);
            let summary = self.summarise()?;
            let mut writer = self.store.begin(unit)?;
            writer.segment(&serde_json::to_vec(&summary.numbers).expect("numbers are plain data"))?;
            writer.segment(summary.whole.sample().as_bytes())?;
            writer.segment(summary.whole.longest().map_or(&[][..], Rows::as_bytes))?;
            writer.commit(&keys.summary, "host")?;
            self.may_stop()?;
            return Ok(summary);
        }
        let artifact = self.store.open_unit(unit)?;
        let spoiled = || BuilderError::Spoiled { path: self.store.folder().join(STAGE), stage: STAGE, number: 0 };
        let numbers = serde_json::from_slice(&self.store.read(&artifact, 0)?).map_err(|_| spoiled())?;
        let rows = |bytes: &[u8]| {
            let (dim, dtype) = (self.source.dim(), self.dtype());
            Rows::from_bytes(dtype, bytes.len() / (dim * dtype.bytes()), dim, bytes).ok_or_else(spoiled)
        };
        let sample = rows(&self.store.read(&artifact, 1)?)?;
        let longest = Some(rows(&self.store.read(&artifact, 2)?)?).filter(|rows| !rows.is_empty());
        Ok(Summary { whole: Whole::from_parts(self.n(), self.metric, sample, longest), numbers })
    }

    fn summarise(&self) -> Result<Summary, BuilderError> {
        let (n, dim) = (self.n(), self.source.dim());
        let mut whole = Whole::new(n, dim, self.dtype(), self.metric);
        let (mut mean, mut center) = (vec![0f64; dim], CenterSums::new(dim));
        let (mut zeros, mut hashes, mut hash) = (0, Vec::new(), Xxh3::new());
        for unit in 0..self.plan.units {
            let rows = self.plan.rows_of(unit, n);
            let mut unit_hash = Xxh3::new();
            for block in blocks(self.source, rows.start as u64..rows.end as u64) {
                let rows = self.source.read(block.clone())?;
                unit_hash.update(rows.as_bytes());
                let ((), ()) = rayon::join(
                    || {
                        hash.update(rows.as_bytes());
                        whole.add(block.start as usize, &rows.view());
                        if self.metric == Metric::Cosine {
                            zeros += kiln_datasets::zero_rows(&rows);
                        }
                        dispatch_rows!(rows.view(), v => add_rows(v, self.metric, &mut mean));
                    },
                    || center.add(&rows.view(), self.metric),
                );
                self.progress.advance(block.end - block.start);
            }
            hashes.push(unit_hash.digest());
        }
        let of = |sums: &[f64]| sums.iter().map(|sum| (sum / n as f64) as f32).collect();
        let (mean, center) = (of(&mean), of(&center.finish()));
        let hash = format!("{:032x}", hash.digest128());
        Ok(Summary { whole, numbers: Numbers { mean, center, zeros, hashes, hash } })
    }
}

/// Adds every row to sums of coordinates, at unit length under cosine: as `insert::medoid` does.
fn add_rows<T: Kernels>(rows: ArrayView2<'_, T>, metric: Metric, sums: &mut [f64]) {
    for row in rows.outer_iter() {
        let row = row.to_slice().expect("rows are contiguous by construction");
        let inverse = if metric == Metric::Cosine { inverse_norm(row) } else { 1.0 };
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x.to_f32() * inverse));
    }
}

/// Sums of coordinates, block by block of [`SUM_BLOCK`] rows: as `build::mean_and_radius` does.
struct CenterSums {
    whole: Vec<f64>,
    block: Vec<f64>,
    rows: usize,
}

impl CenterSums {
    fn new(dim: usize) -> Self {
        Self { whole: vec![0.0; dim], block: vec![0.0; dim], rows: 0 }
    }

    fn add(&mut self, rows: &RowsView<'_>, metric: Metric) {
        dispatch_rows!(rows, v => {
            for row in v.outer_iter() {
                let row = row.to_slice().expect("rows are contiguous by construction");
                let inverse = if metric == Metric::Cosine { inverse_norm(row) } else { 1.0 };
                self.block.iter_mut().zip(row).for_each(|(sum, x)| {
                    *sum += f64::from(kiln_kernels::Element::to_f32(*x) * inverse);
                });
                self.rows += 1;
                if self.rows == SUM_BLOCK {
                    self.end_block();
                }
            }
        });
    }

    fn end_block(&mut self) {
        self.whole.iter_mut().zip(&mut self.block).for_each(|(whole, block)| *whole += std::mem::take(block));
        self.rows = 0;
    }

    fn finish(mut self) -> Vec<f64> {
        if self.rows > 0 {
            self.end_block();
        }
        self.whole
    }
}
