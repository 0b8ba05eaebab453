//! `--device`, `kiln devices` and `kiln bench-kernels`, with whatever this machine has.

use crate::common::*;
use serde_json::Value;

/// What `kiln devices` finds: each kind, and whether it can be used.
fn devices(place: &Place) -> Value {
    serde_json::from_str(&place.ok(&["devices", "--json", "-"])).expect("one document and nothing else")
}

fn usable(devices: &Value, kind: &str) -> bool {
    let list = devices["devices"].as_array().expect("a list");
    list.iter().any(|device| device["device"] == kind && device["usable"] == true)
}

#[test]
fn every_kind_of_device_is_listed_with_what_it_can_do_or_why_it_cannot() {
    let place = Place::new();
    let listed = place.ok(&["devices"]);
    assert_says(&listed, &["cuda ", "wgpu ", "cpu ", "instruction sets", "order of --device auto", "because: "]);
    let devices = devices(&place);
    assert!(usable(&devices, "cpu"));
    for device in devices["devices"].as_array().expect("a list") {
        if device["usable"] == true {
            assert!(device["copy_bytes_per_second"].as_f64().is_some_and(|rate| rate > 1e6), "{device}");
            assert!(device["matrix_operations_per_second"].as_f64().is_some_and(|rate| rate > 1e6), "{device}");
        } else {
            assert!(device["name"].as_str().is_some_and(|name| name.len() > 10), "{device}");
        }
    }
    // The processor is the last resort.
    let chosen = devices["chosen"].as_array().expect("a list");
    assert!(chosen.last().and_then(Value::as_str).is_some_and(|name| name.starts_with("cpu (")), "{devices}");
}

#[test]
fn builds_say_what_computes_and_refuse_what_is_not_there() {
    let place = Place::new().with_set();
    let devices = devices(&place);
    for kind in ["auto", "cpu", "wgpu", "cuda"] {
        let build = ["build", "--dataset", "set.hdf5", "--index", "vamana", "--out", "x.kiln", "--device", kind];
        if kind == "auto" || usable(&devices, kind) {
            let ran = place.run(&build);
            assert_eq!(ran.code, Some(0), "{}", ran.err);
            assert_says(&ran.err, &["device: "]);
            let device = place.json("x.kiln.build.json")["device"].as_str().expect("named").to_string();
            assert!(kind == "auto" || device.starts_with(kind), "{kind}: {device}");
            // Whatever computed, every row is its own nearest.
            let found = place.ok(&["search", "x.kiln", "--queries", "set.hdf5", "--search-list", "100", "--json", "-"]);
            let found: Value = serde_json::from_str(&found).expect("one document");
            assert!(found["recall"].as_f64().is_some_and(|recall| recall > 0.99), "{kind}: {found}");
        } else {
            assert_says(&place.fails(1, &build), &["there is no", "device", "kiln devices"]);
        }
    }
}

#[test]
fn a_limit_on_device_memory_is_a_size() {
    let place = Place::new().with_set();
    let build = ["build", "--dataset", "set.hdf5", "--index", "vamana", "--out", "x.kiln", "--device-memory"];
    assert_says(&place.fails(2, &[&build[..], &["lots"]].concat()), &["lots", "4GiB"]);
    place.ok(&[&build[..], &["64MiB"]].concat());
}

#[test]
fn every_stage_is_measured_beside_its_ceiling() {
    let place = Place::new();
    let small = ["bench-kernels", "--device", "cpu", "--rows", "600", "--dim", "12", "--budget", "1"];
    let figures: Value =
        serde_json::from_str(&place.ok(&[&small[..], &["--json", "-"]].concat())).expect("one document");
    let stages = figures["stages"].as_array().expect("a list");
    for stage in [
        "upload",
        "nearest",
        "gather_distances",
        "leaf_neighbors",
        "nearest_leaders",
        "robust_prune",
        "candidates",
        "kmeans_step",
        "pq_encode",
        "pack_nodes",
        "rabitq_encode",
    ] {
        let of = |dtype: &str| {
            stages.iter().any(|row| {
                row["stage"] == stage
                    && row["shape"].as_str().is_some_and(|shape| shape.contains(dtype))
                    && row["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0)
            })
        };
        assert!(of("u8") && of("f32"), "{stage}: {figures}");
    }
    assert_says(&place.ok(&small), &["cpu (", "GB/s copied", "robust_prune", "share"]);
}
