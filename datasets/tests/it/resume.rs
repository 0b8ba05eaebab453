//! Exact search that is ended at any block and goes on.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kiln_datasets::{
    DatasetError, RowSource, SynthSource, SynthSpec, Truth, TruthCheckpoint, exact_truth, exact_truth_resumed,
};
use kiln_kernels::{CpuBackend, DType, Metric, NoProgress, Rows};

/// Rows that fail to be read after so many reads: a process that ends there.
struct Mortal<'a> {
    rows: &'a SynthSource,
    reads_left: AtomicU64,
}

impl RowSource for Mortal<'_> {
    fn len(&self) -> u64 {
        self.rows.len()
    }

    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn dtype(&self) -> DType {
        self.rows.dtype()
    }

    fn path(&self) -> &Path {
        self.rows.path()
    }

    fn read(&self, rows: Range<u64>) -> Result<Rows, DatasetError> {
        let left = self.reads_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(_) => self.rows.read(rows),
            Err(_) => Err(DatasetError::invalid(self.path(), "the process was ended", "run it again")),
        }
    }
}

const K: usize = 10;
/// Splits 900 base rows and 31 queries into several blocks and groups.
const BUDGET: u64 = 24 << 10;

fn sources() -> (SynthSource, SynthSource) {
    let base = SynthSource::new(&SynthSpec { clusters: 4, ..SynthSpec::new(900, 24, 6.0) }).unwrap();
    let queries = base.queries(31);
    (base, queries)
}

fn checkpoint(dir: &Path) -> TruthCheckpoint {
    TruthCheckpoint { every: Duration::ZERO, ..TruthCheckpoint::beside(&dir.join("gt größe.ibin"), "base") }
}

fn search(
    base: &dyn RowSource,
    queries: &dyn RowSource,
    budget: u64,
    checkpoint: &TruthCheckpoint,
) -> Result<Truth, DatasetError> {
    let backend = CpuBackend::default();
    exact_truth_resumed(&backend, base, queries, Metric::L2, K, budget, checkpoint, &NoProgress)
}

#[test]
fn ended_at_any_block_it_ends_the_same() {
    let (base, queries) = sources();
    let whole = exact_truth(&CpuBackend::default(), &base, &queries, Metric::L2, K, BUDGET, &NoProgress).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path());
    let mut resumed_at_once = 0;
    for reads in 0.. {
        // Each life reads so many blocks; the last one of the row is left whole.
        let mut lives = 0;
        let truth = loop {
            lives += 1;
            let mortal = Mortal { rows: &base, reads_left: AtomicU64::new(if lives == 1 { reads } else { u64::MAX }) };
            match search(&mortal, &queries, BUDGET, &checkpoint) {
                Ok(truth) => break truth,
                Err(error) => assert!(error.to_string().contains("was ended"), "{error}"),
            }
        };
        assert!(truth == whole, "another truth after {reads} blocks");
        checkpoint.remove().unwrap();
        resumed_at_once = reads;
        if lives == 1 {
            break;
        }
    }
    assert!(resumed_at_once > 20, "only {resumed_at_once} blocks: nothing was tried");
}

#[test]
fn a_search_of_many_short_lives_ends_the_same() {
    let (base, queries) = sources();
    let whole = exact_truth(&CpuBackend::default(), &base, &queries, Metric::L2, K, BUDGET, &NoProgress).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path());
    // One block a life, and now and then with another budget: other blocks, and groups that do not fit any more.
    for life in 0.. {
        let budget = [BUDGET, BUDGET, BUDGET / 2, BUDGET * 3][life % 4];
        let mortal = Mortal { rows: &base, reads_left: AtomicU64::new(2) };
        match search(&mortal, &queries, budget, &checkpoint) {
            Ok(truth) => {
                assert!(truth == whole, "another truth");
                assert!(life > 5, "{life} lives");
                break;
            }
            Err(error) => assert!(error.to_string().contains("was ended") && life < 10_000, "{error}"),
        }
    }
    // What is finished is not searched for again.
    let mortal = Mortal { rows: &base, reads_left: AtomicU64::new(0) };
    assert!(search(&mortal, &queries, BUDGET, &checkpoint).unwrap() == whole);
}

#[test]
fn another_search_does_not_go_on_from_it() {
    let (base, queries) = sources();
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path());
    let mortal = Mortal { rows: &base, reads_left: AtomicU64::new(3) };
    search(&mortal, &queries, BUDGET, &checkpoint).unwrap_err();
    let backend = CpuBackend::default();
    let refused = |base: &dyn RowSource, queries: &dyn RowSource, metric, k, place: &TruthCheckpoint| {
        let error = exact_truth_resumed(&backend, base, queries, metric, k, BUDGET, place, &NoProgress).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("gt größe.ibin.checkpoint") && message.contains("remove it"), "{message}");
    };
    let other = SynthSource::new(&SynthSpec { seed: 9, clusters: 4, ..SynthSpec::new(900, 24, 6.0) }).unwrap();
    refused(&base, &other.queries(31), Metric::L2, K, &checkpoint);
    refused(&base, &base.queries(30), Metric::L2, K, &checkpoint);
    refused(&base, &queries, Metric::Cosine, K, &checkpoint);
    refused(&base, &queries, Metric::L2, K + 1, &checkpoint);
    let elsewhere = TruthCheckpoint { base: "other".into(), ..checkpoint.clone() };
    refused(&base, &queries, Metric::L2, K, &elsewhere);
    let sound = std::fs::read(&checkpoint.path).unwrap();
    std::fs::write(&checkpoint.path, &sound[..sound.len() - 3]).unwrap();
    refused(&base, &queries, Metric::L2, K, &checkpoint);
    std::fs::write(&checkpoint.path, &sound).unwrap();
    search(&base, &queries, BUDGET, &checkpoint).unwrap();
}
