//! A synthetic run that looks like a real one: for tests and for `examples/synthetic.rs`.
//!
//! In: nothing, or the number of indexes and settings. Out: records with plausible recall curves, skewed latencies and queries of
//! different difficulty; the same on every call.

use std::collections::BTreeMap;

use kiln_eval::load::{LoadLatency, LoadMode, LoadRecord, StartLag, is_saturated};
use kiln_eval::record::{
    Answers, BuildRecord, DatasetRecord, DriveCeiling, Foreign, HeldOut, IoState, Machine, Mode, NoiseCheck, PeerPoint,
    PeerRecord, RunData, RunHeader, RunSample, SCHEMA_VERSION, SettingRecord, Skip, Stated, StatedLatency, Warmup,
};
use kiln_eval::stats::Interval;
use serde_json::json;

const QUERIES: usize = 500;
const K: u16 = 10;
const RUNS: usize = 10;

/// Knuth's MMIX generator: good enough for pictures.
struct Noise(u64);

impl Noise {
    /// In `0..1`.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Roughly standard normal.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

/// Two indexes, eight settings each, in three modes.
pub fn run() -> RunData {
    indexes(2)
}

/// `n` indexes, alternately of each kind.
pub fn indexes(n: usize) -> RunData {
    let mut noise = Noise(42);
    let lid: Vec<f64> = (0..QUERIES).map(|_| (3.1 + 0.35 * noise.normal()).exp()).collect();
    let builds: Vec<BuildRecord> = (0..n).map(build).collect();
    let mut settings = Vec::new();
    for (i, build) in builds.iter().enumerate() {
        for step in 0..8 {
            for mode in [Mode::Latency1, Mode::Throughput { threads: 1 }, Mode::Throughput { threads: 2 }] {
                let effort = [10.0, 15.0, 20.0, 30.0, 45.0, 70.0, 110.0, 200.0][step];
                settings.push(setting(build, i, (step, effort), mode, &lid, &mut noise));
            }
        }
    }
    RunData { header: header(&lid), builds, settings, peers: Vec::new(), loads: Vec::new() }
}

/// `n` indexes with `steps` settings each, in one mode: the size of a report.
pub fn grid(n: usize, steps: usize) -> RunData {
    let mut noise = Noise(42);
    let lid: Vec<f64> = (0..QUERIES).map(|_| (3.1 + 0.35 * noise.normal()).exp()).collect();
    let builds: Vec<BuildRecord> = (0..n).map(build).collect();
    let mut settings = Vec::new();
    for (i, build) in builds.iter().enumerate() {
        for step in 0..steps {
            let effort = 10.0 * 20f64.powf(step as f64 / (steps.max(2) - 1) as f64);
            settings.push(setting(build, i, (step, effort), Mode::Latency1, &lid, &mut noise));
        }
    }
    RunData { header: header(&lid), builds, settings, peers: Vec::new(), loads: Vec::new() }
}

/// All that a report has a place for: an index in memory and on the drive, one measured elsewhere, failures of every kind,
/// loads, held-out queries, a noise check.
pub fn everything() -> RunData {
    let mut data = on_drive();
    let elsewhere = imported();
    data.settings.extend(elsewhere.settings.into_iter().filter(SettingRecord::is_foreign));
    data.builds.extend(elsewhere.builds.into_iter().skip(1));
    let fates = [
        (None, "killed: out of memory (limit 8 GiB), while it searched with ef=800"),
        (None, "no answer within 10 min: it hangs, and was stopped"),
        (None, "the process ended with signal 11; the last of its log: Segmentation fault"),
        (Some(Skip::Pruned), "beaten in recall and in throughput by search_list=40"),
        (Some(Skip::TimeBudget), "time budget: nothing of it was left"),
    ];
    for (setting, (skip, why)) in data.settings.iter_mut().filter(|s| s.residency == "memory").skip(2).zip(fates) {
        (setting.failure, setting.skip) = (Some(why.into()), skip);
        setting.runs.clear();
    }
    data.header.held_out = Some(HeldOut { fraction: 0.3, seed: 7 });
    data.header.noise = Some(NoiseCheck {
        index: "vamana".into(),
        params: [("search_list".to_string(), json!(40))].into(),
        mode: "latency-1".into(),
        first: vec![1.0, 1.01, 0.99, 1.0, 1.02],
        second: vec![1.01, 1.0, 1.0, 0.99, 1.0],
    });
    data.header.quick = true;
    data
}

/// Two indexes, measured in batches too, of which no query has a latency.
pub fn with_batches() -> RunData {
    let mut data = run();
    let mut batches: Vec<SettingRecord> =
        data.settings.iter().filter(|s| s.mode == Mode::Throughput { threads: 1 }).cloned().collect();
    for s in &mut batches {
        s.mode = Mode::Batch { threads: 1 };
        s.key = format!("{}-batch", s.key);
        for run in &mut s.runs {
            run.seconds *= 0.6;
            run.latency_us.clear();
        }
    }
    data.settings.extend(batches);
    data
}

/// Two indexes, one of them on a device too.
pub fn on_device() -> RunData {
    let mut data = with_batches();
    let graph = data.builds[0].key.clone();
    let batches: Vec<SettingRecord> =
        data.settings.iter().filter(|s| s.mode.is_batch() && s.build_key == graph).cloned().collect();
    for transfers in [true, false] {
        for mut s in batches.iter().cloned() {
            s.mode = Mode::BatchDevice { transfers };
            s.key = format!("{}-device-{transfers}", s.key);
            s.device = Some("cuda (NVIDIA H100, 80 GiB, compute capability 9.0)".into());
            s.answers.distances.clear();
            s.runs.iter_mut().for_each(|run| run.seconds *= if transfers { 0.05 } else { 0.03 });
            data.settings.push(s);
        }
    }
    data
}

/// Three indexes, one of them also on the drive; a failure, and a warm-up that did not settle.
pub fn eventful() -> RunData {
    let mut data = indexes(3);
    let mut from_drive: Vec<SettingRecord> = (data.settings.iter())
        .filter(|s| s.build_key == data.builds[0].key && s.mode != Mode::Throughput { threads: 1 })
        .cloned()
        .collect();
    for s in &mut from_drive {
        s.key = format!("{}-ssd", s.key);
        s.residency = "ssd".into();
        for run in &mut s.runs {
            run.seconds *= 4.0;
            run.latency_us.iter_mut().for_each(|us| *us *= 4.0);
        }
        s.answers.pages = s.answers.hops.iter().map(|h| h / 2 + 2).collect();
        s.answers.bytes = s.answers.pages.iter().map(|p| u64::from(*p) * 4096).collect();
    }
    data.settings.extend(from_drive);
    data.settings[5].warmup.settled = false;
    data.settings[7].failure = Some("out of memory: the kernel killed the process (limit 4 GiB)".into());
    data.settings[7].runs.clear();
    data.header.quick = true;
    data.header.machine.dirty = Some(true);
    data.header.dataset.warnings.push("3 of 100 stored distances differ from recomputed ones by more than 1e-3".into());
    data
}

/// One graph in memory, on the drive under eight budgets, and cold and warm; another library beside it; and a server under
/// load. One pass of each cold setting of `latency-1` did not begin cold.
pub fn on_drive() -> RunData {
    let mut data = indexes(1);
    let drive = DriveCeiling {
        reads_per_second: 83_340.0,
        depth: 64,
        tool: "fio-3.33, io_uring".into(),
        file: "kiln-runs/indexes/0.kiln".into(),
    };
    let budgets = (3..11).map(|power| (IoState::Direct, Some(1u64 << (20 + power)), 3.0 + 0.12 * f64::from(power)));
    let states = [(IoState::Cold, None, 2.9), (IoState::Warm, None, 0.7)];
    let mut settings = std::mem::take(&mut data.settings);
    let in_memory = settings.clone();
    for (state, budget, saving) in budgets.chain(states) {
        for s in &in_memory {
            let mut s = s.clone();
            let hits = if let Some(bytes) = budget { (bytes as f64).log2() - 23.0 } else { 0.0 };
            s.answers.pages = s.answers.hops.iter().map(|h| (f64::from(*h) / (1.3 + 0.12 * hits)) as u32 + 2).collect();
            s.answers.bytes = s.answers.pages.iter().map(|p| u64::from(*p) * 4096).collect();
            s.answers.cache_hits = s.answers.hops.iter().map(|h| (f64::from(*h) * 0.05 * hits) as u32).collect();
            s.answers.io_wait_us = s.answers.pages.iter().map(|p| *p as f32 * 9.0).collect();
            s.answers.kernel_bytes = Some(s.answers.bytes.iter().sum());
            for (number, run) in s.runs.iter_mut().enumerate() {
                let drive_us = if state == IoState::Warm { 1.1 } else { 24.0 } * (1.0 - 0.055 * hits) * saving / 3.0;
                for (us, pages) in run.latency_us.iter_mut().zip(&s.answers.pages) {
                    *us += *pages as f32 * drive_us as f32;
                }
                let busy = run.latency_us.iter().map(|us| f64::from(*us)).sum::<f64>() / 1e6;
                run.seconds = busy / s.mode.threads() as f64;
                run.cached_bytes = match state {
                    IoState::Cold if number == 3 && s.mode == Mode::Latency1 => Some(12 << 20),
                    IoState::Cold => Some(0),
                    IoState::Warm => Some(data.builds[0].index_bytes),
                    _ => None,
                };
            }
            s.key = format!("{}-{}-{budget:?}", s.key, state.name());
            s.residency = "ssd".into();
            s.io_state = Some(state);
            s.memory_budget = budget;
            s.serving_bytes = Some(budget.unwrap_or(24 << 20) * 15 / 16);
            settings.push(s);
        }
    }
    data.settings = settings;
    data.peers = [1usize, 2].into_iter().flat_map(peers).collect();
    data.loads = [500.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 6000.0].map(|rate| load(rate, 4800.0)).into();
    data.header.drive_ceiling = Some(drive);
    data
}

/// Two indexes, the second of them measured elsewhere: twice as fast, its recall and its rates as its source states them.
pub fn imported() -> RunData {
    let mut data = run();
    let key = data.builds[1].key.clone();
    for setting in data.settings.iter_mut().filter(|setting| setting.build_key == key) {
        let rate = 2.0 * kiln_eval::metrics::qps(setting).map_or(0.0, |qps| qps.median);
        let stated = Stated {
            queries: Some(QUERIES),
            recall: kiln_eval::metrics::recall(setting),
            qps: Some(Interval { median: rate, lo: rate, hi: rate }),
            latency: Some(StatedLatency { mean: 50.0, ..StatedLatency::default() }),
            ..Stated::default()
        };
        setting.runs.clear();
        setting.answers = Answers::default();
        setting.foreign = Some(Box::new(Foreign {
            format: "cuvs-bench".into(),
            source: "größe 1,base,k10,bs1.json".into(),
            hardware: Some("gpu-node, NVIDIA H100".into()),
            recall_rule: Some("ids of the truth, as cuvs-bench counts".into()),
            stated,
        }));
    }
    data
}

/// diskannpy's index on the drive, as published figures have it, with three sizes of its cache.
fn peers(threads: usize) -> Vec<PeerRecord> {
    [(24u64, 1.0), (96, 1.08), (384, 1.3)]
        .map(|(mib, gain)| PeerRecord {
            name: "diskannpy-ssd".into(),
            version: "0.7.0".into(),
            residency: "ssd".into(),
            threads,
            serving_bytes: mib << 20,
            points: [(20, 0.873, 760.0), (30, 0.932, 700.0), (40, 0.958, 620.0), (60, 0.982, 470.0)]
                .map(|(complexity, recall, qps)| PeerPoint {
                    params: [("complexity".to_string(), json!(complexity))].into(),
                    recall,
                    qps: [0.99, 1.0, 1.02].map(|drift| qps * gain * drift * (threads as f64).powf(0.4)).into(),
                    pages: Some(11.0 + f64::from(complexity)),
                })
                .into(),
        })
        .into()
}

/// A server that can answer `capacity` requests a second.
fn load(offered: f64, capacity: f64) -> LoadRecord {
    let achieved = offered.min(capacity);
    // A queue in front of one server (M/M/1), which grows for as long as it is asked too much.
    let used = (offered / capacity).min(0.995);
    let mean = 380.0 + 210.0 * used / (1.0 - used);
    let latency = LoadLatency { p50: 0.8 * mean, p95: 2.4 * mean, p99: 3.9 * mean, p999: None, max: 9.0 * mean, mean };
    let shed = if offered > capacity { BTreeMap::from([("overloaded".to_string(), 731)]) } else { BTreeMap::new() };
    LoadRecord {
        url: "http://127.0.0.1:8080".into(),
        index: None,
        created: "2026-11-20T17:40:00Z".into(),
        mode: LoadMode::OpenLoop,
        offered_rate: offered,
        achieved_rate: achieved,
        seconds: 10.0,
        requests: (offered * 10.0) as u64,
        errors: shed,
        latency_us: latency,
        start_lag_us: StartLag { p50: 12.0, p99: 85.0 },
        saturated: is_saturated(LoadMode::OpenLoop, offered, achieved),
        capacity: Some(capacity),
        connections: 64,
        k: usize::from(K),
        params: [("search_list".to_string(), json!(40))].into(),
        recall: Some(0.953),
    }
}

fn header(lid: &[f64]) -> RunHeader {
    RunHeader {
        schema: SCHEMA_VERSION,
        created: "2026-11-20T17:40:00Z".into(),
        command: "kiln bench --dataset photosift-128-euclidean.hdf5 --index vamana --index ivf-pq --report report.html"
            .into(),
        machine: Machine {
            cpu: "Intel(R) Xeon(R) Processor @ 2.60GHz".into(),
            cpus: 2,
            isa: "avx512-vnni".into(),
            features: ["avx2", "fma", "avx512f", "avx512bw", "avx512vnni"].map(String::from).to_vec(),
            governor: None,
            memory_bytes: 24 << 30,
            memory_limit_bytes: None,
            cpu_limit: Some(2.0),
            kernel: "6.18.0".into(),
            filesystem: Some("ext4".into()),
            drive: Some("vda (virtio)".into()),
            gpu: None,
            rustc: "rustc 1.95.0".into(),
            build_flags: "x86_64-unknown-linux-gnu release lto=thin".into(),
            kiln_version: "0.1.0".into(),
            commit: Some("4f0c9a1d2b7e".into()),
            dirty: Some(false),
        },
        dataset: DatasetRecord {
            name: "photosift-128-euclidean".into(),
            path: "data/photosift-128-euclidean.hdf5".into(),
            fingerprint: "xxh3:9b1c7f5e2a40d813".into(),
            sha256: Some("6d9a0f1c53e7b2a48c0d9e6f7a1b2c3d4e5f60718293a4b5c6d7e8f901234567".into()),
            rows: 736_862,
            dim: 128,
            queries: QUERIES,
            dtype: "u8".into(),
            metric: "l2".into(),
            truth_depth: 100,
            query_lid: lid.iter().map(|l| Some(*l as f32)).collect(),
            warnings: Vec::new(),
            difficulty: None,
        },
        k: usize::from(K),
        quick: false,
        drive_ceiling: None,
        noise: None,
        held_out: None,
        peer_overhead: None,
    }
}

fn build(i: usize) -> BuildRecord {
    let graph = i.is_multiple_of(2);
    let size = 32 + 16 * (i / 2);
    let stages: &[(&str, f64)] = if graph {
        &[("read", 0.9), ("partition", 9.4), ("graph", 31.2), ("encode", 3.3), ("write", 1.1), ("fsync", 0.4)]
    } else {
        &[("read", 0.9), ("train", 6.1), ("assign", 8.7), ("encode", 5.0), ("write", 0.3), ("fsync", 0.1)]
    };
    let stretch = size as f64 / 32.0;
    let params = if graph {
        [("max_degree", json!(size)), ("alpha", json!(1.2)), ("method", json!("partition"))].to_vec()
    } else {
        [("nlist", json!(64 * size)), ("m", json!(64)), ("bits", json!(4))].to_vec()
    };
    BuildRecord {
        key: format!("build-{i}"),
        index: if graph { "vamana" } else { "ivf-pq" }.into(),
        path: format!("kiln-runs/indexes/{i}.kiln"),
        params: params.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
        dtype: "u8".into(),
        device: "cpu avx512-vnni".into(),
        threads: 2,
        stage_seconds: stages.iter().map(|(name, s)| (name.to_string(), s * stretch)).collect(),
        total_seconds: stages.iter().map(|(_, s)| s * stretch).sum::<f64>() + 0.7,
        cpu_seconds: stages.iter().map(|(_, s)| s * stretch).sum::<f64>() * 1.8,
        peak_rss_bytes: if graph { 612 << 20 } else { 401 << 20 } + ((size as u64) << 20),
        index_bytes: if graph { 280 << 20 } else { 138 << 20 } + ((size as u64) << 19),
        serving_bytes: if graph { 274 << 20 } else { 131 << 20 },
    }
}

fn setting(
    build: &BuildRecord,
    i: usize,
    (step, effort): (usize, f64),
    mode: Mode,
    lid: &[f64],
    noise: &mut Noise,
) -> SettingRecord {
    let graph = build.index == "vamana";
    let reach = if graph { 7.5 } else { 12.0 } / (1.0 + 0.15 * (i / 2) as f64);
    let miss = (-effort / reach / 2.0).exp() * 0.35 + if graph { 0.0002 } else { 0.004 };
    let base_us =
        if graph { 14.0 } else { 22.0 } * (1.0 + 0.1 * (i / 2) as f64) + effort * if graph { 2.2 } else { 3.1 };
    let strict_hits: Vec<u16> = (lid.iter())
        .map(|l| {
            let chance = (miss * (l / 24.0).powf(1.6)).min(0.9);
            (0..K).filter(|_| noise.next() > chance).count() as u16
        })
        .collect();
    let id_hits = strict_hits.iter().map(|h| h - u16::from(*h > 0 && noise.next() < 0.01)).collect();
    let ann_hits = strict_hits.iter().map(|h| h + u16::from(*h < K && noise.next() < 0.3)).collect();
    let threads = mode.threads() as f64;
    let runs = (0..RUNS as u32)
        .map(|turn| {
            let drift = 1.0 + 0.015 * noise.normal();
            let latency_us: Vec<f32> = (lid.iter())
                .map(|l| {
                    let tail = if noise.next() < 0.012 { 4.0 } else { 1.0 };
                    let shape = (0.18 * noise.normal()).exp() * (l / 24.0).powf(0.2);
                    (base_us * shape * tail * drift * threads.powf(0.12)) as f32
                })
                .collect();
            let seconds = latency_us.iter().map(|us| f64::from(*us)).sum::<f64>() / 1e6 / threads;
            RunSample { seconds, turn, latency_us, cached_bytes: None }
        })
        .collect();
    let hops: Vec<u32> = lid.iter().map(|l| (effort * 0.9 + l / 3.0) as u32).collect();
    let mut params = vec![(if graph { "search_list" } else { "nprobe" }.to_string(), json!(effort as u32))];
    if !graph {
        params.push(("rerank".into(), json!(100)));
    }
    SettingRecord {
        key: format!("{}-{step}-{}", build.key, mode.name()),
        build_key: build.key.clone(),
        params: params.into_iter().collect(),
        mode,
        residency: "memory".into(),
        io_state: None,
        memory_budget: None,
        device: None,
        serving_bytes: Some(build.serving_bytes),
        k: usize::from(K),
        warmup: Warmup { seconds: 0.8, settled: true },
        runs,
        answers: Answers {
            strict_hits,
            id_hits,
            ann_hits,
            possible: vec![K; lid.len()],
            distances: hops.iter().map(|h| h * if graph { 17 } else { 360 }).collect(),
            hops,
            pages: vec![0; lid.len()],
            bytes: vec![0; lid.len()],
            ..Answers::default()
        },
        failure: None,
        skip: None,
        foreign: None,
    }
}
