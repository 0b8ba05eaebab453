//! The `partition` method: a graph from all pairs of many small overlapping leaves.
//!
//! In: rows resident on a backend. Out: an alpha-pruned [`Graph`] of bounded degree. After PiPNN (arXiv 2602.21247):
//! rows are split among randomly sampled leaders, each row going to its `fanout` nearest, until leaves are small; in a
//! leaf every row names its nearest others; a row's candidates are pruned robustly (DiskANN, NeurIPS 2019). Everything
//! heavy is a dense product. Deviations from the paper: reservoirs keep the nearest candidates instead of one a hash of
//! directions (that bounds memory too, and measured no worse); candidates enter one way, and reverse edges follow the
//! prune, as in Vamana; places that stay free are filled; and what no walk reaches is linked (see `repair`).

use std::sync::Arc;

use kiln_kernels::distance::GraphAux;
use kiln_kernels::{Backend, Lists, Metric, Progress, PruneParams, Rows, dispatch_rows};
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::insert::{Space, medoid};
use super::reservoir::{DistanceKey, Reservoirs};
use super::{Graph, repair, reverse};
use crate::error::BuilderError;
use crate::params::VamanaParams;
use crate::resources::Stopwatch;

/// Leaders that a row goes to, by depth; one at greater depths. About 24 leaves a row carry the quality.
const FANOUT: [usize; 2] = [8, 3];

/// Rows of a leaf at most.
const LEAF_SIZE: usize = 1024;

/// Neighbours that a row names in a leaf.
const LEAF_K: usize = 10;

/// Leaders of the first split as a share of n, and at most.
const LEADER_SHARE: f64 = 0.005;
const MAX_LEADERS: usize = 8192;

/// Leaders a fanout at least, so that a split really divides.
const LEADERS_A_FANOUT: usize = 4;

/// A part with more than this share of its whole was not divided by its leaders: it is cut by position.
const UNDIVIDED: f64 = 0.75;

/// Places of leaf members whose lists are held at a time.
const BATCH: usize = 1 << 19;

/// Rows pruned at a time.
pub(super) const PRUNE_BLOCK: usize = 1 << 14;

fn tuned(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Builds the graph of `rows`, resident on `backend`; n >= 1.
pub(crate) fn build_graph<B: Backend>(
    backend: &B,
    resident: &B::Rows,
    rows: &Arc<Rows>,
    metric: Metric,
    params: &VamanaParams,
    watch: &mut Stopwatch<'_>,
    progress: &dyn Progress,
) -> Result<Graph, BuilderError> {
    let n = rows.len();
    let keep = tuned("KILN_KEEP", (params.max_degree * 3 / 2).next_multiple_of(16));
    tracing::info!(
        "partition: {:.1} MiB beside the rows for candidates and edges",
        (n * Reservoirs::bytes_a_row(keep)) as f64 / f64::from(1 << 20)
    );
    let (entry, largest) = dispatch_rows!(rows.view(), v => {
        let aux = GraphAux::new(v, metric);
        let space = Space::new(v, &aux, params);
        let entry = medoid(v, &aux, metric);
        let sampled = (0..n).step_by(n.div_ceil(1024)).map(|row| space.distance(entry, row as u32));
        (entry, sampled.fold(0f32, f32::max))
    });

    watch.stage("partition", n as u64);
    let splitter = Splitter { backend, resident, seed: params.seed };
    let clusters = splitter.first_split(n)?;
    progress.advance(n as u64);

    watch.stage("leaves", clusters.items.len() as u64);
    // A distance from the middle times 16 (four times the length) exceeds nearly all; beyond, keys are equal.
    let mut reservoirs = Reservoirs::new(n, keep, DistanceKey::new(16.0 * largest));
    let mut first = 0;
    while first < clusters.len() {
        let fits = |last: &usize| clusters.offsets[last + 1] - clusters.offsets[first] <= BATCH / FANOUT[1];
        let last = (first + 1..clusters.len()).take_while(fits).last().map_or(first + 1, |last| last + 1);
        let leaves = splitter.leaves(&clusters, first..last)?;
        let neighbors = backend.leaf_neighbors(resident, &leaves, tuned("KILN_LEAF_K", LEAF_K))?;
        reservoirs.offer(&leaves.items, |member| neighbors.get(member));
        progress.advance((clusters.offsets[last] - clusters.offsets[first]) as u64);
        first = last;
    }
    drop(clusters);

    watch.stage("prune", n as u64);
    let prune = PruneParams { max_degree: params.max_degree, alpha: params.alpha as f32 };
    let mut pruned = reverse::Pruned::new(n, params.max_degree);
    for (first_row, candidates) in reservoirs.drain() {
        let points: Vec<u32> = (first_row..first_row + candidates.len() as u32).collect();
        let candidates: Lists<u32> = candidates.into_iter().collect();
        let kept = backend.robust_prune(resident, &points, &candidates, prune)?;
        pruned.set_rows(first_row, &kept, &candidates);
        progress.advance(points.len() as u64);
    }

    watch.stage("reverse", n as u64);
    let mut graph = reverse::with_reverse_edges(backend, resident, pruned, entry, prune, progress)?;

    watch.stage("repair", 0);
    dispatch_rows!(rows.view(), v => {
        let aux = GraphAux::new(v, metric);
        repair::link_unreachable(&Space::new(v, &aux, params), &mut graph);
    });
    Ok(graph)
}

/// Splits rows into clusters and clusters into leaves.
struct Splitter<'a, B: Backend> {
    backend: &'a B,
    resident: &'a B::Rows,
    seed: u64,
}

impl<B: Backend> Splitter<'_, B> {
    /// All rows among the leaders of the first split; neighbouring clusters come one after another.
    fn first_split(&self, n: usize) -> Result<Lists<u32>, BuilderError> {
        let all: Vec<u32> = (0..n as u32).collect();
        let fanout = tuned("KILN_F0", FANOUT[0]);
        let share = tuned("KILN_LEADERS", (LEADER_SHARE * 1e6) as usize) as f64 * 1e-6;
        let count = ((n as f64 * share) as usize).min(MAX_LEADERS).max(LEADERS_A_FANOUT * fanout);
        if n <= LEAF_SIZE || n <= count {
            return Ok([all].into_iter().collect());
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut leaders = sampled(&all, count, &mut rng);
        // Leaders of one region side by side, so that a batch of clusters shares its rows.
        let regions: Vec<u32> = leaders.iter().step_by(64).copied().collect();
        let region = self.backend.nearest_leaders(self.resident, &leaders, &regions, 1)?;
        let mut order: Vec<usize> = (0..leaders.len()).collect();
        order.sort_by_key(|&i| (region[i], leaders[i]));
        leaders = order.into_iter().map(|i| leaders[i]).collect();
        self.assign(&all, &leaders, fanout)
    }

    /// The members of each leader's part: every row goes to its `fanout` nearest.
    fn assign(&self, rows: &[u32], leaders: &[u32], fanout: usize) -> Result<Lists<u32>, BuilderError> {
        let nearest = self.backend.nearest_leaders(self.resident, rows, leaders, fanout)?;
        let mut number: Vec<(u32, u32)> = leaders.iter().zip(0..).map(|(&leader, i)| (leader, i)).collect();
        number.sort_unstable();
        let part = |leader: u32| number[number.partition_point(|&(id, _)| id < leader)].1 as usize;
        let parts: Vec<u32> = nearest.par_iter().map(|&leader| part(leader) as u32).collect();
        drop(nearest);
        let mut offsets = vec![0usize; leaders.len() + 1];
        parts.iter().for_each(|&part| offsets[part as usize + 1] += 1);
        for i in 1..offsets.len() {
            offsets[i] += offsets[i - 1];
        }
        let mut slots = offsets.clone();
        let mut items = vec![0u32; parts.len()];
        for (&row, parts) in rows.iter().zip(parts.chunks_exact(fanout)) {
            for &part in parts {
                items[slots[part as usize]] = row;
                slots[part as usize] += 1;
            }
        }
        Ok(Lists { offsets, items })
    }

    /// The leaves of some clusters.
    fn leaves(&self, clusters: &Lists<u32>, range: std::ops::Range<usize>) -> Result<Lists<u32>, BuilderError> {
        let split = |cluster: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(cluster as u64 + 1);
            let mut leaves = Lists::default();
            self.split(clusters.get(cluster), 1, &mut rng, &mut leaves)?;
            Ok(leaves)
        };
        let parts: Vec<Result<Lists<u32>, BuilderError>> = range.into_par_iter().map(split).collect();
        let mut all = Lists::default();
        for part in parts {
            part?.iter().for_each(|leaf| all.push(leaf));
        }
        Ok(all)
    }

    fn split(
        &self,
        rows: &[u32],
        depth: usize,
        rng: &mut ChaCha8Rng,
        leaves: &mut Lists<u32>,
    ) -> Result<(), BuilderError> {
        let leaf_size = tuned("KILN_LEAF_SIZE", LEAF_SIZE);
        if rows.len() <= leaf_size {
            if rows.len() > 1 {
                leaves.push(rows);
            }
            return Ok(());
        }
        let fanout = if depth == 1 { tuned("KILN_F1", FANOUT[1]) } else { 1 };
        // Parts of half a leaf on average: few exceed it.
        let count = (2 * fanout * rows.len()).div_ceil(leaf_size).clamp(LEADERS_A_FANOUT * fanout, 1000);
        let leaders = sampled(rows, count, rng);
        let parts = self.assign(rows, &leaders, fanout)?;
        for part in parts.iter() {
            if part.len() as f64 > UNDIVIDED * rows.len() as f64 {
                let pieces = part.len().div_ceil(leaf_size);
                part.chunks(part.len().div_ceil(pieces)).for_each(|piece| leaves.push(piece));
            } else {
                self.split(part, depth + 1, rng, leaves)?;
            }
        }
        Ok(())
    }
}

/// `count` of `rows`, in their order.
fn sampled(rows: &[u32], count: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut chosen = index::sample(rng, rows.len(), count.min(rows.len())).into_vec();
    chosen.sort_unstable();
    chosen.into_iter().map(|i| rows[i]).collect()
}
