//! IVF-PQ for rows that memory does not hold: the same bytes, within a budget, from one pass over the rows.
//!
//! In: a source of rows, a memory budget, a [`Store`] of finished units. Out: the sections of an IVF-PQ index, equal to
//! those that [`super::build`] writes. Training looks at a sample, as it does in memory, and what follows is done row by row:
//!
//! | stage | a unit | keeps |
//! |---|---|---|
//! | sample | | the rows that centroids and codes are trained on |
//! | train | the split, then each iteration over all centroids | the centroids so far |
//! | codec | | the trained quantiser |
//! | pass | consecutive rows, in whole blocks of those that are assigned together | rows, numbers and codes, list by list |
//! | written | a part of the index file | how far that has come |
//!
//! The file is written from the units of the pass by buckets: as many lists at a time as the budget holds, a list that it
//! does not hold in parts. Of every row nothing stays in memory but its share of the page sums (4 bytes a page) and of the
//! units' counts (4 bytes a list and unit); the rest is sized from the budget ([`plan`]). Rows are numbered by u64 up to the
//! sections `ids` and `lists`, whose numbers are u32.

mod lists;
mod pass;
mod plan;
#[cfg(test)]
mod tests;
mod train;
mod write;

use kiln_datasets::RowSource;
use kiln_kernels::kmeans::BalancedParams;
use kiln_kernels::{Backend, DType, Metric, Progress};

pub(crate) use plan::{Plan, Shape, training_rows};

use super::build::ITERATIONS;
use crate::durable::{Key, Store, Work};
use crate::error::BuilderError;
use crate::file::writer::IndexWriter;
use crate::params::IvfPqParams;
use crate::resources::Stopwatch;

/// Everything that stays the same during a build.
pub(crate) struct Build<'a, B> {
    pub backend: &'a B,
    /// The rows, in the type in which they are stored.
    pub source: &'a dyn RowSource,
    pub fingerprint: &'a str,
    pub metric: Metric,
    pub params: &'a IvfPqParams,
    pub plan: Plan,
    pub store: &'a Store,
    pub progress: &'a dyn Progress,
    /// Whether to stop after the unit at hand.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// Keys of all stages.
struct Keys {
    sample: Key,
    train: Key,
    codec: Key,
    pass: Key,
    written: Key,
}

/// What a build came to.
pub(crate) struct Done {
    /// Lists, fewer than asked for where there are fewer rows.
    pub nlist: usize,
    /// Units that were there before, and units in all.
    pub resumed: usize,
    pub units: usize,
}

/// Builds the lists and writes everything but meta.
pub(crate) fn build_and_write<B: Backend>(
    build: &Build<'_, B>,
    writer: &mut IndexWriter,
    watch: &mut Stopwatch<'_>,
) -> Result<Done, BuilderError> {
    let (keys, work) = (build.keys(), build.work());
    let resumed =
        work.go_on_with(&[&keys.sample, &keys.train, &keys.codec, &keys.pass, &keys.written].map(Clone::clone))?;
    let (trained, spilled) = work.until_whole(|| {
        let trained = build.trained(&keys, watch)?;
        build.pass(&keys, &trained, watch)?;
        Ok((trained, build.spilled()?))
    })?;
    write::write(build, &keys, &trained, &spilled, writer, watch)?;
    Ok(Done { nlist: trained.tree.centroids().nrows(), resumed, units: build.store.made() + resumed })
}

impl<B> Build<'_, B> {
    fn n(&self) -> u64 {
        self.source.len()
    }

    fn dtype(&self) -> DType {
        self.source.dtype()
    }

    fn work(&self) -> Work<'_> {
        Work { store: self.store, stop: self.stop }
    }

    fn shape(&self) -> Shape<'_> {
        Shape { n: self.n(), dim: self.source.dim(), dtype: self.dtype(), metric: self.metric, params: self.params }
    }

    fn clustering(&self) -> BalancedParams {
        BalancedParams { nlist: self.params.nlist, iterations: ITERATIONS, seed: self.params.seed }
    }

    fn keys(&self) -> Keys {
        let (p, dim) = (self.params, self.source.dim());
        let sample = Key::new(
            "ivf sample 1",
            None,
            &[
                self.fingerprint.to_string(),
                format!("{} {dim} {} {}", self.n(), self.dtype(), self.metric),
                format!("{} lists, seed {}", p.nlist, p.seed),
            ],
        );
        let train = Key::new("ivf train 2", Some(&sample), &[]);
        let codec = Key::new("ivf codec 1", Some(&train), &[format!("{} {} {:?} opq {}", p.codec, p.m, p.bits, p.opq)]);
        let units = format!("soar {}, units of {} rows", p.soar, self.plan.unit_rows);
        let pass = Key::new("ivf pass 1", Some(&codec), &[units]);
        let written = Key::new("ivf written 1", Some(&pass), &[format!("{} rows at a time", self.plan.window_rows)]);
        Keys { sample, train, codec, pass, written }
    }
}
