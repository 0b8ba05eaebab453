//! The `partition` method: a graph from all pairs of many small overlapping leaves.
//!
//! In: rows resident on a backend. Out: an alpha-pruned [`Graph`] of bounded degree. After PiPNN (arXiv 2602.21247):
//! rows are split among randomly sampled leaders until leaves are small (see `split`); in a leaf every row names its
//! nearest others; a row's candidates are pruned robustly (DiskANN, NeurIPS 2019). Everything heavy is a dense product
//! or a prune by the backend. Deviations from the paper: reservoirs keep the nearest candidates instead of one a hash of
//! directions (that bounds memory too, and measured no worse); candidates enter one way, and reverse edges follow the
//! prune, as in Vamana; places that stay free are filled (see `reverse`); what no walk reaches is linked (see `repair`).

use std::sync::Arc;

use kiln_kernels::distance::GraphAux;
use kiln_kernels::{Backend, Lists, Metric, Progress, PruneParams, Rows, dispatch_rows};

use super::insert::{Space, medoid};
use super::reservoir::{DistanceKey, Reservoirs};
use super::split::Splitter;
use super::{Graph, repair, reverse};
use crate::error::BuilderError;
use crate::params::VamanaParams;
use crate::resources::{Stopwatch, return_freed_memory};

/// Neighbours that a row names in a leaf: with about 24 leaves a row, as good as 10 or 12.
const LEAF_K: usize = 8;

/// Fewer rows than these are in fewer leaves, so that each names more; it costs them next to nothing.
const FEW_ROWS: usize = 8192;
const LEAF_K_OF_FEW: usize = 3 * LEAF_K;

/// Random rows that each row has for candidates beside its nearest: where clusters lie far apart leaves never cross from
/// one to another, and pruning keeps a far row only where there is room and no nearer one leads to it.
const FAR_CANDIDATES: u32 = 4;

/// Rows that the distance from the entry to the farthest is estimated from.
const REACH_SAMPLE: usize = 1024;

/// Places in clusters of the first split that are worked on at a time: bounds what leaves return.
const BATCH: usize = 1 << 17;

/// Rows pruned between returns of freed memory: a multiple of what a shard of reservoirs holds.
const RETURN_EVERY: usize = 1 << 16;

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
    let keep = (params.max_degree * 3 / 2).next_multiple_of(16);
    log_memory(n, keep, params.max_degree);
    let aux = dispatch_rows!(rows.view(), v => GraphAux::new(v, metric));
    let (entry, reach) = dispatch_rows!(rows.view(), v => {
        let space = Space::new(v, &aux, params);
        let entry = medoid(v, &aux, metric);
        let sampled = (0..n).step_by(n.div_ceil(REACH_SAMPLE)).map(|row| space.distance(entry, row as u32));
        (entry, sampled.fold(0f32, f32::max))
    });

    watch.stage("partition", n as u64);
    let splitter = Splitter::new(backend, resident, params.seed);
    let clusters = splitter.first_split(n)?;
    progress.advance(n as u64);
    return_freed_memory();

    watch.stage("leaves", clusters.items.len() as u64);
    // A distance from the middle times 16 (four times the length) exceeds nearly all; beyond, keys are equal.
    let mut reservoirs = Reservoirs::new(n, keep, DistanceKey::new(16.0 * reach));
    let leaf_k = match n {
        // One leaf is all there is: all that a reservoir keeps.
        _ if clusters.len() == 1 => keep,
        0..FEW_ROWS => LEAF_K_OF_FEW,
        _ => LEAF_K,
    };
    let mut first = 0;
    while first < clusters.len() {
        let fits = |last: &usize| clusters.offsets[last + 1] - clusters.offsets[first] <= BATCH;
        let last = (first + 1..clusters.len()).take_while(fits).last().map_or(first + 1, |last| last + 1);
        let leaves = splitter.leaves(&clusters, first..last)?;
        let neighbors = backend.leaf_neighbors(resident, &leaves, leaf_k)?;
        reservoirs.offer(&leaves.items, |member| neighbors.get(member));
        progress.advance((clusters.offsets[last] - clusters.offsets[first]) as u64);
        first = last;
    }
    drop(clusters);
    return_freed_memory();

    watch.stage("prune", n as u64);
    let prune = PruneParams { max_degree: params.max_degree, alpha: params.alpha as f32 };
    let mut pruned = reverse::Pruned::new(n, params.max_degree);
    for (first_row, candidates) in reservoirs.drain() {
        let points: Vec<u32> = (first_row..first_row + candidates.len() as u32).collect();
        let with_far = |(row, mut nearest): (&u32, Vec<u32>)| {
            let far = (0..FAR_CANDIDATES).map(|i| far_row(params.seed, *row, i, n));
            far.for_each(|far| {
                if far != *row && !nearest.contains(&far) {
                    nearest.push(far)
                }
            });
            nearest
        };
        let candidates: Lists<u32> = points.iter().zip(candidates).map(with_far).collect();
        let kept = backend.robust_prune(resident, &points, &candidates, prune)?;
        pruned.set_rows(first_row, &kept, &candidates);
        if (first_row as usize).is_multiple_of(RETURN_EVERY) {
            return_freed_memory();
        }
        progress.advance(points.len() as u64);
    }

    return_freed_memory();

    watch.stage("reverse", n as u64);
    let mut graph = reverse::with_reverse_edges(backend, resident, pruned, entry, prune, progress)?;

    watch.stage("repair", 0);
    dispatch_rows!(rows.view(), v => repair::link_unreachable(&Space::new(v, &aux, params), &mut graph));
    Ok(graph)
}

/// The `i`-th far candidate of a row.
fn far_row(seed: u64, row: u32, i: u32, n: usize) -> u32 {
    // SplitMix64's finalizer (Steele et al., OOPSLA 2014): any well-mixed function of the three will do.
    let mut z = seed ^ (u64::from(row) << 32 | u64::from(i)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) % n as u64) as u32
}

/// Says before the build what it will hold beside the rows: reservoirs, or later two graphs and the edges between.
fn log_memory(n: usize, keep: usize, max_degree: usize) {
    let graph = max_degree * size_of::<u32>();
    let most = n * Reservoirs::bytes_a_row(keep).max(3 * graph);
    tracing::info!("partition: about {} MiB of memory beside the rows", (most >> 20) + 1);
}
