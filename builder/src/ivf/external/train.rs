//! The sample, and what is trained on it: centroids and codes.

use std::sync::Arc;

use kiln_datasets::gather_rows;
use kiln_kernels::codec::Codec;
use kiln_kernels::kmeans::{Balanced, ROWS_AT_A_TIME};
use kiln_kernels::{Backend, CentroidTree, Rows};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::{Build, Keys};
use crate::durable::Unit;
use crate::error::BuilderError;
use crate::ivf::build::{RESIDUAL_ROWS, TRAINING_ROWS_PER_LIST, residuals, train_codec};
use crate::quantiser::sample_rows;
use crate::resources::{Stopwatch, return_freed_memory};

const SAMPLE: Unit = Unit { stage: "sample", number: 0 };
const TRAIN: &str = "train";
const CODEC: Unit = Unit { stage: "codec", number: 0 };

/// Segments of the sample: rows for the centroids, rows for the codes, and the last rows, if they do not fill a tile.
const FOR_CENTROIDS: usize = 0;
const FOR_CODES: usize = 1;
const TAIL: usize = 2;

/// Rows that are gathered at a time.
const GATHERED: usize = 1 << 14;

/// What the rows are assigned and coded by.
pub(super) struct Trained {
    /// Centroids `(nlist, dim)`, and how rows find theirs.
    pub tree: CentroidTree,
    pub codec: Codec,
}

/// How far the clustering of a unit has come.
#[derive(Serialize, Deserialize)]
struct Progressed {
    iterations: usize,
    drawn: u64,
}

impl<B: Backend> Build<'_, B> {
    /// Centroids and quantiser, trained as far as that is not done.
    pub(super) fn trained(&self, keys: &Keys, watch: &mut Stopwatch<'_>) -> Result<Trained, BuilderError> {
        let tree = CentroidTree::new(self.centroids(keys, watch)?)?;
        let codec = self.codec(keys, &tree, watch)?;
        Ok(Trained { tree, codec })
    }

    /// The rows that the codes are trained on.
    fn rows_for_codes(&self) -> Vec<usize> {
        sample_rows(self.n() as usize, RESIDUAL_ROWS, self.params.seed.wrapping_add(1))
    }

    /// Reads the sample, where that is not done.
    fn sample(&self, keys: &Keys, watch: &mut Stopwatch<'_>) -> Result<(), BuilderError> {
        if self.store.has(SAMPLE, &keys.sample) {
            return Ok(());
        }
        let n = self.n() as usize;
        let at_most = self.params.nlist.saturating_mul(TRAINING_ROWS_PER_LIST);
        let samples = [sample_rows(n, at_most, self.params.seed), self.rows_for_codes()];
        return_freed_memory();
        watch.stage("sample", samples.iter().map(|rows| rows.len() as u64).sum());
        let mut writer = self.store.begin(SAMPLE)?;
        for chosen in samples {
            for some in chosen.chunks(GATHERED) {
                let ids: Vec<u64> = some.iter().map(|&row| row as u64).collect();
                writer.write(gather_rows(self.source, &ids)?.as_bytes())?;
                self.progress.advance(some.len() as u64);
            }
            writer.end_segment()?;
        }
        writer.segment(self.source.read((n - n % ROWS_AT_A_TIME) as u64..n as u64)?.as_bytes())?;
        writer.commit(&keys.sample, "host")?;
        self.work().may_stop()
    }

    /// A part of the sample.
    fn sampled(&self, segment: usize) -> Result<Rows, BuilderError> {
        let bytes = self.store.read(&self.store.open_unit(SAMPLE)?, segment)?;
        let (dim, dtype) = (self.source.dim(), self.dtype());
        let rows = Rows::from_bytes(dtype, bytes.len() / (dim * dtype.bytes()), dim, &bytes);
        rows.ok_or_else(|| self.store.spoiled(SAMPLE))
    }

    fn centroids(&self, keys: &Keys, watch: &mut Stopwatch<'_>) -> Result<Array2<f32>, BuilderError> {
        let params = self.clustering();
        let has = |&number: &u32| self.store.has(Unit { stage: TRAIN, number }, &keys.train);
        let latest = (0..=params.iterations as u32).rev().find(has);
        let latest = latest.map(|number| self.read_clustering(Unit { stage: TRAIN, number })).transpose()?;
        let mut clustering = match latest {
            Some(clustering) if clustering.is_settled(params) => return Ok(clustering.centroids),
            latest => {
                self.sample(keys, watch)?;
                watch.stage("train", params.steps());
                latest
            }
        };
        let sample = Arc::new(self.sampled(FOR_CENTROIDS)?);
        let points = self.backend.upload(Arc::clone(&sample), self.metric)?;
        loop {
            let next = match clustering.take() {
                None => Balanced::split(self.backend, &points, &sample, self.metric, params, self.progress)?,
                Some(mut next) => {
                    next.settle(self.backend, &points, &sample, self.metric, params, self.progress)?;
                    next
                }
            };
            self.keep_clustering(&next, keys)?;
            self.work().may_stop()?;
            if next.is_settled(params) {
                return Ok(next.centroids);
            }
            clustering = Some(next);
        }
    }

    /// Keeps a clustering in place of what it was before its last iteration.
    fn keep_clustering(&self, clustering: &Balanced, keys: &Keys) -> Result<(), BuilderError> {
        let unit = Unit { stage: TRAIN, number: clustering.iterations as u32 };
        let progressed = Progressed { iterations: clustering.iterations, drawn: clustering.drawn };
        let mut writer = self.store.begin(unit)?;
        writer.segment(&serde_json::to_vec(&progressed).expect("numbers are plain data"))?;
        let centroids = clustering.centroids.as_slice().expect("centroids are contiguous by construction");
        writer.segment(bytemuck::cast_slice(centroids))?;
        writer.commit(&keys.train, &self.backend.describe())?;
        if let Some(before) = unit.number.checked_sub(1) {
            self.store.remove(TRAIN, Some(before))?;
        }
        Ok(())
    }

    fn read_clustering(&self, unit: Unit) -> Result<Balanced, BuilderError> {
        let artifact = self.store.open_unit(unit)?;
        let spoiled = || self.store.spoiled(unit);
        let progressed = serde_json::from_slice(&self.store.read(&artifact, 0)?);
        let Progressed { iterations, drawn } = progressed.map_err(|_| spoiled())?;
        let floats: Vec<f32> = bytemuck::pod_collect_to_vec(&self.store.read(&artifact, 1)?);
        let shape = (floats.len() / self.source.dim(), self.source.dim());
        let centroids = Array2::from_shape_vec(shape, floats).map_err(|_| spoiled())?;
        Ok(Balanced { centroids, iterations, drawn })
    }

    fn codec(&self, keys: &Keys, tree: &CentroidTree, watch: &mut Stopwatch<'_>) -> Result<Codec, BuilderError> {
        if self.store.has(CODEC, &keys.codec) {
            let bytes = self.store.read(&self.store.open_unit(CODEC)?, 0)?;
            let codec = Codec::from_bytes(self.params.codec, &bytes, self.source.dim());
            return codec.map_err(|_| self.store.spoiled(CODEC));
        }
        self.sample(keys, watch)?;
        watch.stage("train codes", 0);
        let (sample, chosen) = (self.sampled(FOR_CODES)?, self.rows_for_codes());
        if chosen.len() != sample.len() {
            return Err(self.store.spoiled(SAMPLE));
        }
        let (lists, centroids) = (self.assigned(&sample, &chosen, tree)?, tree.centroids());
        let all: Vec<usize> = (0..sample.len()).collect();
        let residuals = residuals(&sample, &all, self.metric, centroids, |i| lists[i]);
        drop(sample);
        let codec = train_codec(self.backend, residuals.view(), centroids, self.params)?;
        drop(residuals);
        return_freed_memory();
        let mut writer = self.store.begin(CODEC)?;
        writer.segment(&codec.to_bytes())?;
        writer.commit(&keys.codec, &self.backend.describe())?;
        self.work().may_stop()?;
        Ok(codec)
    }

    /// The lists of the rows `chosen` (ascending), which are `sample`, as assigning all rows at once would give them: in whole
    /// tiles, and rows of the last tile in that.
    fn assigned(&self, sample: &Rows, chosen: &[usize], tree: &CentroidTree) -> Result<Vec<u32>, BuilderError> {
        let step = |rows: Rows| -> Result<Vec<u32>, BuilderError> {
            let resident = self.backend.upload(Arc::new(rows), self.metric)?;
            Ok(self.backend.kmeans_step_among(&resident, tree)?.assignments)
        };
        let tail_starts = self.n() as usize / ROWS_AT_A_TIME * ROWS_AT_A_TIME;
        let whole = chosen.partition_point(|&row| row < tail_starts);
        let filled: Vec<usize> = (0..whole.next_multiple_of(ROWS_AT_A_TIME)).map(|i| i.min(whole - 1)).collect();
        let mut lists = if whole > 0 { step(sample.view().select(&filled))? } else { Vec::new() };
        lists.truncate(whole);
        if whole < chosen.len() {
            let tail = step(self.sampled(TAIL)?)?;
            lists.extend(chosen[whole..].iter().map(|&row| tail[row - tail_starts]));
        }
        Ok(lists)
    }
}
