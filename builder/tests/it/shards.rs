//! Shard sets: what they answer, how they grow and shrink, and what they refuse.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::*;
use kiln_builder::shards::{
    AppendRequest, Appended, Compacted, Deletions, adopt, append, compact, inspect_set, verify_set,
};
use kiln_builder::{
    BuilderError, Effort, GraphMethod, Hits, Index, IndexKind, IndexParams, OpenParams, Residency, SearchParams,
    Searcher, StoredRows, VamanaParams, WithinBudget, inspect,
};
use kiln_datasets::{MemorySource, gather_rows};
use kiln_kernels::{CpuBackend, DType, Metric, NoProgress, Rows};
use tempfile::TempDir;

/// A budget of memory that any of these builds keeps to.
fn budget(stop: &(dyn Fn() -> bool + Sync)) -> WithinBudget<'_> {
    WithinBudget { memory: 256 << 20, temp: None, restart: false, stop }
}

/// A set in a folder that goes with it.
struct Set {
    path: PathBuf,
    place: TempDir,
    metric: Metric,
    params: IndexParams,
}

impl Set {
    fn new(metric: Metric, params: IndexParams) -> Self {
        let place = tempfile::tempdir().expect("temporary folder");
        Self { path: place.path().join("x.kset"), place, metric, params }
    }

    /// A set of `rows` in shards of these sizes.
    fn of(rows: &Rows, sizes: &[usize], metric: Metric, params: IndexParams) -> Self {
        let set = Self::new(metric, params);
        let mut first = 0;
        for &size in sizes {
            let appended = set.append(&part(rows, first, size)).expect("appended");
            assert_eq!((appended.first_id, appended.rows), (first as u64, size as u64));
            first += size;
        }
        set
    }

    fn append(&self, rows: &Rows) -> Result<Appended, BuilderError> {
        self.append_as(rows, self.metric, self.params.clone(), true)
    }

    fn append_as(
        &self,
        rows: &Rows,
        metric: Metric,
        params: IndexParams,
        keep_dtype: bool,
    ) -> Result<Appended, BuilderError> {
        self.append_within(rows, metric, params, keep_dtype, None)
    }

    fn append_within(
        &self,
        rows: &Rows,
        metric: Metric,
        params: IndexParams,
        keep_dtype: bool,
        within: Option<WithinBudget<'_>>,
    ) -> Result<Appended, BuilderError> {
        let source = MemorySource::new(rows.clone(), "made-up rows");
        let (dataset_name, dataset_fingerprint) = ("made".to_string(), "0123".to_string());
        let request = AppendRequest {
            set: &self.path,
            source: &source,
            dataset_name,
            dataset_fingerprint,
            metric,
            params,
            keep_dtype,
            within,
        };
        append(&CpuBackend::new(), &request, &NoProgress)
    }

    fn compact(&self, gone: &[u64]) -> Result<Compacted, BuilderError> {
        let deletions = Deletions { path: Path::new("ids.npy"), ids: gone.to_vec() };
        compact(&CpuBackend::new(), &self.path, Some(&deletions), None, &NoProgress)
    }

    fn open(&self) -> Searcher {
        self.open_with(Residency::Memory.into())
    }

    fn open_with(&self, params: OpenParams) -> Searcher {
        Index::open_with(&self.path, &params).expect("opens")
    }

    fn shards(&self) -> Vec<PathBuf> {
        let shards = inspect_set(&self.path).expect("a set").shards;
        shards.iter().map(|shard| self.path.join(&shard.file)).collect()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.path).expect("readable");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn part(rows: &Rows, first: usize, size: usize) -> Rows {
    rows.view().slice(first..first + size).to_rows()
}

fn small(kind: IndexKind, dim: usize) -> IndexParams {
    match kind {
        IndexKind::Vamana => IndexParams::Vamana(vamana(16, 32, dim.div_ceil(4))),
        IndexKind::IvfPq => IndexParams::IvfPq(ivf_pq(4, dim.div_ceil(4))),
    }
}

fn batch(index: &Searcher, queries: &Rows, k: usize, effort: Effort) -> Vec<Hits> {
    index.search_batch(&queries.view(), &SearchParams { k, effort }).expect("searched")
}

/// Answers with ids as rows of the survivors, so that a plain search can judge them.
fn as_rows(hits: &Hits, ids: &[u64]) -> Hits {
    let row = |id: &u64| ids.binary_search(id).expect("an id of a row that is there") as u64;
    Hits { ids: hits.ids.iter().map(row).collect(), ..hits.clone() }
}

#[test]
fn a_set_answers_as_one_index_of_all_rows_would() {
    for kind in KINDS {
        for metric in METRICS {
            let rows = clustered(DType::I8, 500, 12, 3);
            let set = Set::of(&rows, &[230, 7, 1, 262], metric, small(kind, 12));
            let exact = BruteForce::new(&rows, metric);
            let queries = clustered(DType::I8, 20, 12, 4);
            for residency in [Residency::Memory, Residency::Ssd] {
                let index = set.open_with(residency.into());
                assert_eq!((index.len(), index.kind(), index.set().expect("a set").shard_count()), (500, kind, 4));
                let effort = everything(kind, 500);
                // More than a shard has, more than all have.
                for k in [1, 10, 240, 500, 600] {
                    let together = batch(&index, &queries, k, effort);
                    for (query, together) in together.iter().enumerate() {
                        let what = format!("{kind}, {metric}, {residency:?}, k {k}");
                        let alone = search(&index, &queries, query, k, effort);
                        exact.check(&queries, query, k, &alone, &what);
                        assert_eq!((&alone.ids, &alone.distances), (&together.ids, &together.distances), "{what}");
                        let costs = [&alone, together].map(|hits| (hits.stats.distances, hits.stats.hops));
                        assert_eq!(costs[0], costs[1], "{what}");
                        assert_eq!(alone.stats.pages > 0, residency == Residency::Ssd, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn costs_and_memory_are_those_of_all_shards() {
    let rows = clustered(DType::U8, 400, 16, 3);
    let set = Set::of(&rows, &[300, 100], Metric::L2, small(IndexKind::Vamana, 16));
    let effort = graph(20);
    for residency in [Residency::Memory, Residency::Ssd] {
        let index = set.open_with(residency.into());
        let shards: Vec<Searcher> =
            set.shards().iter().map(|path| Index::open(path, residency).expect("opens")).collect();
        let hits = search(&index, &rows, 7, 10, effort);
        let apart: Vec<Hits> = shards.iter().map(|shard| search(shard, &rows, 7, 10, effort)).collect();
        let sum = |count: fn(&Hits) -> u64| apart.iter().map(count).sum::<u64>();
        assert_eq!(hits.stats.distances, sum(|hits| hits.stats.distances));
        assert_eq!((hits.stats.hops, hits.stats.pages), (sum(|h| h.stats.hops), sum(|h| h.stats.pages)));
        assert_eq!(index.io_counters().pages, shards.iter().map(|shard| shard.io_counters().pages).sum::<u64>());
        // The centroids come on top.
        let held: u64 = shards.iter().map(|shard| shard.serving().data + shard.serving().codes).sum();
        assert_eq!(index.serving().data + index.serving().codes, held);
        assert!(index.serving().navigation >= 2 * 16 * (4 * 16 + 4));
    }
}

#[test]
fn equal_distances_go_to_the_lower_id_in_any_shard() {
    let rows = made(120, 8, |i, j| ((i % 4) * 8 + j) as f32);
    for kind in KINDS {
        let set = Set::of(&rows, &[50, 30, 40], Metric::L2, small(kind, 8));
        let whole = build_index(&rows, Metric::L2, small(kind, 8)).open(Residency::Memory);
        let index = set.open();
        for query in 0..4 {
            let expected: Vec<u64> = (0..30).map(|i| (query + 4 * i) as u64).collect();
            let hits = search(&index, &rows, query, 30, everything(kind, 120));
            assert_eq!(hits.ids, expected, "{kind}");
            assert_eq!(hits.ids, search(&whole, &rows, query, 30, everything(kind, 120)).ids, "{kind}");
        }
    }
}

#[test]
fn the_shards_with_the_nearest_centroids_are_probed() {
    // Four clusters far apart, each a shard of its own.
    let centre = |i: usize, j: usize| if i / 100 == j / 3 { 100.0 } else { 0.0 };
    let rows = made(400, 12, |i, j| centre(i, j) + ((i * 7 + j * 3) % 11) as f32);
    for kind in KINDS {
        for metric in METRICS {
            let set = Set::of(&rows, &[100; 4], metric, small(kind, 12));
            let effort = everything(kind, 100);
            let all = set.open();
            let few = |probe| set.open_with(OpenParams { probe_shards: Some(probe), ..Residency::Memory.into() });
            let (one, three) = (few(1), few(3));
            assert_eq!(one.set().and_then(|set| set.probed()), Some(1));
            assert_eq!(few(4).set().and_then(|set| set.probed()), None);
            for query in (0..400).step_by(23) {
                let what = format!("{kind}, {metric}, query {query}");
                let expected = search(&all, &rows, query, 5, effort);
                for index in [&one, &three] {
                    let found = search(index, &rows, query, 5, effort);
                    assert_eq!((&found.ids, &found.distances), (&expected.ids, &expected.distances), "{what}");
                    assert!(found.stats.hops < expected.stats.hops, "{what}");
                    // A shard holds no more than it holds.
                    let whole = search(index, &rows, query, 400, effort);
                    let shards = if std::ptr::eq(index, &one) { 1 } else { 3 };
                    assert_eq!(whole.ids.len(), 100 * shards, "{what}");
                }
            }
            for index in [&one, &three] {
                let together = batch(index, &rows, 5, effort);
                for query in (0..400).step_by(7) {
                    let alone = search(index, &rows, query, 5, effort);
                    assert_eq!(timeless(&together[query]).ids, alone.ids);
                }
            }
        }
    }
}

/// Sections of an index that hold its rows and how they are found: all but the meta data and the sums over them.
fn content(path: &Path) -> Vec<(String, u64, String)> {
    let sections = inspect(path).expect("an index").sections;
    let kept = sections.into_iter().filter(|s| s.name != "meta" && s.name != "sums");
    kept.map(|s| (s.name.to_string(), s.length, s.checksum)).collect()
}

#[test]
fn ids_stay_and_a_merged_set_is_what_building_its_rows_gives() {
    for (kind, dtype) in [IndexKind::Vamana, IndexKind::IvfPq].into_iter().flat_map(|k| DTYPES.map(|d| (k, d))) {
        let metric = METRICS[dtype as usize % 3];
        let rows = clustered(dtype, 700, 12, 5);
        let queries = clustered(dtype, 15, 12, 6);
        let set = Set::of(&rows, &[200, 150, 100], metric, small(kind, 12));
        let check = |ids: &[u64], what: &str| {
            let survivors = rows.view().select(&ids.iter().map(|&id| id as usize).collect::<Vec<_>>());
            let exact = BruteForce::new(&survivors, metric);
            let index = set.open();
            assert_eq!(index.len(), ids.len() as u64, "{what}");
            for query in 0..queries.len() {
                let hits = search(&index, &queries, query, 12, everything(kind, 700));
                exact.check(&queries, query, 12, &as_rows(&hits, ids), what);
            }
            // The rows are read back under their ids too.
            let stored = StoredRows::new(&index);
            let read = gather_rows(&stored, ids).expect("read");
            assert!(read == survivors, "{what}: other rows are stored");
            verify_set(&set.path, |_| ()).expect("whole");
            survivors
        };
        let what = format!("{kind}, {dtype}, {metric}");
        let mut ids: Vec<u64> = (0..450).collect();
        check(&ids, &format!("{what}: three shards"));

        // The first, the last, some at the borders of shards, one twice.
        let gone = [0, 449, 199, 200, 17, 300, 301, 302, 17];
        let done = set.compact(&gone).expect("merged");
        assert_eq!((done.shards, done.rows, done.deleted, done.gone_before), (3, 442, 8, 0), "{what}");
        ids.retain(|id| !gone.contains(id));
        let survivors = check(&ids, &format!("{what}: merged"));
        assert_eq!(set.shards().len(), 1);
        let merged = &set.shards()[0];
        let direct = build_index(&survivors, metric, inspect(merged).expect("an index").meta.params);
        assert_eq!(content(merged), content(&direct.path), "{what}: another index than of the same rows");

        // New rows get new ids; those of deleted rows are gone for good.
        let appended = set.append(&part(&rows, 450, 250)).expect("appended");
        assert_eq!((appended.first_id, appended.shards), (450, 2), "{what}");
        ids.extend(450..700);
        check(&ids, &format!("{what}: merged and appended to"));
        let done = set.compact(&[17, 0, 699, 450]).expect("merged");
        assert_eq!((done.rows, done.deleted, done.gone_before), (690, 2, 2), "{what}");
        ids.retain(|id| ![450, 699].contains(id));
        check(&ids, &format!("{what}: merged twice"));
        assert_eq!(set.append(&part(&rows, 0, 1)).expect("appended").first_id, 700);

        // Only what is named is there, and the lock.
        let names = set.names();
        assert_eq!(names.len(), 2 + 2 * 3, "{names:?}");
    }
}

#[test]
fn shards_within_a_budget_are_the_same_and_are_gone_on_with() {
    let rows = clustered(DType::U8, 9000, 8, 3);
    for kind in KINDS {
        let params = match kind {
            IndexKind::Vamana => {
                IndexParams::Vamana(VamanaParams { method: GraphMethod::Partition, ..vamana(16, 32, 2) })
            }
            IndexKind::IvfPq => small(kind, 8),
        };
        let whole = Set::of(&rows, &[5000, 4000], Metric::L2, params.clone());
        let parts = Set::new(Metric::L2, params.clone());
        let append = |rows: &Rows, stop: &(dyn Fn() -> bool + Sync)| {
            parts.append_within(rows, Metric::L2, params.clone(), true, Some(budget(stop)))
        };
        let (first, second) = (part(&rows, 0, 5000), part(&rows, 5000, 4000));
        for (rows, number, shards) in [(&first, 1, 0), (&second, 2, 1)] {
            let asked = AtomicUsize::new(0);
            let stopped = append(rows, &|| asked.fetch_add(1, Ordering::Relaxed) == 4);
            assert!(matches!(stopped, Err(BuilderError::Interrupted { .. })), "{kind}");
            let working = parts.path.join(format!("shard-{number:05}.kiln.work"));
            assert!(working.is_dir(), "{kind}: what is finished was not kept");
            assert_eq!(inspect_set(&parts.path).map_or(0, |set| set.shards.len()), shards, "{kind}");
            let appended = append(rows, &|| false).expect("appended");
            assert!(appended.report.durable.expect("within a budget").resumed_units > 0, "{kind}");
            assert!(!working.exists());
        }
        let same = |what: &str| {
            for (own, other) in parts.shards().iter().zip(whole.shards()) {
                assert!(std::fs::read(own).expect("read") == std::fs::read(other).expect("read"), "{kind}: {what}");
            }
        };
        same("two shards");

        let deletions = Deletions { path: Path::new("ids.npy"), ids: vec![7, 8000] };
        let compact = |within: WithinBudget<'_>| {
            self::compact(&CpuBackend::new(), &parts.path, Some(&deletions), Some(&within), &NoProgress)
        };
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) == 4;
        let stopped = compact(budget(&stop));
        assert!(matches!(stopped, Err(BuilderError::Interrupted { .. })), "{kind}");
        let done = compact(budget(&|| false)).expect("merged");
        let report = done.report.expect("built");
        assert!(report.durable.expect("within a budget").resumed_units > 0, "{kind}");
        whole.compact(&deletions.ids).expect("merged");
        same("merged");
        let little = WithinBudget { memory: 1000, temp: None, restart: false, stop: &|| false };
        parts.append(&first).expect("appended");
        let deletions = Deletions { path: Path::new("ids.npy"), ids: vec![9] };
        let refused = self::compact(&CpuBackend::new(), &parts.path, Some(&deletions), Some(&little), &NoProgress);
        assert!(refused.is_err_and(|error| error.to_string().contains("--memory-budget")), "{kind}");
    }
}

#[test]
fn nothing_to_do_does_nothing_and_nothing_left_is_refused() {
    let rows = clustered(DType::U8, 60, 8, 3);
    let set = Set::of(&rows, &[60], Metric::L2, small(IndexKind::IvfPq, 8));
    let before = set.names();
    for gone in [&[][..], &[]] {
        let done = set.compact(gone).expect("nothing to do");
        assert_eq!((done.rows, done.deleted, done.report), (60, 0, None));
    }
    assert_eq!(set.names(), before);
    let refused = |gone: &[u64], says: &str| {
        let message = set.compact(gone).expect_err(says).to_string();
        assert!(message.contains(says), "{message}");
        assert_eq!(set.names(), before, "{says}");
    };
    refused(&[5, 60], "ids.npy: no row of the set ever had the id 60: ids go from 0 to 59");
    refused(&[99, 60, 61], "the id 60, nor 2 others");
    refused(&(0..60).collect::<Vec<_>>(), "nothing would be left of its 60 rows");
    // A whole shard may go.
    set.append(&rows).expect("appended");
    let done = set.compact(&(0..60).collect::<Vec<_>>()).expect("merged");
    assert_eq!((done.rows, done.deleted), (60, 60));
    assert_eq!(search(&set.open(), &rows, 3, 1, everything(IndexKind::IvfPq, 60)).ids, [63]);
}

#[test]
fn rows_are_stored_as_the_first_were() {
    let Rows::U8(bytes) = clustered(DType::U8, 80, 8, 3) else { unreachable!() };
    let (bytes, floats) = (Rows::U8(bytes.clone()), Rows::F32(bytes.mapv(f32::from)));
    let params = small(IndexKind::Vamana, 8);
    let halves = made(10, 8, |i, j| (i + j) as f32 / 2.0);
    // Floats that bytes hold became bytes: so do those that follow, or they are refused.
    let set = Set::new(Metric::L2, params.clone());
    set.append_as(&floats, Metric::L2, params.clone(), false).expect("appended");
    assert_eq!(set.open().dtype(), DType::U8);
    set.append(&floats).expect("floats that bytes hold");
    set.append(&bytes).expect("bytes");
    assert_eq!((set.open().dtype(), set.open().len()), (DType::U8, 240));
    let refused = |rows: &Rows, metric: Metric, params: &IndexParams, says: &[&str]| {
        let before = set.names();
        let message = set.append_as(rows, metric, params.clone(), true).expect_err("refused").to_string();
        says.iter().for_each(|says| assert!(message.contains(says), "{message}"));
        assert_eq!(set.names(), before, "{message}");
    };
    refused(&halves, Metric::L2, &params, &["row 0 holds 0.5", "u8", "x.kset", "--keep-dtype"]);
    let Rows::I8(signed) = clustered(DType::I8, 9, 8, 3) else { unreachable!() };
    refused(&Rows::I8(signed), Metric::L2, &params, &["made-up rows", "its rows are i8", "are u8"]);
    refused(&bytes, Metric::Cosine, &params, &["compared by cosine", "by l2", "--metric l2"]);
    refused(&clustered(DType::U8, 9, 7, 3), Metric::L2, &params, &["7 coordinates", "have 8"]);
    refused(&bytes, Metric::L2, &small(IndexKind::IvfPq, 8), &["vamana", "ivf-pq", "one kind"]);
    refused(&part(&bytes, 0, 0), Metric::L2, &params, &["0 rows"]);
    // Floats that were kept stay floats, whatever follows.
    let set = Set::new(Metric::L2, params.clone());
    set.append_as(&halves, Metric::L2, params.clone(), false).expect("appended");
    assert_eq!(set.open().dtype(), DType::F16);
    set.append(&floats).expect("whole numbers are halves too");
    assert_eq!((set.open().dtype(), set.open().len()), (DType::F16, 90));
}

#[test]
fn an_index_file_is_taken_into_a_set_as_it_is() {
    let rows = clustered(DType::U8, 100, 8, 3);
    let set = Set::new(Metric::L2, small(IndexKind::Vamana, 8));
    let built = build_index(&rows, Metric::L2, small(IndexKind::Vamana, 8));
    let adopted = adopt(&set.path, &built.path, &NoProgress).expect("taken");
    assert_eq!((adopted.first_id, adopted.rows, adopted.shards), (0, 100, 1));
    let adopted = adopt(&set.path, &built.path, &NoProgress).expect("taken again: other rows, as far as the set knows");
    assert_eq!((adopted.first_id, adopted.shards), (100, 2));
    assert_eq!(search(&set.open(), &rows, 42, 2, graph(100)).ids, [42, 142]);
    // A set of one whole data set is known by it.
    assert_eq!(set.append(&rows).expect("appended").first_id, 200);
    set.compact(&[]).expect("merged");
    // The file itself is the user's, and stays.
    assert_eq!(Index::open(&built.path, Residency::Memory).expect("opens").len(), 100);

    let refused = |path: &Path, says: &str| {
        let before = set.names();
        let message = adopt(&set.path, path, &NoProgress).expect_err(says).to_string();
        assert!(message.contains(says), "{message}");
        assert_eq!(set.names(), before);
    };
    let other = build_index(&rows, Metric::Cosine, small(IndexKind::Vamana, 8));
    refused(&other.path, "its metric is cosine, that of the set l2");
    let other = build_index(&rows, Metric::L2, small(IndexKind::IvfPq, 8));
    refused(&other.path, "its kind of index is ivf-pq");
    let other = build_index(&clustered(DType::U8, 50, 7, 3), Metric::L2, small(IndexKind::Vamana, 7));
    refused(&other.path, "its dimension is 7");
    let other = build_index(&clustered(DType::I8, 50, 8, 3), Metric::L2, small(IndexKind::Vamana, 8));
    refused(&other.path, "its element type is i8");
    let mut bytes = built.bytes();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = set.place.path().join("damaged.kiln");
    std::fs::write(&damaged, bytes).expect("written");
    refused(&damaged, "checksum");
    refused(Path::new("/no/such.kiln"), "cannot open");
}

#[test]
fn a_shard_that_is_missing_swapped_or_damaged_is_named() {
    let rows = clustered(DType::U8, 300, 8, 3);
    let set = Set::of(&rows, &[100, 100, 100], Metric::L2, small(IndexKind::Vamana, 8));
    let intact = |name: &str| std::fs::read(set.path.join(name)).expect("readable");
    let refused = |says: &[&str]| {
        for residency in [Residency::Memory, Residency::Ssd] {
            let message = Index::open(&set.path, residency).err().expect("refused").to_string();
            says.iter().for_each(|says| assert!(message.contains(says), "{message}"));
        }
        let told = inspect_set(&set.path).expect_err("refused").to_string();
        says.iter().for_each(|says| assert!(told.contains(says), "{told}"));
    };
    for (name, other) in [("shard-00002.kiln", "shard-00003.kiln"), ("shard-00002.rows", "shard-00003.rows")] {
        let (own, other) = (intact(name), intact(other));
        std::fs::write(set.path.join(name), &other).expect("written");
        refused(&[name, "another took its place", "x.kset"]);
        std::fs::remove_file(set.path.join(name)).expect("removed");
        refused(&[name, "it is not there", "restore"]);
        std::fs::write(set.path.join(name), &own[..own.len() - 1]).expect("written");
        refused(&[name]);
        std::fs::write(set.path.join(name), &own).expect("written");
    }
    let name = "set.json";
    let own = intact(name);
    let text = String::from_utf8(own.clone()).expect("text");
    std::fs::write(set.path.join(name), text.replacen("\"rows\": 100", "\"rows\": 101", 1)).expect("written");
    refused(&["set.json", "checksum", "restore"]);
    for change in [&own[..own.len() / 2], b"", b"[]", b"nonsense"] {
        std::fs::write(set.path.join(name), change).expect("written");
        refused(&["set.json", "no shard set"]);
    }
    // Neither is such a set changed.
    assert!(set.append(&rows).is_err_and(|error| error.to_string().contains("set.json")));
    assert!(set.compact(&[1]).is_err_and(|error| error.to_string().contains("set.json")));
    std::fs::write(set.path.join(name), own).expect("written");
    assert_eq!(set.open().len(), 300);
    // A page that turned bad is found when all is verified.
    let shard = set.path.join("shard-00003.kiln");
    let sections = inspect(&shard).expect("an index").sections;
    let nodes = sections.iter().find(|section| section.name == "nodes").expect("a graph").offset as usize;
    let mut bytes = intact("shard-00003.kiln");
    bytes[nodes] ^= 1;
    std::fs::write(&shard, bytes).expect("written");
    let page = format!("page {}", nodes / 4096);
    for message in [verify_set(&set.path, |_| ()).expect_err("damaged"), set.compact(&[1]).expect_err("damaged")] {
        let message = message.to_string();
        assert!(message.contains("shard-00003.kiln") && message.contains(&page), "{message}");
    }
    assert_eq!(set.names().len(), 2 + 3 * 3);
}

#[test]
fn memory_is_divided_among_the_shards() {
    let rows = clustered(DType::U8, 3000, 32, 3);
    for kind in KINDS {
        let set = Set::of(&rows, &[2800, 100, 100], Metric::L2, small(kind, 32));
        let on_drive = |memory| Index::open_with(&set.path, &OpenParams { memory, ..Residency::Ssd.into() });
        let message = on_drive(Some(10_000)).err().expect("too little").to_string();
        assert!(message.contains("x.kset: --memory") && message.contains("its 3 shards"), "{message}");
        let least: f64 = message
            .split("takes ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .expect("told")
            .parse()
            .expect("a number");
        let enough = (least * 1_048_576.0) as u64;
        let expected = batch(&set.open_with(Residency::Ssd.into()), &part(&rows, 0, 20), 5, by_lists_or_codes(kind));
        for memory in [enough, enough + (400 << 10), enough + (64 << 20)] {
            let index = on_drive(Some(memory)).expect("enough");
            let found = batch(&index, &part(&rows, 0, 20), 5, by_lists_or_codes(kind));
            let ids = |hits: &[Hits]| hits.iter().map(|hits| hits.ids.clone()).collect::<Vec<_>>();
            assert_eq!(ids(&found), ids(&expected), "{kind}");
            assert!(index.serving_bytes() <= memory, "{kind}: {} of {memory}", index.serving_bytes());
            assert_eq!(index.opened().memory, Some(memory));
        }
    }
}

fn by_lists_or_codes(kind: IndexKind) -> Effort {
    match kind {
        IndexKind::Vamana => by_codes(20),
        IndexKind::IvfPq => lists(2, 20),
    }
}

#[test]
fn what_is_wrong_with_a_search_is_said() {
    let rows = clustered(DType::U8, 100, 8, 3);
    let set = Set::of(&rows, &[50, 50], Metric::L2, small(IndexKind::Vamana, 8));
    for probe_shards in [None, Some(1)] {
        let index = set.open_with(OpenParams { probe_shards, ..Residency::Memory.into() });
        let refused = |queries: &Rows, k: usize, effort: Effort, says: &str| {
            let params = SearchParams { k, effort };
            let errors = [
                index.search(&queries.view(), &params).expect_err(says),
                index.search_batch(&queries.view(), &params).expect_err(says),
            ];
            errors.iter().for_each(|error| assert!(error.to_string().contains(says), "{error}"));
        };
        refused(&part(&rows, 0, 1), 0, graph(10), "--k 0");
        refused(&part(&rows, 0, 1), 1, lists(1, 1), "--search-list");
        refused(&made(1, 7, |_, _| 0.0), 1, graph(10), "7 coordinates against an index of 8");
        refused(&made(1, 8, |_, j| if j == 3 { f32::NAN } else { 0.0 }), 1, graph(10), "coordinate 3");
    }
}
