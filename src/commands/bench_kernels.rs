//! `kiln bench-kernels`: every stage of a device at stated shapes, beside what the device can do at most.
//!
//! Times are those of whole calls of a stage, answers returned to the host included, as a build sees them: on a GPU the
//! share of the ceiling is a lower bound of what its kernels reach.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_kernels::candidates::NO_ROW;
use kiln_kernels::codec::Rabitq;
use kiln_kernels::conformance::random_rows;
use kiln_kernels::distance::{Isa, quantiser_rows};
use kiln_kernels::edge_codes::{EdgeCodes, EdgeTraining};
use kiln_kernels::nodes::{Edges, NeighborCodes, NodeBlock, NodeLayout, VectorRecord};
use kiln_kernels::pq::{CodeBits, PqTraining, ProductQuantizer};
use kiln_kernels::{Backend, BackendError, CandidateParams, Ceilings, CpuBackend, DType, Devices, GraphSearchParams};
use kiln_kernels::{Lists, Metric, NoProgress, PruneParams, Pruned, PrunedRows, Rows};
use serde::Serialize;
use serde_json::json;

use super::device::DeviceArgs;
use super::{print, write_json};

const EXAMPLES: &str = "\
Examples:
  kiln bench-kernels
  kiln bench-kernels --device cuda --json kernels.json
  kiln bench-kernels --device wgpu --rows 20000

Operations are two for each coordinate of each pair of rows, and of encoders those of their sums; bytes are those that a
stage must read and write at least.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Rows of the largest stages
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    rows: usize,
    /// Coordinates a row
    #[arg(long, value_name = "D", default_value_t = 128)]
    dim: usize,
    /// Element types of the rows
    #[arg(long, value_name = "T,T,..", value_delimiter = ',', default_values = ["u8", "f32"])]
    dtype: Vec<DType>,
    /// Milliseconds to spend on a stage at least
    #[arg(long, value_name = "MS", default_value_t = 300)]
    budget: u64,
    /// Write all figures, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One stage at one shape.
#[derive(Debug, Serialize)]
struct Figure {
    stage: &'static str,
    shape: String,
    calls: usize,
    /// Median of a call, seconds.
    seconds: f64,
    operations_per_second: f64,
    bytes_per_second: f64,
    /// Of the ceiling that is nearer.
    share: f64,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let devices = args.device.open_alone()?;
    let ceilings = devices.ceilings()?;
    let mut figures = Vec::new();
    for &dtype in &args.dtype {
        let bench = Bench::new(&devices, ceilings, &args, dtype)?;
        bench.all(&mut figures)?;
    }
    let document = json!({
        "device": devices.describe(),
        "copy_bytes_per_second": ceilings.copy_bandwidth,
        "matrix_operations_per_second": ceilings.matrix_rate,
        "stages": figures,
    });
    if let Some(path) = &args.json {
        write_json(path, &document)?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    print(&table(&devices.describe(), ceilings, &figures))
}

/// Rows of one type, resident.
struct Bench<'a> {
    devices: &'a Devices,
    ceilings: Ceilings,
    budget: Duration,
    rows: Arc<Rows>,
    resident: <Devices as Backend>::Rows,
}

impl<'a> Bench<'a> {
    fn new(devices: &'a Devices, ceilings: Ceilings, args: &Args, dtype: DType) -> anyhow::Result<Self> {
        let rows = Arc::new(random_rows(dtype, args.rows.max(2), args.dim.max(1), 1));
        let resident = devices.upload(Arc::clone(&rows), Metric::L2)?;
        Ok(Self { devices, ceilings, budget: Duration::from_millis(args.budget), rows, resident })
    }

    fn all(&self, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        let (devices, rows) = (self.devices, &self.resident);
        let (n, dim, dtype) = (self.rows.len(), self.rows.dim(), self.rows.dtype());
        let row_bytes = dim * dtype.bytes();
        let queries = 1000.min(n);
        let of = |count: usize| format!("{count} of {n} x {dim} {dtype}");

        figures.push(self.stage("upload", of(n), 0, n * row_bytes, || {
            devices.upload(Arc::clone(&self.rows), Metric::L2).map(|rows| drop(black_box(rows)))
        })?);

        let asked = devices.upload(Arc::new(self.rows.view().slice(0..queries).to_rows()), Metric::L2)?;
        for k in [10, 100] {
            let shape = format!("{queries} queries, k {k}, {}", of(n));
            let bytes = (n + queries) * row_bytes + queries * k * 8;
            figures.push(self.stage("nearest", shape, 2 * queries * n * dim, bytes, || {
                devices.nearest(&asked, rows, k).map(|found| drop(black_box(found)))
            })?);
        }

        let lists: Lists<u32> = (0..queries).map(|q| (0..64).map(|i| far(q * 64 + i, n)).collect()).collect();
        let pairs = lists.items.len();
        figures.push(self.stage(
            "gather_distances",
            format!("{pairs} pairs, {}", of(n)),
            2 * pairs * dim,
            pairs * (row_bytes + 8),
            || devices.gather_distances(&asked, rows, &lists).map(|found| drop(black_box(found))),
        )?);

        let leaf = 512.min(n);
        let leaves: Lists<u32> =
            (0..(n / leaf).max(1)).map(|l| (0..leaf).map(|i| ((l * leaf + i) % n) as u32).collect()).collect();
        let members = leaves.items.len();
        figures.push(self.stage(
            "leaf_neighbors",
            format!("{} leaves of {leaf}, k 8, {}", leaves.len(), of(n)),
            2 * members * leaf * dim,
            members * (row_bytes + 8 * 8),
            || devices.leaf_neighbors(rows, &leaves, 8).map(|found| drop(black_box(found))),
        )?);

        let all: Vec<u32> = (0..n as u32).collect();
        let leaders: Vec<u32> = all.iter().copied().step_by((n / 1024).max(1)).collect();
        figures.push(self.stage(
            "nearest_leaders",
            format!("{} leaders, k 8, {}", leaders.len(), of(n)),
            2 * n * leaders.len() * dim,
            n * (row_bytes + 8 * 4),
            || devices.nearest_leaders(rows, &all, &leaders, 8).map(|found| drop(black_box(found))),
        )?);

        let points = &all[..n.min(20_000)];
        let candidates: Lists<u32> =
            points.iter().map(|&p| (0..96).map(|i| far(p as usize * 96 + i, n)).collect()).collect();
        let prune = PruneParams { max_degree: 64, alpha: 1.2 };
        figures.push(self.stage(
            "robust_prune",
            format!("{} points, 96 candidates, {}", points.len(), of(n)),
            points.len() * 96 * 97 * dim,
            points.len() * (97 * row_bytes + (96 + 64) * 4),
            || devices.robust_prune(rows, points, &candidates, prune).map(|kept| drop(black_box(kept))),
        )?);

        let gathered = CandidateParams { n, keep: 96, largest_distance: 1e9, far: 4, seed: 1 };
        figures.push(self.stage(
            "candidates",
            format!("{} leaves of {leaf}, k 8, keep 96, pruned to 64, {}", leaves.len(), of(n)),
            2 * members * leaf * dim + n * 12 * 13 * dim,
            members * (row_bytes + 8 * 8) + n * 64 * 4,
            || {
                let mut candidates = devices.candidates(rows, gathered)?;
                candidates.add_leaves(&leaves, 8)?;
                while let Some(rows) = candidates.prune_next(prune)? {
                    black_box(rows);
                }
                Ok(())
            },
        )?);

        // Half of each row's places are kept, among rows near it in number; about half of the unions are crowded.
        let mut pruned = Pruned::new(n, prune.max_degree);
        for row in 0..n {
            let near = (1..=prune.max_degree).map(|j| ((row + j * j) % n) as u32).filter(|&id| id as usize != row);
            let mut edges: Vec<u32> = near.collect();
            edges.resize(prune.max_degree, NO_ROW);
            let kept = (prune.max_degree / 2).min(n - 1) as u16;
            pruned.set_rows(&PrunedRows { first_row: row as u32, edges, kept: vec![kept] });
        }
        figures.push(self.stage(
            "reverse_edges",
            format!("32 of 64 kept, {}", of(n)),
            n * 64 * 65 * dim / 2,
            n * (65 * row_bytes / 2 + 3 * 64 * 4),
            || devices.reverse_edges(rows, &pruned, prune, &NoProgress).map(|graph| drop(black_box(graph))),
        )?);

        let mut candidates = devices.candidates(rows, gathered)?;
        candidates.add_leaves(&leaves, 8)?;
        let graph = devices.upload_graph(Arc::new(candidates.into_graph(prune, &NoProgress)?))?;
        let entries: Lists<u32> = (0..queries).map(|query| vec![far(query, n)]).collect();
        let search = GraphSearchParams { list_size: 64, k: 10 };
        let expanded = devices.graph_search(rows, &graph, &entries, &asked, search)?.expanded;
        // Every edge of what was expanded is scored, at most.
        let scored = 64 * expanded.iter().map(|&expanded| expanded as usize).sum::<usize>();
        figures.push(self.stage(
            "graph_search",
            format!("{queries} queries, L 64, at most {scored} rows scored, {}", of(n)),
            2 * scored * dim,
            scored * (row_bytes + 4),
            || devices.graph_search(rows, &graph, &entries, &asked, search).map(|found| drop(black_box(found))),
        )?);

        let nlist = 1024.min(n);
        let centroids = quantiser_rows(&self.rows.view().slice(0..nlist), Metric::L2);
        figures.push(self.stage(
            "kmeans_step",
            format!("{nlist} centroids, {}", of(n)),
            2 * n * nlist * dim,
            n * (row_bytes + 8) + 2 * nlist * dim * 4,
            || devices.kmeans_step(rows, centroids.view()).map(|step| drop(black_box(step))),
        )?);

        let sample = quantiser_rows(&self.rows.view().slice(0..n.min(5000)), Metric::L2);
        let m = dim.div_ceil(4);
        let training = PqTraining { m, bits: CodeBits::Eight, iterations: 3, seed: 1 };
        let pq = ProductQuantizer::train(&CpuBackend::new(), sample.view(), training)?;
        figures.push(self.stage(
            "pq_encode",
            format!("m {m}, 8 bits, {}", of(n)),
            2 * n * 256 * dim,
            n * (row_bytes + m),
            || devices.pq_encode(rows, None, &pq).map(|codes| drop(black_box(codes))),
        )?);
        self.nodes(figures)?;
        self.rabitq(figures)
    }

    /// Pages of nodes in both layouts; 14 operations a coordinate of a neighbour that is coded.
    fn nodes(&self, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        const DEGREE: usize = 32;
        const BITS: u8 = 2;
        let (n, dim, dtype) = (self.rows.len(), self.rows.dim(), self.rows.dtype());
        let row_bytes = dim * dtype.bytes();
        let rows: Vec<u32> = (0..n.min(20_000) as u32).collect();
        let places: Lists<u32> =
            rows.iter().map(|&p| (0..DEGREE).map(|i| far(p as usize * DEGREE + i, n)).collect()).collect();
        // Where they lie changes no time.
        let mean = vec![0.0; dim];
        let training = EdgeTraining { mean: &mean, radius: 1000.0, bits: BITS, metric: Metric::L2, seed: 1 };
        let codes = EdgeCodes::train(training, Isa::best());
        let record = VectorRecord { dtype, dim, metric: Metric::L2 };
        let coded = NeighborCodes { codes: &codes, rows: &places.items };
        for (edges, codes) in [(Edges::Compact, None), (Edges::Inline { bits: BITS }, Some(coded))] {
            let layout = NodeLayout { record, max_degree: DEGREE, edges };
            let block = NodeBlock { layout, rows: &rows, places: &places, codes };
            let (words, read, operations) = match edges {
                Edges::Compact => ("compact".into(), row_bytes, 0),
                Edges::Inline { bits } => (format!("inline, {bits} bits"), (1 + DEGREE) * row_bytes, DEGREE * 14 * dim),
            };
            figures.push(self.stage(
                "pack_nodes",
                format!("{} nodes, {DEGREE} neighbours, {words}, {n} x {dim} {dtype}", rows.len()),
                rows.len() * operations,
                rows.len() * (layout.node_bytes() + read),
                || self.devices.pack_nodes(&self.resident, &block).map(|pages| drop(black_box(pages))),
            )?);
        }
        Ok(())
    }

    /// RaBitQ codes; six operations a coordinate and scale that is tried.
    fn rabitq(&self, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        const BITS: u8 = 4;
        const SCALES: usize = 24;
        let (n, dim, dtype) = (self.rows.len(), self.rows.dim(), self.rows.dtype());
        let lists = 64.min(n);
        let centroids = quantiser_rows(&self.rows.view().slice(0..lists), Metric::L2);
        let ids: Vec<u32> = (0..n as u32).collect();
        let assignments: Vec<u32> = ids.iter().map(|id| id % lists as u32).collect();
        let rabitq = Rabitq::new(BITS, centroids.view(), 1);
        figures.push(self.stage(
            "rabitq_encode",
            format!("{BITS} bits, {lists} centroids, {n} x {dim} {dtype}"),
            6 * n * SCALES * dim,
            n * (dim * dtype.bytes() + rabitq.row_bytes()),
            || {
                let residual_to = (centroids.view(), &assignments[..]);
                self.devices
                    .rabitq_encode(&self.resident, &ids, residual_to, &rabitq)
                    .map(|codes| drop(black_box(codes)))
            },
        )?);
        Ok(())
    }

    /// Times `call` after one call to warm up.
    fn stage(
        &self,
        stage: &'static str,
        shape: String,
        operations: usize,
        bytes: usize,
        call: impl Fn() -> Result<(), BackendError>,
    ) -> anyhow::Result<Figure> {
        call()?;
        let (mut times, started) = (Vec::new(), Instant::now());
        while times.len() < 3 || started.elapsed() < self.budget {
            let start = Instant::now();
            call()?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let seconds = times[times.len() / 2];
        let (operations, bytes) = (operations as f64, bytes as f64);
        // A copy moves every byte twice: once in, once out.
        let floor = (operations / self.ceilings.matrix_rate).max(bytes / (2.0 * self.ceilings.copy_bandwidth));
        tracing::debug!("{stage}: {shape}: {seconds:.6} s");
        Ok(Figure {
            stage,
            shape,
            calls: times.len(),
            seconds,
            operations_per_second: operations / seconds,
            bytes_per_second: bytes / seconds,
            share: floor / seconds,
        })
    }
}

/// A row far from the one before: any scattered order will do.
fn far(i: usize, n: usize) -> u32 {
    (i.wrapping_mul(2_654_435_761) % n) as u32
}

fn table(device: &str, ceilings: Ceilings, figures: &[Figure]) -> String {
    let mut lines = vec![
        format!(
            "{device}: {:.1} GB/s copied, {:.2} T operations/s of products",
            ceilings.copy_bandwidth / 1e9,
            ceilings.matrix_rate / 1e12
        ),
        format!("{:<18} {:>11} {:>9} {:>8} {:>7}  shape", "stage", "ms", "T op/s", "GB/s", "share"),
    ];
    for figure in figures {
        lines.push(format!(
            "{:<18} {:>11.3} {:>9.3} {:>8.2} {:>6.0}%  {}",
            figure.stage,
            1e3 * figure.seconds,
            figure.operations_per_second / 1e12,
            figure.bytes_per_second / 1e9,
            100.0 * figure.share,
            figure.shape
        ));
    }
    lines.join("\n")
}
