//! The `partition` method: a graph from all pairs of many small overlapping leaves.
//!
//! In: rows resident on a backend. Out: an alpha-pruned [`Graph`] of bounded degree. After PiPNN (arXiv 2602.21247):
//! rows are split among randomly sampled leaders until leaves are small (see `split`); in a leaf every row names its
//! nearest others; a row's candidates are pruned robustly (DiskANN, NeurIPS 2019). Everything heavy is a dense product
//! or a prune by the backend. Deviations from the paper: reservoirs keep the nearest candidates instead of one a hash of
//! directions (that bounds memory too, and measured no worse); candidates enter one way, and reverse edges follow the
//! prune, as in Vamana; places that stay free are filled (see `kiln_kernels::reverse`); what no walk reaches is linked (see `repair`).

use std::sync::Arc;

use kiln_kernels::dispatch_rows;
use kiln_kernels::distance::GraphAux;
use kiln_kernels::{Adjacency, Backend, BackendError, CandidateParams, Lists, Metric, Progress, PruneParams, Rows};

use super::insert::{Space, medoid};
use super::split::Splitter;
use super::{Graph, repair};
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
pub(super) const FAR_CANDIDATES: u32 = 4;

/// Rows that the distance from the entry to the farthest is estimated from.
const REACH_SAMPLE: usize = kiln_kernels::whole::SAMPLE;

/// Places in clusters of the first split that are worked on at a time: bounds what leaves return.
pub(super) const BATCH: usize = 1 << 16;

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
    let keep = candidates_kept(params.max_degree);
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

    let prune = PruneParams { max_degree: params.max_degree, alpha: params.alpha as f32 };
    let candidates =
        CandidateParams { n, keep, largest_distance: largest_distance(reach), far: FAR_CANDIDATES, seed: params.seed };
    let gathered = || gather_and_prune(backend, resident, &splitter, &clusters, candidates, prune, watch, progress);
    let mut graph = Graph::of(begin_again_as_needed(gathered)?, entry);
    drop(clusters);
    return_freed_memory();

    watch.stage("repair", 0);
    dispatch_rows!(rows.view(), v => repair::link_unreachable(&Space::new(v, &aux, params), &mut graph));
    Ok(graph)
}

/// The graph of the pruned candidates that the leaves of all clusters name, with reverse edges.
#[expect(clippy::too_many_arguments, reason = "each is one thing, and there is one caller")]
fn gather_and_prune<B: Backend>(
    backend: &B,
    resident: &B::Rows,
    splitter: &Splitter<'_, B>,
    clusters: &Lists<u32>,
    params: CandidateParams,
    prune: PruneParams,
    watch: &mut Stopwatch<'_>,
    progress: &dyn Progress,
) -> Result<Adjacency, BuilderError> {
    watch.stage("leaves", clusters.items.len() as u64);
    let mut candidates = backend.candidates(resident, params)?;
    // Of one leaf, where that is all there is, all that is kept.
    let leaf_k = if clusters.len() == 1 { params.keep } else { leaf_k(params.n) };
    let mut first = 0;
    while first < clusters.len() {
        let fits = |last: &usize| clusters.offsets[last + 1] - clusters.offsets[first] <= BATCH;
        let last = (first + 1..clusters.len()).take_while(fits).last().map_or(first + 1, |last| last + 1);
        candidates.add_leaves(&splitter.leaves(clusters, first..last)?, leaf_k)?;
        progress.advance((clusters.offsets[last] - clusters.offsets[first]) as u64);
        first = last;
    }
    return_freed_memory();

    watch.stage("prune", params.n as u64);
    let (mut done, mut returned) = (0, 0);
    while let Some(rows) = candidates.prune_next(prune)? {
        done += rows;
        if done / RETURN_EVERY > returned {
            returned = done / RETURN_EVERY;
            return_freed_memory();
        }
        progress.advance(rows as u64);
    }
    return_freed_memory();

    watch.stage("reverse", params.n as u64);
    Ok(candidates.into_graph(prune, progress)?)
}

/// Candidates kept a row for a graph of degree `max_degree`.
pub(super) fn candidates_kept(max_degree: usize) -> usize {
    (max_degree * 3 / 2).next_multiple_of(16)
}

/// The distance beyond which keys are equal: one from the middle times 16 (four times the length) exceeds nearly all.
pub(super) fn largest_distance(reach: f32) -> f32 {
    16.0 * reach
}

/// Neighbours that each of `n` rows names in a leaf, where there are several.
pub(super) fn leaf_k(n: usize) -> usize {
    if n < FEW_ROWS { LEAF_K_OF_FEW } else { LEAF_K }
}

/// Does `work`, and does it again where a device that failed took what it had gathered with it. Every time there is one
/// device less.
fn begin_again_as_needed<R>(mut work: impl FnMut() -> Result<R, BuilderError>) -> Result<R, BuilderError> {
    loop {
        match work() {
            Err(BuilderError::Backend(BackendError::BeginAgain { .. })) => {}
            done => return done,
        }
    }
}

/// Says before the build what it will hold beside the rows: reservoirs, or later two graphs and the edges between.
fn log_memory(n: usize, keep: usize, max_degree: usize) {
    let graph = max_degree * size_of::<u32>();
    let most = n * kiln_kernels::reservoir::bytes_a_row(keep).max(3 * graph);
    tracing::info!("partition: about {} MiB of memory beside the rows", (most >> 20) + 1);
}
