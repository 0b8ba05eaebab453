//! Synthetic clustered vectors of a chosen intrinsic dimension.
//!
//! In: a [`SynthSpec`]. Out: a [`SynthSource`], any row of which is computed from (seed, row) alone, with the same
//! bits on every machine. Queries are the rows numbered past the base, so that both come from one distribution.
//!
//! The recipe, for row r (units of 1/1024 unless stated; `>>` rounds down; all products fit 32 bits):
//!
//! 1. Cluster: u = the upper 32 bits of hash(seed, CLUSTER, r, 0); c = the first cluster whose upper threshold
//!    exceeds u. Cluster i has weight 1 / (1 + imbalance * i); thresholds are floor(2^32 * cumulative share).
//! 2. Latent coordinates: z_j = gaussian(seed, LATENT, r, j) for j below the cluster's m, scaled to
//!    y_j = (z_j * gain_j + 512) >> 10. With w + f the cluster's latent dimension (w whole coordinates, and where
//!    f > 0 a last one of fraction f), gain_j = floor(1024 * sqrt(dim / (w + f^2)) + 1/2), and the last one's has the
//!    further factor f: the coordinates of the result have variance one on average.
//! 3. Coordinate d: v_d = centre(seed, CENTRE, c, d) + ((sum over j of B(d, j) * y_j + 2048) >> 12),
//!    where B is basis number c mod [`BASES`] (or mod the number of clusters, if that is less), orthonormal to 12 bits.
//! 4. Served: f32 is v / 1024; f16 is ((v + 4) >> 3) / 128 with the integer clamped to 11 bits; u8 is
//!    128 + ((24 * v + 512) >> 10) clamped to 0..=255; i8 the same without the 128.
//!
//! `hash`, `gaussian`, `centre` and `basis` are those of `recipe.rs`; the latent dimension follows from the table in
//! `calibration.rs`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use kiln_kernels::{DType, Rows, f16};
use ndarray::Array2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::calibration::{latent_dimension, shown_dimension};
use crate::error::DatasetError;
use crate::recipe::{BASIS_BITS, GAUSSIAN_BITS, basis, centre, gaussian, hash};
use crate::source::{RowSource, check_range};

/// Bases that the clusters share, so that their tables stay in cache.
pub const BASES: u64 = 16;
/// Rows of an average cluster by default: enough that the hundred nearest rows are near.
pub const DEFAULT_CLUSTER_ROWS: u64 = 5_000;
/// The largest dimension for which every sum of the recipe fits 32 bits.
const MAX_DIM: usize = 4096;
/// Levels of a byte for one unit.
const BYTE_LEVELS: i32 = 24;

/// Streams of the counter-based generator.
const CLUSTER: u64 = 1;
const LATENT: u64 = 2;
const CENTRE: u64 = 3;
const BASIS: u64 = 4;

/// What a synthetic set should look like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SynthSpec {
    /// Rows of the base.
    pub rows: u64,
    /// Coordinates in a row, 1 to 4,096.
    pub dim: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// The local intrinsic dimension to show: the median over rows of the maximum-likelihood estimate with k = 100
    /// (see [`crate::lid`]). Held within 15% from 8 to 32 where clusters hold 1,000 rows or more.
    pub intrinsic_dim: f64,
    /// The number of clusters. More rows in the same number of clusters lie denser, and need fewer latent
    /// coordinates for one intrinsic dimension: that is accounted for.
    pub clusters: u64,
    /// Skew of the cluster sizes: cluster i has weight 1 / (1 + imbalance * i). 0 makes them equal, 1 is Zipf's law.
    pub imbalance: f64,
    /// The element type served.
    pub dtype: DType,
}

impl SynthSpec {
    /// Equal clusters of about [`DEFAULT_CLUSTER_ROWS`] f32 rows, seed 0.
    pub fn new(rows: u64, dim: usize, intrinsic_dim: f64) -> Self {
        let clusters = (rows / DEFAULT_CLUSTER_ROWS).max(1);
        Self { rows, dim, seed: 0, intrinsic_dim, clusters, imbalance: 0.0, dtype: DType::F32 }
    }

    /// The set in one line, as messages name it.
    pub fn label(&self) -> String {
        format!(
            "synth:rows={},dim={},seed={},intrinsic_dim={},clusters={},imbalance={},dtype={}",
            self.rows, self.dim, self.seed, self.intrinsic_dim, self.clusters, self.imbalance, self.dtype
        )
    }

    fn validate(&self) -> Result<(), DatasetError> {
        let refuse = |problem: String, remedy: &str| Err(DatasetError::invalid(self.label(), problem, remedy));
        if self.rows == 0 || self.rows > 1 << 48 {
            return refuse(format!("rows is {}", self.rows), "ask for 1 to 2^48 rows");
        }
        if self.dim == 0 || self.dim > MAX_DIM {
            return refuse(format!("dim is {}", self.dim), "ask for 1 to 4096 coordinates");
        }
        if self.clusters == 0 || self.clusters > self.rows.min(1 << 24) {
            return refuse(
                format!("clusters is {}", self.clusters),
                "ask for at least one, and at most one a row or 2^24",
            );
        }
        if !(0.0..=1000.0).contains(&self.imbalance) {
            return refuse(format!("imbalance is {}", self.imbalance), "ask for 0 (equal) to 1000");
        }
        if !(self.intrinsic_dim >= 1.0 && self.intrinsic_dim.is_finite()) {
            return refuse(format!("intrinsic_dim is {}", self.intrinsic_dim), "ask for at least 1");
        }
        Ok(())
    }
}

/// A cluster's share of the rows and its latent coordinates.
#[derive(Debug, Clone)]
struct Cluster {
    /// Rows whose 32-bit draw lies below this, and not below the cluster before, are its own.
    upper: u64,
    /// Latent coordinates.
    latent: usize,
    /// Gain of all latent coordinates but the last, in 1/1024.
    gain: i32,
    /// Gain of the last.
    last_gain: i32,
}

/// A synthetic set as rows: the base, or the queries past its end.
#[derive(Debug, Clone)]
pub struct SynthSource {
    spec: SynthSpec,
    label: PathBuf,
    /// Number, within the recipe, of this source's row 0.
    first: u64,
    rows: u64,
    clusters: Vec<Cluster>,
    /// Per basis, `(dim, latent)` row-major.
    bases: Vec<Vec<i16>>,
    /// Columns of every basis: the most latent coordinates of any cluster.
    latent: usize,
}

impl SynthSource {
    /// The base rows of `spec`.
    ///
    /// # Errors
    /// When a parameter is out of range, or `dim` is too small for the intrinsic dimension.
    pub fn new(spec: &SynthSpec) -> Result<Self, DatasetError> {
        spec.validate()?;
        let clusters = clusters(spec)?;
        let latent = clusters.iter().map(|cluster| cluster.latent).max().unwrap_or(0);
        let bases = (0..BASES.min(spec.clusters))
            .into_par_iter()
            .map(|number| basis(spec.seed, BASIS, number, spec.dim, latent))
            .collect();
        Ok(Self { spec: spec.clone(), label: spec.label().into(), first: 0, rows: spec.rows, clusters, bases, latent })
    }

    /// `count` queries of the same recipe: the rows numbered past the base.
    pub fn queries(&self, count: u64) -> Self {
        let label = format!("{},queries={count}", self.spec.label()).into();
        Self { label, first: self.spec.rows, rows: count, ..self.clone() }
    }

    /// The parameters.
    pub fn spec(&self) -> &SynthSpec {
        &self.spec
    }

    /// The cluster that row `row` of this source belongs to.
    ///
    /// # Panics
    /// Never: the last cluster's threshold is past every draw.
    pub fn cluster_of(&self, row: u64) -> u64 {
        let draw = hash(self.spec.seed, CLUSTER, self.first + row, 0) >> 32;
        self.clusters.partition_point(|cluster| cluster.upper <= draw) as u64
    }

    /// Computes row `row` in units of 1/1024 into `out` (`dim`); `latent` is scratch.
    fn row_into(&self, row: u64, latent: &mut Vec<i32>, out: &mut [i32]) {
        let number = self.cluster_of(row);
        let cluster = &self.clusters[number as usize];
        latent.clear();
        latent.extend((0..cluster.latent).map(|j| {
            let gain = if j + 1 == cluster.latent { cluster.last_gain } else { cluster.gain };
            let z = gaussian(self.spec.seed, LATENT, self.first + row, j as u64);
            (z * gain + (1 << (GAUSSIAN_BITS - 1))) >> GAUSSIAN_BITS
        }));
        let basis = &self.bases[(number % self.bases.len() as u64) as usize];
        for (coordinate, (out, weights)) in out.iter_mut().zip(basis.chunks_exact(self.latent)).enumerate() {
            let sum: i32 = weights.iter().zip(&*latent).map(|(&w, &y)| i32::from(w) * y).sum();
            *out = centre(self.spec.seed, CENTRE, number, coordinate as u64)
                + ((sum + (1 << (BASIS_BITS - 1))) >> BASIS_BITS);
        }
    }

    fn typed<T: Copy + Send + Default>(&self, rows: Range<u64>, serve: impl Fn(i32) -> T + Sync) -> Array2<T> {
        let mut out = Array2::default(((rows.end - rows.start) as usize, self.spec.dim));
        out.as_slice_mut()
            .expect("a fresh matrix is contiguous")
            .par_chunks_mut(self.spec.dim)
            .enumerate()
            .for_each_init(
                || (Vec::with_capacity(self.latent), vec![0; self.spec.dim]),
                |(latent, units), (i, served)| {
                    self.row_into(rows.start + i as u64, latent, units);
                    served.iter_mut().zip(units.iter()).for_each(|(out, &v)| *out = serve(v));
                },
            );
        out
    }
}

/// Shares, latent dimensions and gains of all clusters.
fn clusters(spec: &SynthSpec) -> Result<Vec<Cluster>, DatasetError> {
    let weight = |i: u64| 1.0 / (1.0 + spec.imbalance * i as f64);
    let total = (0..spec.clusters).fold(0.0, |sum, i| sum + weight(i));
    let mut cumulative = 0.0;
    (0..spec.clusters)
        .map(|i| {
            cumulative += weight(i);
            let upper =
                if i + 1 == spec.clusters { 1 << 32 } else { (cumulative / total * 4_294_967_296.0).floor() as u64 };
            let rows = spec.rows as f64 * (weight(i) / total);
            let (whole, fraction) = latent_coordinates(spec, rows)?;
            let scale = (spec.dim as f64 / (whole + fraction * fraction)).sqrt() * 1024.0;
            let gain = (scale + 0.5).floor() as i32;
            let (latent, last_gain) = match fraction {
                0.0 => (whole as usize, gain),
                _ => (whole as usize + 1, (scale * fraction + 0.5).floor() as i32),
            };
            Ok(Cluster { upper, latent, gain, last_gain })
        })
        .collect()
}

/// Whole latent coordinates and the fraction of one more for a cluster of `rows`.
fn latent_coordinates(spec: &SynthSpec, rows: f64) -> Result<(f64, f64), DatasetError> {
    let most = spec.dim as f64;
    if spec.intrinsic_dim < 2.0 {
        // Below the table's first column an estimate is what it says: one coordinate, and part of a second.
        let latent = spec.intrinsic_dim.min(most);
        return Ok((latent.floor(), latent - latent.floor()));
    }
    match latent_dimension(spec.intrinsic_dim, rows).filter(|&latent| latent <= most) {
        Some(latent) => Ok((latent.floor(), latent - latent.floor())),
        None => Err(DatasetError::invalid(
            spec.label(),
            format!(
                "an intrinsic dimension of {} cannot be shown by {rows:.0} rows of {} coordinates: they show at most \
                 {:.1}",
                spec.intrinsic_dim,
                spec.dim,
                shown_dimension(most, rows)
            ),
            "lower intrinsic_dim, or raise dim or the rows of a cluster",
        )),
    }
}

impl RowSource for SynthSource {
    fn len(&self) -> u64 {
        self.rows
    }

    fn dim(&self) -> usize {
        self.spec.dim
    }

    fn dtype(&self) -> DType {
        self.spec.dtype
    }

    fn path(&self) -> &Path {
        &self.label
    }

    fn read(&self, rows: Range<u64>) -> Result<Rows, DatasetError> {
        check_range(self, &rows)?;
        let bytes = |v: i32| (BYTE_LEVELS * v + 512) >> 10;
        Ok(match self.spec.dtype {
            // Below 2^24 in magnitude, so that both the conversion and the power-of-two scale are exact.
            DType::F32 => Rows::F32(self.typed(rows, |v| v as f32 / 1024.0)),
            DType::F16 => {
                Rows::F16(self.typed(rows, |v| f16::from_f32(((v + 4) >> 3).clamp(-2047, 2047) as f32 / 128.0)))
            }
            DType::U8 => Rows::U8(self.typed(rows, |v| (128 + bytes(v)).clamp(0, 255) as u8)),
            DType::I8 => Rows::I8(self.typed(rows, |v| bytes(v).clamp(-128, 127) as i8)),
        })
    }
}
