//! The whole build over files that lose power, are full, fail, or are damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_datasets::MemorySource;
use kiln_kernels::{CpuBackend, NoProgress};
use ndarray::Array2;
use tempfile::TempDir;

use super::units::Wanted;
use super::*;
use crate::durable::simulated::{Fault, Simulated};
use crate::params::IndexParams;
use crate::search_types::IndexKind;

const ROWS: usize = 2400;
const FOLDER: &str = "/x.kiln.work";

struct Task {
    source: MemorySource,
    params: VamanaParams,
    folder: TempDir,
}

impl Task {
    fn new() -> Self {
        Self::of(ROWS, 0)
    }

    /// So many rows, the first of which are copies of one.
    fn of(rows: usize, copies: usize) -> Self {
        // Few values, so that there are ties everywhere, and copies.
        let value = |i: usize, j: usize| ((i * 2_654_435_761) >> (4 * j + 3)) as u8 % 23;
        let rows = Array2::from_shape_fn((rows, 6), |(i, j)| value(i.max(copies), j));
        let IndexParams::Vamana(params) = IndexParams::defaults(IndexKind::Vamana, rows.nrows() as u64, 6) else {
            unreachable!("asked for")
        };
        let params = VamanaParams { max_degree: 12, build_list: 20, m: 2, ..params };
        let folder = tempfile::tempdir().expect("temporary folder");
        Self { source: MemorySource::new(Rows::U8(rows), "made-up rows"), params, folder }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("x.kiln")
    }

    fn written(
        &self,
        build: impl FnOnce(&mut IndexWriter, &mut Stopwatch<'_>) -> Result<(), BuilderError>,
    ) -> Result<Vec<u8>, BuilderError> {
        let (mut writer, mut watch) = (IndexWriter::open(&self.out())?, Stopwatch::start(&NoProgress));
        build(&mut writer, &mut watch)?;
        writer.finish(|| (), || Ok(()))?;
        Ok(std::fs::read(self.out()).expect("finished"))
    }

    fn in_memory(&self) -> Vec<u8> {
        let rows = Arc::new(self.source.read(0..self.source.len()).expect("read"));
        let write = |writer: &mut IndexWriter, watch: &mut Stopwatch<'_>| {
            let (backend, params) = (&CpuBackend::new(), &self.params);
            writer.go_on(&[])?;
            crate::vamana::build::build_and_write(backend, &rows, Metric::L2, params, writer, watch, &NoProgress)
                .map(drop)
        };
        self.written(write).expect("built")
    }

    /// Builds on these files, stopping after so many units.
    fn on(&self, files: &Simulated, units: usize) -> Result<Vec<u8>, BuilderError> {
        let store = Store::open(Arc::new(files.clone()), Path::new(FOLDER), "fingerprint")?;
        self.with(&store, units, |build| self.written(|writer, watch| build_and_write(build, writer, watch).map(drop)))
    }

    /// The same by so many machines in turn, who share nothing but the files, each of which starts anew for every stage.
    fn shared(&self, files: &Simulated, machines: u32) -> Result<Vec<u8>, BuilderError> {
        let store = || Store::shared(Arc::new(files.clone()), Path::new(FOLDER), "fingerprint");
        loop {
            let standings = self.with(&store(), usize::MAX, |build| build.survey())?;
            let Some(ready) = standings.iter().find(|standing| standing.ready) else { break };
            for index in 0..machines {
                let wanted = Wanted::Share { index, of: machines };
                self.with(&store(), usize::MAX, |build| {
                    build.make(ready.stage, &wanted, &mut Stopwatch::start(&NoProgress))
                })?;
            }
        }
        self.with(&store(), usize::MAX, |build| {
            self.written(|writer, watch| build.write_shared(writer, watch).map(drop))
        })
    }

    fn with<R>(
        &self,
        store: &Store,
        units: usize,
        work: impl FnOnce(&Build<'_, CpuBackend>) -> Result<R, BuilderError>,
    ) -> Result<R, BuilderError> {
        // Small enough that everything takes several parts, blocks are halved, and large clusters are split on the drive.
        let rows = self.source.len() as usize;
        let plan = Plan {
            budget: 0,
            unit_rows: 700,
            units: rows.div_ceil(700) as u32,
            group_places: 5000,
            most_places: 1100,
            bytes_a_place: 1,
            batch_places: 2000,
            gathered: 6000,
            block_rows: 300,
        };
        let left = AtomicUsize::new(units);
        let stop = || left.fetch_sub(1, Ordering::Relaxed) == 0;
        let build = Build {
            backend: &CpuBackend::new(),
            source: &self.source,
            fingerprint: "fingerprint",
            metric: Metric::L2,
            params: &self.params,
            plan,
            store,
            progress: &NoProgress,
            scope: Scope::All,
            stop: &stop,
        };
        work(&build)
    }
}

#[test]
fn machines_that_share_files_make_the_same_bytes() {
    for (rows, copies, machines) in [(ROWS, 0, 1), (ROWS, 0, 3), (5000, 2000, 2)] {
        let task = Task::of(rows, copies);
        let built = task.shared(&Simulated::new(), machines).expect("built");
        assert!(built == task.in_memory(), "{rows} rows, {copies} copies, {machines} machines");
    }
}

#[test]
fn a_shared_build_goes_on_after_any_machine_or_drive_fails() {
    let task = Task::new();
    let (expected, files) = (task.in_memory(), Simulated::new());
    assert!(task.shared(&files, 2).expect("nothing fails") == expected);
    let operations = files.operations();
    for i in 0..24 {
        let files = Simulated::new();
        let fault = [Fault::Power, Fault::Full, Fault::Broken][i as usize % 3];
        files.fail_at(operations * i / 24 + i % 5, fault);
        match task.shared(&files, 2) {
            Ok(built) => assert!(built == expected, "{fault:?} {i}"),
            Err(BuilderError::Io { path, .. }) => assert!(path.starts_with(FOLDER), "{}", path.display()),
            Err(other) => panic!("{fault:?} {i}: {other}"),
        }
        let files = if fault == Fault::Power { files.after_power_loss(i) } else { files };
        files.fail_at(u64::MAX / 2, fault);
        let built = task.shared(&files, 3).unwrap_or_else(|error| panic!("{fault:?} {i}: {error}"));
        assert!(built == expected, "{fault:?} {i}");
    }
}

#[test]
fn clusters_that_memory_does_not_hold_are_split_on_the_drive() {
    for copies in [0, 4000] {
        let task = Task::of(9000, copies);
        assert!(task.on(&Simulated::new(), usize::MAX).expect("built") == task.in_memory(), "{copies} copies");
    }
}

#[test]
fn the_power_may_go_at_any_moment() {
    let task = Task::new();
    let (expected, files) = (task.in_memory(), Simulated::new());
    assert!(task.on(&files, usize::MAX).expect("nothing fails") == expected);
    let operations = files.operations();
    assert!(operations > 500, "{operations}");
    for i in 0..40 {
        // Spread over all of it, and at a different phase of the units each time.
        let at = operations * i / 40 + i % 7;
        let files = Simulated::new();
        files.fail_at(at, Fault::Power);
        assert!(task.on(&files, usize::MAX).is_err(), "operation {at} was not missed");
        let files = files.after_power_loss(i);
        let built = task.on(&files, usize::MAX).unwrap_or_else(|error| panic!("operation {at}: {error}"));
        assert!(built == expected, "operation {at}");
    }
}

#[test]
fn a_full_or_failing_drive_is_told_and_loses_nothing() {
    let task = Task::new();
    let (expected, files) = (task.in_memory(), Simulated::new());
    task.on(&files, usize::MAX).expect("nothing fails");
    let operations = files.operations();
    for (i, fault) in (0..24).zip([Fault::Full, Fault::Broken].into_iter().cycle()) {
        let files = Simulated::new();
        files.fail_at(operations * i / 24, fault);
        match task.on(&files, usize::MAX) {
            Ok(built) => assert!(built == expected),
            Err(BuilderError::Io { path, .. }) => assert!(path.starts_with(FOLDER), "{}", path.display()),
            Err(other) => panic!("{fault:?}: {other}"),
        }
        files.fail_at(u64::MAX / 2, fault);
        assert!(task.on(&files, usize::MAX).expect("the drive works again") == expected);
    }
}

#[test]
fn damaged_units_are_made_again() {
    let task = Task::new();
    let expected = task.in_memory();
    for units in [1, 4, 8, 12, 16, 20, 24] {
        let stopped = || {
            let files = Simulated::new();
            assert!(matches!(task.on(&files, units), Err(BuilderError::Interrupted { .. })), "{units}");
            files
        };
        let (first, last) = {
            let all = stopped().all();
            let named = |(path, length): &(PathBuf, usize)| (path.clone(), *length);
            let units: Vec<_> = all.iter().filter(|(path, _)| !path.ends_with("manifest.json")).map(named).collect();
            (units[0].clone(), units[units.len() - 1].clone())
        };
        for (path, length) in [first, last] {
            for at in [0, length / 2, length - 1] {
                let files = stopped();
                files.damage(&path, at);
                let built = task.on(&files, usize::MAX).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                assert!(built == expected, "{} damaged at {at}", path.display());
            }
        }
        let files = stopped();
        files.damage(&Path::new(FOLDER).join("manifest.json"), 30);
        assert!(task.on(&files, usize::MAX).expect("recovered") == expected);
    }
}
