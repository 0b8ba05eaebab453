//! A synthetic run that looks like a real one: for tests and for `examples/synthetic.rs`.
//!
//! In: nothing, or the number of indexes. Out: records with plausible recall curves, skewed latencies and queries of
//! different difficulty; the same on every call.

use kiln_eval::record::{
    Answers, BuildRecord, DatasetRecord, Machine, Mode, RunData, RunHeader, RunSample, SCHEMA_VERSION, SettingRecord,
    Warmup,
};
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
                settings.push(setting(build, i, step, mode, &lid, &mut noise));
            }
        }
    }
    RunData { header: header(&lid), builds, settings }
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
        },
        k: usize::from(K),
        quick: false,
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

fn setting(build: &BuildRecord, i: usize, step: usize, mode: Mode, lid: &[f64], noise: &mut Noise) -> SettingRecord {
    let graph = build.index == "vamana";
    let effort = [10.0, 15.0, 20.0, 30.0, 45.0, 70.0, 110.0, 200.0][step];
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
    let runs = (0..RUNS)
        .map(|_| {
            let drift = 1.0 + 0.015 * noise.normal();
            let latency_us: Vec<f32> = (lid.iter())
                .map(|l| {
                    let tail = if noise.next() < 0.012 { 4.0 } else { 1.0 };
                    let shape = (0.18 * noise.normal()).exp() * (l / 24.0).powf(0.2);
                    (base_us * shape * tail * drift * threads.powf(0.12)) as f32
                })
                .collect();
            let seconds = latency_us.iter().map(|us| f64::from(*us)).sum::<f64>() / 1e6 / threads;
            RunSample { seconds, latency_us }
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
        },
        failure: None,
    }
}
