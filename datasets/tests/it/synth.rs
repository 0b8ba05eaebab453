//! Synthetic sets: the same bits always, any row alone, and the intrinsic dimension that was asked for.

use kiln_datasets::{RowSource, SynthSource, SynthSpec, local_dimension, read_all};
use kiln_kernels::{CpuBackend, DType, NoProgress};

/// The estimator's median over 1,000 of 100,000 rows.
fn measured(spec: &SynthSpec) -> f64 {
    let source = SynthSource::new(spec).unwrap();
    let estimates = local_dimension(&CpuBackend::default(), &source, 1_000, 99, 1 << 30, &NoProgress).unwrap();
    estimates.median().unwrap()
}

fn assert_within_15_percent(spec: &SynthSpec) {
    let (asked, measured) = (spec.intrinsic_dim, measured(spec));
    eprintln!("{}: measured {measured:.2}", spec.label());
    assert!((measured / asked - 1.0).abs() <= 0.15, "{}: measured {measured:.2}", spec.label());
}

#[test]
fn intrinsic_dimension_is_as_asked_in_f32() {
    for intrinsic_dim in [8.0, 16.0, 24.0, 32.0] {
        assert_within_15_percent(&SynthSpec::new(100_000, 128, intrinsic_dim));
    }
}

#[test]
fn intrinsic_dimension_is_as_asked_in_bytes() {
    for intrinsic_dim in [8.0, 16.0, 24.0, 32.0] {
        assert_within_15_percent(&SynthSpec {
            dtype: DType::U8,
            seed: 5,
            ..SynthSpec::new(100_000, 128, intrinsic_dim)
        });
    }
}

#[test]
fn intrinsic_dimension_holds_for_other_clusters_and_skew() {
    let spec = SynthSpec::new(100_000, 128, 16.0);
    assert_within_15_percent(&SynthSpec { clusters: 1, seed: 2, ..spec.clone() });
    assert_within_15_percent(&SynthSpec { clusters: 100, seed: 3, ..spec.clone() });
    assert_within_15_percent(&SynthSpec { imbalance: 1.0, seed: 4, ..spec.clone() });
    assert_within_15_percent(&SynthSpec { dtype: DType::I8, intrinsic_dim: 11.4, ..spec.clone() });
    assert_within_15_percent(&SynthSpec { dtype: DType::F16, dim: 256, intrinsic_dim: 27.0, ..spec });
}

#[test]
fn any_row_is_computed_alone_and_queries_follow_the_base() {
    for dtype in [DType::F32, DType::F16, DType::U8, DType::I8] {
        let spec = SynthSpec { dtype, imbalance: 0.5, clusters: 7, ..SynthSpec::new(1_000, 40, 5.0) };
        let source = SynthSource::new(&spec).unwrap();
        let whole = read_all(&source, |_| {}).unwrap();
        assert_eq!(source.read(417..418).unwrap(), whole.view().slice(417..418).to_rows());
        assert_eq!(SynthSource::new(&spec).unwrap().read(0..1_000).unwrap(), whole);
        let queries = source.queries(10);
        assert_eq!((queries.len(), queries.dim()), (10, 40));
        let first = queries.read(0..10).unwrap();
        assert_ne!(first, whole.view().slice(0..10).to_rows());
        assert_ne!(SynthSource::new(&SynthSpec { seed: 1, ..spec }).unwrap().read(0..10).unwrap(), first);
        assert!(queries.read(5..11).is_err());
    }
}

#[test]
fn the_bits_never_change() {
    // A published synthetic set is named by its parameters alone: these digests are part of the format. That of u8
    // was confirmed by a second implementation, in Python, written from the recipe in `synth.rs`.
    for (dtype, expected) in [
        (DType::F32, "087f7c0f7b385976"),
        (DType::F16, "0b17cb835d674100"),
        (DType::U8, "afe9d3b3e9c23b45"),
        (DType::I8, "dbbc52909a475bc8"),
    ] {
        let spec = SynthSpec { dtype, seed: 42, imbalance: 1.0, clusters: 5, ..SynthSpec::new(20_000, 96, 12.5) };
        let rows = SynthSource::new(&spec).unwrap().read(0..64).unwrap();
        let digest = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(rows.as_bytes()));
        assert_eq!(digest, expected, "{dtype}");
    }
}

#[test]
fn cluster_sizes_follow_the_imbalance() {
    let count = |imbalance: f64| {
        let spec = SynthSpec { imbalance, clusters: 10, ..SynthSpec::new(50_000, 8, 3.0) };
        let source = SynthSource::new(&spec).unwrap();
        let mut counts = [0u32; 10];
        (0..50_000).for_each(|row| counts[source.cluster_of(row) as usize] += 1);
        counts
    };
    assert!(count(0.0).iter().all(|&n| (4_700..5_300).contains(&n)), "{:?}", count(0.0));
    // Zipf's law: the first of ten holds 1 / H(10) = 34% of the rows, the last a tenth of that.
    let zipf = count(1.0);
    assert!((16_500..17_700).contains(&zipf[0]) && (1_550..1_900).contains(&zipf[9]), "{zipf:?}");
}

#[test]
fn edges_are_served_and_nonsense_is_refused() {
    for (rows, dim, intrinsic_dim) in [(1, 1, 1.0), (10, 2, 1.5), (300, 4096, 30.0), (5, 3, 2.0)] {
        let source = SynthSource::new(&SynthSpec::new(rows, dim, intrinsic_dim)).unwrap();
        assert_eq!(source.read(0..rows).unwrap().dim(), dim);
    }
    let spec = SynthSpec::new(1_000, 16, 8.0);
    for (bad, word) in [
        (SynthSpec { rows: 0, ..spec.clone() }, "rows is 0"),
        (SynthSpec { dim: 0, ..spec.clone() }, "dim is 0"),
        (SynthSpec { dim: 5_000, ..spec.clone() }, "dim is 5000"),
        (SynthSpec { clusters: 0, ..spec.clone() }, "clusters is 0"),
        (SynthSpec { clusters: 1_001, ..spec.clone() }, "clusters is 1001"),
        (SynthSpec { imbalance: -1.0, ..spec.clone() }, "imbalance is -1"),
        (SynthSpec { imbalance: f64::NAN, ..spec.clone() }, "imbalance is NaN"),
        (SynthSpec { intrinsic_dim: 0.5, ..spec.clone() }, "intrinsic_dim is 0.5"),
        (SynthSpec { intrinsic_dim: f64::INFINITY, ..spec.clone() }, "intrinsic_dim is inf"),
        (SynthSpec { intrinsic_dim: 12.0, ..spec }, "they show at most"),
    ] {
        let message = SynthSource::new(&bad).unwrap_err().to_string();
        assert!(message.contains(word) && message.contains("synth:rows="), "{message}");
    }
}
