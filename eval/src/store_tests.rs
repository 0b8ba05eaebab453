//! The run folder: what survives a crash, what is refused, and in which words.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::record::{Answers, DatasetRecord, Machine, Mode, PeerPoint, PeerRecord, RunSample, Warmup};

fn header() -> RunHeader {
    RunHeader {
        schema: SCHEMA_VERSION,
        created: "2026-11-20T17:40:00Z".into(),
        command: "kiln bench".into(),
        machine: Machine {
            cpu: "test".into(),
            cpus: 2,
            isa: "scalar".into(),
            features: vec![],
            governor: None,
            memory_bytes: 1,
            memory_limit_bytes: None,
            cpu_limit: None,
            kernel: "6".into(),
            filesystem: None,
            drive: None,
            gpu: None,
            rustc: "rustc".into(),
            build_flags: "none".into(),
            kiln_version: "0".into(),
            commit: None,
            dirty: None,
        },
        dataset: DatasetRecord {
            name: "set".into(),
            path: "set.hdf5".into(),
            fingerprint: "f".into(),
            sha256: None,
            rows: 10,
            dim: 2,
            queries: 1,
            dtype: "f32".into(),
            metric: "l2".into(),
            truth_depth: 10,
            query_lid: vec![None, Some(3.5)],
            warnings: vec![],
            difficulty: None,
        },
        k: 5,
        quick: true,
        drive_ceiling: None,
        noise: None,
        held_out: None,
        peer_overhead: None,
    }
}

fn setting(key: &str, failure: Option<&str>) -> SettingRecord {
    SettingRecord {
        key: key.into(),
        build_key: "b".into(),
        params: Default::default(),
        mode: Mode::Throughput { threads: 2 },
        residency: "ssd".into(),
        io_state: Some(crate::IoState::Capped { bytes: 1 << 28 }),
        memory_budget: Some(8 << 20),
        device: None,
        serving_bytes: Some(7 << 20),
        k: 5,
        warmup: Warmup { seconds: 0.1, settled: true },
        runs: vec![RunSample { seconds: 0.5, turn: 0, latency_us: vec![12.34], cached_bytes: Some(4096) }],
        answers: Answers::default(),
        failure: failure.map(str::to_string),
        skip: None,
        foreign: None,
    }
}

fn keys(settings: &[SettingRecord]) -> Vec<&str> {
    settings.iter().map(|setting| setting.key.as_str()).collect()
}

/// A folder with the settings `a` and `b`.
fn written() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut folder = RunFolder::open(dir.path()).expect("new folder");
    assert!(folder.header().is_none());
    folder.begin(header()).expect("written");
    for key in ["a", "b"] {
        folder.add_setting(setting(key, None)).expect("written");
    }
    dir
}

#[test]
fn what_is_written_is_read_back() {
    let dir = written();
    let data = load(dir.path()).expect("a run");
    assert_eq!((&data.header, keys(&data.settings)), (&header(), vec!["a", "b"]));
    assert_eq!(data.settings[0], setting("a", None));
    let folder = RunFolder::open(dir.path()).expect("a run");
    assert!(folder.is_measured("a", true) && !folder.is_measured("c", true));
    assert_eq!(folder.into_data().expect("a run"), data);
}

#[test]
fn a_torn_last_line_is_cut_off_and_written_again() {
    let dir = written();
    let path = dir.path().join(SETTINGS);
    let whole = fs::read(&path).expect("read");
    let first_line = whole.iter().position(|&b| b == b'\n').expect("two lines") + 1;
    // Everything from nothing of the second line to all of it but its end.
    for length in [first_line, first_line + 1, whole.len() / 2 + 10, whole.len() - 1] {
        fs::write(&path, &whole[..length]).expect("written");
        assert_eq!(keys(&load(dir.path()).expect("a run").settings), ["a"]);
        assert_eq!(fs::read(&path).expect("read").len(), length, "reading changes nothing");
        let mut folder = RunFolder::open(dir.path()).expect("a run");
        assert!(!folder.is_measured("b", true));
        folder.add_setting(setting("b", None)).expect("written");
        assert_eq!(fs::read(&path).expect("read"), whole);
    }
    // A block that a power loss left as zeros.
    fs::write(&path, [&whole[..first_line], &[0u8; 40][..]].concat()).expect("written");
    assert_eq!(keys(&RunFolder::open(dir.path()).expect("a run").into_data().expect("a run").settings), ["a"]);
}

#[test]
fn a_damaged_line_in_the_middle_is_an_error_that_names_it() {
    let dir = written();
    let path = dir.path().join(SETTINGS);
    let mut bytes = fs::read(&path).expect("read");
    bytes[3] = b'#';
    fs::write(&path, bytes).expect("written");
    for error in [load(dir.path()).expect_err("damaged"), RunFolder::open(dir.path()).expect_err("damaged")] {
        assert!(error.to_string().contains("settings.jsonl, line 1"), "{error}");
    }
}

#[test]
fn a_failed_setting_is_tried_again_and_replaced() {
    let dir = written();
    let mut folder = RunFolder::open(dir.path()).expect("a run");
    folder.add_setting(setting("c", Some("query 1: no page"))).expect("written");
    folder.add_setting(setting("d", None)).expect("written");
    assert!(!folder.is_measured("c", true));
    folder.add_setting(setting("c", None)).expect("written");
    assert!(folder.is_measured("c", true) && folder.is_measured("c", false));
    let pruned = SettingRecord { skip: Some(Skip::Pruned), ..setting("e", Some("pruned: a probe found")) };
    folder.add_setting(pruned).expect("written");
    assert!(folder.is_measured("e", true) && !folder.is_measured("e", false), "a run that does not prune measures it");
    let data = folder.into_data().expect("a run");
    assert_eq!(keys(&data.settings), ["a", "b", "c", "d", "e"]);
    assert_eq!(data.settings[2].failure, None);
}

#[test]
fn other_schemas_and_missing_headers_are_refused() {
    let dir = written();
    let path = dir.path().join(HEADER);
    let text = fs::read_to_string(&path).expect("read").replace("\"schema\": 1", "\"schema\": 7");
    fs::write(&path, text).expect("written");
    let message = load(dir.path()).expect_err("schema 7").to_string();
    assert!(message.contains("version 7") && message.contains("version 1"), "{message}");
    fs::remove_file(&path).expect("removed");
    assert!(matches!(load(dir.path()), Err(StoreError::NoRun { .. })));
    assert!(matches!(RunFolder::open(dir.path()), Err(StoreError::NoHeader { .. })));
}

#[test]
fn one_process_at_a_time() {
    let dir = written();
    let first = RunFolder::open(dir.path()).expect("a run");
    assert!(matches!(RunFolder::open(dir.path()), Err(StoreError::Busy { .. })));
    assert!(load(dir.path()).is_ok(), "readers are welcome");
    drop(first);
    assert!(RunFolder::open(dir.path()).is_ok());
}

#[test]
fn a_folder_that_cannot_be_written_says_what_to_do() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    let message = RunFolder::open(&file.path().join("run")).expect_err("below a file").to_string();
    assert!(message.contains("choose another --out"), "{message}");

    let dir = written();
    fs::set_permissions(dir.path().join(SETTINGS), fs::Permissions::from_mode(0o444)).expect("changed");
    // Root may write what is read-only.
    if OpenOptions::new().append(true).open(dir.path().join(SETTINGS)).is_err() {
        let message = RunFolder::open(dir.path()).expect_err("read-only").to_string();
        assert!(message.contains("settings.jsonl") && message.contains("choose another --out"), "{message}");
    }
    assert!(load(dir.path()).is_ok());
}

#[test]
fn a_full_disk_is_an_error_that_keeps_what_was_measured() {
    let Ok(file) = OpenOptions::new().append(true).open("/dev/full") else { return };
    let mut lines = Lines::<SettingRecord> { path: "/dev/full".into(), file, record: PhantomData };
    let message = lines.append(&setting("a", None)).expect_err("full").to_string();
    assert!(message.contains("/dev/full: cannot append a record") && message.contains("is kept"), "{message}");
}

#[test]
fn peers_and_loads_are_read_from_where_others_write_them() {
    let dir = written();
    let peer = PeerRecord {
        name: "diskannpy-ssd".into(),
        version: "0.7.0".into(),
        residency: "ssd".into(),
        threads: 2,
        serving_bytes: 24 << 20,
        points: vec![PeerPoint { params: Default::default(), recall: 0.95, qps: vec![800.0, 790.5], pages: None }],
    };
    std::fs::write(dir.path().join(PEERS), serde_json::to_string(&peer).expect("JSON") + "\n").expect("written");
    assert_eq!(load(dir.path()).expect("read").peers, std::slice::from_ref(&peer));
    assert_eq!(RunFolder::open(dir.path()).and_then(RunFolder::into_data).expect("read").peers, [peer]);
    std::fs::write(dir.path().join(LOAD_FILE), "{}\n{}\n").expect("written");
    let message = load(dir.path()).expect_err("no loads").to_string();
    assert!(message.contains("load.jsonl, line 1"), "{message}");
}

#[test]
fn the_drives_ceiling_joins_the_header() {
    let dir = written();
    let ceiling =
        DriveCeiling { reads_per_second: 81_234.5, depth: 64, tool: "fio-3.33".into(), file: "x.kiln".into() };
    RunFolder::open(dir.path()).and_then(|mut folder| folder.set_drive_ceiling(ceiling.clone())).expect("written");
    let data = load(dir.path()).expect("read");
    assert_eq!((data.header.drive_ceiling, data.settings.len()), (Some(ceiling), 2));
    // A folder from before there was one.
    let text = std::fs::read_to_string(dir.path().join(HEADER)).expect("there");
    let mut header: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    header.as_object_mut().expect("an object").remove("drive_ceiling");
    std::fs::write(dir.path().join(HEADER), header.to_string()).expect("written");
    assert_eq!(load(dir.path()).expect("read").header.drive_ceiling, None);
}
