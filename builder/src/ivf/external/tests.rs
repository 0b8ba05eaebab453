//! The whole build over odd shapes, and over files that lose power, are full, fail, or are damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_datasets::{MemorySource, RowSource};
use kiln_kernels::codec::CodecKind;
use kiln_kernels::pq::CodeBits;
use kiln_kernels::{CpuBackend, NoProgress, Rows, f16};
use ndarray::Array2;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::durable::simulated::{Fault, Simulated};

const FOLDER: &str = "/x.kiln.work";

struct Task {
    source: MemorySource,
    metric: Metric,
    params: IvfPqParams,
    frees: bool,
    folder: TempDir,
}

impl Task {
    fn new(rows: Rows, metric: Metric, params: IvfPqParams) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        Self { source: MemorySource::new(rows, "made-up rows"), metric, params, frees: false, folder }
    }

    /// Enough rows for several units, every codec's list in several windows, and spilled rows.
    fn usual() -> Self {
        let params = IvfPqParams { soar: true, ..params(12, CodecKind::Pq4) };
        Self::new(rows(DType::U8, 1500, 6, 0), Metric::L2, params)
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
            let (backend, params, progress) = (&CpuBackend::new(), &self.params, &NoProgress);
            writer.go_on(&[])?;
            crate::ivf::build::build_and_write(backend, &rows, self.metric, params, writer, watch, progress).map(drop)
        };
        self.written(write).expect("built")
    }

    /// Builds on these files, stopping after so many units.
    fn on(&self, files: &Simulated, units: usize) -> Result<Vec<u8>, BuilderError> {
        let store = Store::open(Arc::new(files.clone()), Path::new(FOLDER), "fingerprint")?;
        // Small enough that everything takes several parts.
        let rows = self.source.len();
        let plan = Plan {
            unit_rows: 256,
            units: rows.div_ceil(256) as u32,
            block_rows: 256,
            window_rows: 96,
            frees: self.frees,
        };
        let left = AtomicUsize::new(units);
        let stop = || left.fetch_sub(1, Ordering::Relaxed) == 0;
        let build = Build {
            backend: &CpuBackend::new(),
            source: &self.source,
            fingerprint: "fingerprint",
            metric: self.metric,
            params: &self.params,
            plan,
            store: &store,
            progress: &NoProgress,
            stop: &stop,
        };
        self.written(|writer, watch| build_and_write(&build, writer, watch).map(drop))
    }
}

fn params(nlist: usize, codec: CodecKind) -> IvfPqParams {
    IvfPqParams { nlist, codec, m: 2, bits: CodeBits::Eight, soar: false, opq: false, seed: 42 }
}

/// Rows of few values, so that there are ties, the first of which are copies of one.
fn rows(dtype: DType, n: usize, dim: usize, copies: usize) -> Rows {
    let value = |i: usize, j: usize| ((i * 2_654_435_761 + j * 97) >> (3 * (j % 7) + 3)) as u8 % 23;
    let rows = Array2::from_shape_fn((n, dim), |(i, j)| value(i.max(copies), j));
    match dtype {
        DType::U8 => Rows::U8(rows),
        DType::I8 => Rows::I8(rows.mapv(|x| x as i8 - 11)),
        DType::F16 => Rows::F16(rows.mapv(|x| f16::from_f32(f32::from(x) / 8.0 - 1.0))),
        DType::F32 => Rows::F32(rows.mapv(|x| (f32::from(x) - 9.0) * 0.37)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn bytes_are_those_of_a_build_in_memory(
        n in prop_oneof![Just(1usize), Just(2), 3usize..60, 250usize..260, 512usize..514, 500usize..1100],
        // Coordinate by coordinate, and by products.
        dim in prop_oneof![2usize..9, 17usize..30],
        nlist in prop_oneof![Just(1usize), 2usize..40],
        codec in prop::sample::select(CodecKind::all().collect::<Vec<_>>()),
        dtype in prop::sample::select(vec![DType::U8, DType::I8, DType::F16, DType::F32]),
        metric in prop::sample::select(vec![Metric::L2, Metric::InnerProduct, Metric::Cosine]),
        // None, some, or nearly all in one list.
        copies in prop_oneof![Just(0.0), Just(0.3), Just(0.95)],
        (bits, soar, opq, frees) in (
            prop::sample::select(vec![CodeBits::Four, CodeBits::Eight]),
            any::<bool>(),
            prop::bool::weighted(0.1),
            any::<bool>(),
        ),
        seed in any::<u64>(),
    ) {
        let rows = rows(dtype, n, dim, (n as f64 * copies) as usize);
        let params = IvfPqParams { bits, soar, opq, seed, ..params(nlist, codec) };
        let task = Task { frees, ..Task::new(rows, metric, params) };
        let files = Simulated::new();
        prop_assert!(task.on(&files, usize::MAX).expect("built") == task.in_memory());
    }
}

#[test]
fn the_power_may_go_at_any_moment() {
    // Working files are freed or not.
    let tasks = [false, true].map(|frees| Task { frees, ..Task::usual() });
    let expected = tasks[0].in_memory();
    let operations = tasks.each_ref().map(|task| {
        let files = Simulated::new();
        assert!(task.on(&files, usize::MAX).expect("nothing fails") == expected);
        files.operations()
    });
    assert!(operations.iter().all(|&operations| operations > 200), "{operations:?}");
    for i in 0..40 {
        // Spread over all of it, and at a different phase of the units each time.
        let which = i as usize % 2;
        let (at, task) = (operations[which] * i / 41 + i % 7, &tasks[which]);
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
    let task = Task::usual();
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
    let task = Task::usual();
    let expected = task.in_memory();
    for units in [0, 1, 6, 11, 12, 14, 18] {
        let stopped = || {
            let files = Simulated::new();
            assert!(matches!(task.on(&files, units), Err(BuilderError::Interrupted { .. })), "{units}");
            files
        };
        let all: Vec<_> = stopped().all().into_iter().filter(|(path, _)| !path.ends_with("manifest.json")).collect();
        for (path, length) in all.iter().step_by(2) {
            for at in [0, length / 2, length - 1] {
                let files = stopped();
                files.damage(path, at);
                let built = task.on(&files, usize::MAX).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                assert!(built == expected, "{} damaged at {at}", path.display());
            }
        }
        let files = stopped();
        files.damage(&Path::new(FOLDER).join("manifest.json"), 30);
        assert!(task.on(&files, usize::MAX).expect("recovered") == expected);
    }
}

#[test]
fn a_build_that_is_stopped_after_every_unit_ends_the_same() {
    let task = Task::usual();
    let (files, mut stops) = (Simulated::new(), 0);
    let built = loop {
        match task.on(&files, 0) {
            Ok(built) => break built,
            Err(BuilderError::Interrupted { .. }) => stops += 1,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(built == task.in_memory(), "{stops} stops");
    // Up to the pass 19 units; then the file, a part after another.
    assert!((25..100).contains(&stops), "{stops} stops");
}

#[test]
fn working_files_are_freed_as_the_index_grows() {
    let task = Task { frees: true, ..Task::new(rows(DType::F32, 3000, 96, 0), Metric::L2, params(4, CodecKind::Pq)) };
    let files = Simulated::new();
    assert!(task.on(&files, usize::MAX).expect("built") == task.in_memory());
    // What is left are counts and footers.
    let left = files.nonzero_bytes(pass::STAGE);
    assert!((1..20_000).contains(&left), "{left} bytes are left");
    assert!(task.on(&files, usize::MAX).expect("built again") == task.in_memory());
}
