//! An index on the drive, measured in every state of its reads; and what it says it read, held against the kernel's count.

use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_builder::{
    BuildRequest, DriveReads, Effort, Index, IndexKind, IndexParams, Navigate, OpenParams, Residency, SearchParams,
};
use kiln_datasets::{Dataset, read_all};
use kiln_eval::page_cache::{PageCache, kernel_read_bytes};
use kiln_eval::record::SettingRecord;
use kiln_eval::{IndexSpec, IoState, Placement, Plan, load, metrics, provenance, run_bench};
use kiln_kernels::{CpuBackend, Metric, NoProgress};

use crate::common::{demo, small};

fn at(state: IoState) -> Placement {
    Placement::Ssd { state, memory: None, io: Default::default() }
}

fn plan(out: &Path, index: PathBuf, placements: Vec<Placement>) -> Plan {
    Plan {
        out: out.to_path_buf(),
        command: "kiln bench".to_string(),
        k: 10,
        metric: None,
        indexes: vec![IndexSpec::Open(index)],
        search_lists: vec![10, 40],
        navigate: Navigate::Codes,
        nprobes: vec![],
        rerank: None,
        threads: vec![],
        batch: vec![],
        placements,
        queries: Some(60),
        quick: true,
        seed: 1,
    }
}

/// Builds an index of `dataset` at `out`, and returns its path.
fn build(dataset: &Dataset, params: IndexParams, out: &Path) -> PathBuf {
    let request = BuildRequest {
        source: dataset.base.as_ref(),
        dataset_name: dataset.name.clone(),
        dataset_fingerprint: dataset.fingerprint.clone(),
        metric: dataset.metric.unwrap_or(Metric::L2),
        params,
        keep_dtype: false,
        out,
    };
    kiln_builder::build(&CpuBackend::new(), &request, &NoProgress).expect("built");
    out.to_path_buf()
}

/// A folder on the drive: the one for temporary files may be memory.
fn on_drive() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary folder")
}

#[test]
fn every_state_is_measured_apart_and_says_what_the_cache_held() {
    let (folder, dataset) = (on_drive(), demo());
    let index = build(&dataset, small(IndexKind::Vamana), &folder.path().join("v.kiln"));
    let states = [IoState::Direct, IoState::Cold, IoState::Warm, IoState::Capped { bytes: 1 << 20 }];
    let placements: Vec<Placement> = states.into_iter().map(at).chain([Placement::Memory]).collect();
    let out = folder.path().join("run");
    let plan = plan(&out, index.clone(), placements);
    let bench = || run_bench(&plan, &dataset, &CpuBackend::new(), &NoProgress).expect("measured");
    let data = bench();
    assert_eq!((data.settings.len(), data.builds.len(), data.header.dataset.queries), (10, 1, 60));
    let of = |state| data.settings.iter().filter(move |setting| setting.io_state == state).collect::<Vec<_>>();

    let direct = of(Some(IoState::Direct));
    if let Some(problem) = direct[0].failure.as_ref() {
        assert!(problem.contains("--io-state cold"), "{problem}");
        eprintln!("SKIPPED: {problem}");
    } else {
        assert!(direct.iter().flat_map(|setting| &setting.runs).all(|run| run.cached_bytes.is_none()));
        let ceiling = data.header.drive_ceiling.as_ref().expect("measured");
        assert!(ceiling.reads_per_second > 100.0 && ceiling.depth == 64, "{ceiling:?}");
        assert_eq!(ceiling.file, index.display().to_string());
    }
    let file_bytes = std::fs::metadata(&index).expect("there").len();
    for setting in of(Some(IoState::Cold)) {
        assert_eq!(setting.failure, None);
        let residues: Vec<u64> = setting.runs.iter().filter_map(|run| run.cached_bytes).collect();
        assert_eq!(residues.len(), setting.runs.len(), "every pass is confirmed");
        let flagged = residues.iter().filter(|&&bytes| bytes as f64 > 0.001 * file_bytes as f64).count();
        assert_eq!(metrics::passes_begun_warm(setting, file_bytes), flagged);
    }
    for setting in of(Some(IoState::Warm)) {
        assert!(setting.runs.iter().all(|run| run.cached_bytes.is_some_and(|bytes| bytes > 0)), "nothing was cached");
        assert_eq!(metrics::passes_begun_warm(setting, file_bytes), 0);
    }
    for setting in of(Some(IoState::Capped { bytes: 1 << 20 })) {
        // Less than the process takes: refused before the kernel kills it.
        assert!(setting.failure.as_ref().is_some_and(|why| why.contains("raise the cap")), "{:?}", setting.failure);
    }

    // The same answers everywhere, and the drive's figures only where there is a drive. Settings stand in the order in
    // which they were finished.
    let rows_bytes = dataset.base.len() * dataset.base.dim() as u64;
    let like = |memory: &SettingRecord, state| *of(state).iter().find(|s| s.params == memory.params).expect("measured");
    for memory in of(None) {
        assert!(memory.answers.io_wait_us.is_empty() && memory.answers.kernel_bytes.is_none());
        assert!(metrics::recall(memory).is_some_and(|recall| recall > 0.5));
        let (cold, warm) = (like(memory, Some(IoState::Cold)), like(memory, Some(IoState::Warm)));
        let answers = &cold.answers;
        assert_eq!((answers.cache_hits.len(), answers.io_wait_us.len(), answers.pages.len()), (60, 60, 60));
        assert!(metrics::pages_per_query(cold).is_some_and(|pages| pages > 1.0));
        assert_eq!(answers.strict_hits, warm.answers.strict_hits);
        // What serves from the drive is mostly buffers, however few rows there are.
        assert!(cold.serving_bytes.is_some() && memory.serving_bytes.is_some_and(|bytes| bytes > rows_bytes));
    }

    assert!(load(&out).expect("kept") == data, "what is read back differs");
    assert!(bench() == data, "a finished run changed");
}

#[test]
fn a_cap_is_kept_or_refused_with_the_reason() {
    let (folder, dataset) = (on_drive(), demo());
    let index = build(&dataset, small(IndexKind::Vamana), &folder.path().join("v.kiln"));
    let plan = plan(&folder.path().join("run"), index, vec![at(IoState::Capped { bytes: 2 << 30 })]);
    let data = run_bench(&plan, &dataset, &CpuBackend::new(), &NoProgress).expect("the run goes on");
    for setting in &data.settings {
        match &setting.failure {
            Some(why) => {
                assert!(why.contains("control group") || why.contains("controller"), "{why}");
                eprintln!("SKIPPED: {why}");
            }
            None => assert!(setting.runs.iter().all(|run| run.cached_bytes.is_some())),
        }
    }
}

const COUNTED: &str = "KILN_TEST_COUNTED_INDEX";
const READS: &str = "KILN_TEST_READS";
const COUNTED_QUERIES: u64 = 39;

/// Runs in a process of its own, so that nothing else is counted: `told KERNEL INDEX QUERIES` in bytes.
#[test]
fn child_that_counts() {
    let Some(index) = std::env::var_os(COUNTED).map(PathBuf::from) else { return };
    let cold = std::env::var(READS).is_ok_and(|reads| reads == "cold");
    let reads = if cold { DriveReads::Cached } else { DriveReads::Direct };
    let params = OpenParams { reads, ..Residency::Ssd.into() };
    let searcher = Index::open_with(&index, &params).expect("opens");
    let queries = read_all(demo().queries.as_deref().expect("has queries"), |_| ()).expect("read");
    let effort = Effort::default_for(searcher.kind(), 10);
    let effort = match effort {
        Effort::Graph { search_list, .. } => Effort::Graph { search_list, navigate: Navigate::Codes },
        lists => lists,
    };
    let search = |query: usize| {
        let queries = queries.view().slice(query..query + 1);
        searcher.search(&queries, &SearchParams { k: 10, effort }).expect("answers").stats.bytes
    };
    // The first query also reads what is kept for all others.
    search(0);
    let cache = PageCache::of(&index).expect("opens");
    let (mut kernel, mut told) = (0, 0);
    for query in 1..=COUNTED_QUERIES as usize {
        if cold {
            assert_eq!(cache.drop_pages().expect("dropped"), 0);
        }
        let before = kernel_read_bytes().expect("the kernel tells");
        told += search(query);
        kernel += kernel_read_bytes().expect("the kernel tells") - before;
    }
    println!("told {kernel} {told}");
}

/// The bytes that the kernel and the index counted in a child process.
fn counted(index: &Path, reads: &str) -> (u64, u64) {
    let child = Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", "io_states::child_that_counts", "--nocapture", "--test-threads", "1"])
        .env(COUNTED, index)
        .env(READS, reads)
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    // The harness prints the test's name on the same line, without an end.
    let line = said.lines().find_map(|line| line.split_once("told ")).expect("it tells").1;
    let (kernel, told) = line.split_once(' ').expect("two figures");
    (kernel.trim().parse().expect("a number"), told.trim().parse().expect("a number"))
}

#[test]
fn the_kernel_counts_what_the_index_says_it_read() {
    let folder = on_drive();
    let filesystem = provenance::machine(folder.path()).filesystem.unwrap_or_default();
    if kernel_read_bytes().is_none() || ["", "tmpfs", "overlay"].contains(&filesystem.as_str()) {
        eprintln!("SKIPPED: the kernel does not count reads of a filesystem of type '{filesystem}' here");
        return;
    }
    let dataset: Dataset = demo();
    for kind in [IndexKind::Vamana, IndexKind::IvfPq] {
        let index = build(&dataset, small(kind), &folder.path().join("counted.kiln"));
        let (kernel, told) = counted(&index, "direct");
        assert!(told > 0, "{kind}: nothing was read");
        // What else the process does, such as a page of its program that is read again, is a trace.
        assert!(kernel.abs_diff(told) <= 64 << 10, "{kind}, direct: the kernel read {kernel} bytes, the index {told}");

        let cache = PageCache::of(&index).expect("opens");
        if cache.drop_pages().expect("the system tells") > 0 {
            eprintln!("SKIPPED: {filesystem} does not let go of its cache");
            continue;
        }
        let (kernel, told) = counted(&index, "cold");
        // Never less than was asked for. It may read on past that, several times as much in an inverted file's lists: this is
        // why a record holds the kernel's count too.
        let most = COUNTED_QUERIES * std::fs::metadata(&index).expect("there").len();
        assert!((told..=most).contains(&kernel), "{kind}, cold: the kernel read {kernel} bytes, the index {told}");
    }
}
