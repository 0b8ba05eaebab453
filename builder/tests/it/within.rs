//! Builds within a budget: the same bytes as in memory, whatever the data, and after any interruption.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{clustered, ivf_pq, request, vamana};
use kiln_builder::{
    BuilderError, GraphMethod, IndexParams, IvfPqParams, Layout, VamanaParams, WithinBudget, build, build_within,
};
use kiln_datasets::{Dataset, MemorySource, SynthSource, SynthSpec};
use kiln_kernels::codec::CodecKind;
use kiln_kernels::pq::CodeBits;
use kiln_kernels::{CpuBackend, DType, Metric, NoProgress, Rows};

fn partition(max_degree: usize, layout: Layout) -> IndexParams {
    IndexParams::Vamana(VamanaParams { method: GraphMethod::Partition, layout, ..vamana(max_degree, 40, 3) })
}

fn lists(nlist: usize, codec: CodecKind, m: usize) -> IvfPqParams {
    let bits = if codec == CodecKind::Pq4 { CodeBits::Four } else { CodeBits::Eight };
    IvfPqParams { codec, bits, ..ivf_pq(nlist, m) }
}

fn within(memory: u64, stop: &(dyn Fn() -> bool + Sync)) -> WithinBudget<'_> {
    WithinBudget { memory, temp: None, restart: false, stop }
}

/// The smallest budget that is accepted, as the refusal of a smaller one says.
fn least(rows: &MemorySource, metric: Metric, params: &IndexParams) -> u64 {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("x.kiln");
    let refused = build_within(
        &CpuBackend::new(),
        &request(rows, metric, params.clone(), &path),
        &within(1, &|| false),
        &NoProgress,
    );
    let message = refused.expect_err("one byte is too little").to_string();
    assert!(message.contains("--memory-budget"), "{message}");
    let words: Vec<&str> = message.split_whitespace().collect();
    let at = words.iter().position(|&word| word == "need").expect("says what is enough");
    words[at + 1].parse::<u64>().expect("a number") << 20
}

fn same_bytes(rows: Rows, metric: Metric, params: IndexParams) {
    let label = format!("{} {metric} {params:?}", rows.dtype());
    let source = MemorySource::new(rows, "made-up rows");
    let folder = tempfile::tempdir().expect("temporary folder");
    let (one, other) = (folder.path().join("one.kiln"), folder.path().join("other.kiln"));
    let backend = CpuBackend::new();
    build(&backend, &request(&source, metric, params.clone(), &one), &NoProgress).expect("built");
    let memory = least(&source, metric, &params);
    let to_other = request(&source, metric, params, &other);
    let report = build_within(&backend, &to_other, &within(memory, &|| false), &NoProgress).expect("built");
    assert!(std::fs::read(&one).expect("read") == std::fs::read(&other).expect("read"), "{label}");
    let durable = report.durable.expect("made within a budget");
    assert_eq!((durable.memory_budget, durable.resumed_units), (memory, 0));
    assert!(durable.units > 10 && durable.temp_peak_bytes > 0, "{durable:?}");
    assert!(!folder.path().join("other.kiln.work").exists(), "the working folder goes with the last unit");
}

#[test]
fn bytes_are_those_of_a_build_in_memory() {
    for (dtype, metric, layout, max_degree) in [
        (DType::U8, Metric::L2, Layout::Compact, 16),
        (DType::I8, Metric::L2, Layout::Inline, 32),
        (DType::F32, Metric::L2, Layout::Compact, 24),
        (DType::F32, Metric::Cosine, Layout::Inline, 16),
        (DType::F16, Metric::InnerProduct, Layout::Compact, 16),
        (DType::F32, Metric::InnerProduct, Layout::Inline, 16),
    ] {
        same_bytes(clustered(dtype, 5000, 12, 5), metric, partition(max_degree, layout));
    }
}

#[test]
fn copies_and_rotations_change_nothing() {
    // Half the rows are one row: leaders do not divide them, and no walk reaches most.
    let mut rows = ndarray::Array2::from_shape_fn((4000, 8), |(i, j)| (i * 31 + j * j * 7) as u8);
    for i in (0..4000).step_by(2) {
        rows.row_mut(i).fill(9);
    }
    same_bytes(Rows::U8(rows), Metric::L2, partition(16, Layout::Compact));
    let IndexParams::Vamana(params) = partition(16, Layout::Compact) else { unreachable!("made above") };
    let rotated = IndexParams::Vamana(VamanaParams { opq: true, m: 8, ..params });
    same_bytes(clustered(DType::F32, 3000, 32, 2), Metric::L2, rotated);
}

#[test]
fn the_demo_is_the_same() {
    let demo = Dataset::embedded_demo().expect("unpacked");
    let rows = kiln_datasets::read_all(demo.base.as_ref(), |_| ()).expect("read");
    same_bytes(rows, Metric::L2, partition(64, Layout::Compact));
}

#[test]
fn two_hundred_thousand_rows_are_the_same() {
    let spec = SynthSpec { dtype: DType::U8, ..SynthSpec::new(200_000, 32, 8.0) };
    let source = SynthSource::new(&spec).expect("made");
    let rows = kiln_datasets::read_all(&source, |_| ()).expect("read");
    same_bytes(rows, Metric::L2, partition(32, Layout::Compact));
}

#[test]
fn lists_are_those_of_a_build_in_memory() {
    let soar = |params| IvfPqParams { soar: true, ..params };
    for (dtype, n, metric, params) in [
        (DType::U8, 20_000, Metric::L2, lists(256, CodecKind::Pq4, 12)),
        (DType::I8, 9000, Metric::InnerProduct, soar(lists(64, CodecKind::Pq, 6))),
        (DType::F32, 9001, Metric::Cosine, soar(lists(64, CodecKind::Rabitq(2), 6))),
        (DType::F32, 5000, Metric::L2, IvfPqParams { opq: true, ..lists(30, CodecKind::Pq4, 6) }),
        (DType::F16, 5000, Metric::Cosine, lists(1, CodecKind::Sq8, 6)),
    ] {
        same_bytes(clustered(dtype, n, 24, 5), metric, IndexParams::IvfPq(params));
    }
}

#[test]
fn a_graph_that_is_stopped_goes_on_and_ends_the_same() {
    stopped_and_gone_on_with(partition(16, Layout::Compact), 11);
}

#[test]
fn lists_that_are_stopped_go_on_and_end_the_same() {
    stopped_and_gone_on_with(IndexParams::IvfPq(IvfPqParams { soar: true, ..lists(100, CodecKind::Pq4, 6) }), 4);
}

/// The last of many starts goes on from so many units at least.
fn stopped_and_gone_on_with(params: IndexParams, kept: usize) {
    let (backend, folder) = (CpuBackend::new(), tempfile::tempdir().expect("temporary folder"));
    let source = MemorySource::new(clustered(DType::U8, 6000, 12, 5), "made-up rows");
    let path = |name: &str| folder.path().join(name);
    let memory = least(&source, Metric::L2, &params);
    build(&backend, &request(&source, Metric::L2, params.clone(), &path("one.kiln")), &NoProgress).expect("built");
    // Stopped after every third unit.
    let mut stops = 0;
    let report = loop {
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) == 2;
        let out = path("other.kiln");
        let to = request(&source, Metric::L2, params.clone(), &out);
        match build_within(&backend, &to, &within(memory, &stop), &NoProgress) {
            Ok(report) => break report,
            Err(BuilderError::Interrupted { folder, units }) => {
                assert!(folder.ends_with("other.kiln.work") && units > 0);
                assert!(!out.exists());
                stops += 1;
            }
            Err(other) => panic!("{other}"),
        }
    };
    assert!(stops > 3, "{stops} stops");
    assert!(report.durable.expect("within a budget").resumed_units >= kept);
    assert!(std::fs::read(path("one.kiln")).expect("read") == std::fs::read(path("other.kiln")).expect("read"));
}

#[test]
fn other_parameters_use_what_is_valid_and_other_data_is_refused() {
    let (backend, folder) = (CpuBackend::new(), tempfile::tempdir().expect("temporary folder"));
    let source = MemorySource::new(clustered(DType::U8, 6000, 12, 5), "made-up rows");
    let out = folder.path().join("x.kiln");
    let memory = least(&source, Metric::L2, &partition(16, Layout::Compact));
    let asked = AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) == 25;
    let first = request(&source, Metric::L2, partition(16, Layout::Compact), &out);
    let stopped = build_within(&backend, &first, &within(memory, &stop), &NoProgress);
    assert!(matches!(stopped, Err(BuilderError::Interrupted { .. })));

    let mut another = request(&source, Metric::L2, partition(16, Layout::Compact), &out);
    another.dataset_fingerprint = "another".into();
    let message = build_within(&backend, &another, &within(memory, &|| false), &NoProgress).expect_err("refused");
    assert!(message.to_string().contains("another") && message.to_string().contains("--restart"), "{message}");

    let IndexParams::Vamana(params) = partition(16, Layout::Compact) else { unreachable!("made above") };
    let steeper = IndexParams::Vamana(VamanaParams { alpha: 1.4, ..params });
    let second = request(&source, Metric::L2, steeper.clone(), &out);
    let report = build_within(&backend, &second, &within(memory, &|| false), &NoProgress).expect("built");
    assert!(report.durable.expect("within a budget").resumed_units > 5);
    let in_memory = folder.path().join("y.kiln");
    build(&backend, &request(&source, Metric::L2, steeper, &in_memory), &NoProgress).expect("built");
    assert!(std::fs::read(&out).expect("read") == std::fs::read(&in_memory).expect("read"));
}

#[test]
fn what_lists_and_codes_do_not_change_is_used_again() {
    let (backend, folder) = (CpuBackend::new(), tempfile::tempdir().expect("temporary folder"));
    let source = MemorySource::new(clustered(DType::U8, 9000, 12, 5), "made-up rows");
    let out = folder.path().join("x.kiln");
    let (first, second) = (lists(64, CodecKind::Pq4, 6), lists(64, CodecKind::Rabitq(1), 6));
    let (first, second) = (IndexParams::IvfPq(first), IndexParams::IvfPq(second));
    let memory = least(&source, Metric::L2, &first).max(least(&source, Metric::L2, &second));
    let asked = AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) == 13;
    let begun = request(&source, Metric::L2, first, &out);
    let stopped = build_within(&backend, &begun, &within(memory, &stop), &NoProgress);
    assert!(matches!(stopped, Err(BuilderError::Interrupted { .. })));
    // Of the units, the sample and the centroids: those before the last iteration are gone.
    let changed = request(&source, Metric::L2, second.clone(), &out);
    let report = build_within(&backend, &changed, &within(memory, &|| false), &NoProgress).expect("built");
    assert_eq!(report.durable.expect("within a budget").resumed_units, 2);
    let in_memory = folder.path().join("y.kiln");
    build(&backend, &request(&source, Metric::L2, second, &in_memory), &NoProgress).expect("built");
    assert!(std::fs::read(&out).expect("read") == std::fs::read(&in_memory).expect("read"));
}
