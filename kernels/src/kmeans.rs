//! k-means over a [`Backend`]: plain Lloyd iterations, and balanced hierarchical clustering for inverted lists.
//!
//! In: rows resident on a backend. Out: centroids `(nlist, dim)` as f32.

use std::sync::Arc;

use ndarray::{Array2, Axis, s};
use rand::seq::index;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::backend::{Backend, BackendError, KMeansStep};
use crate::distance::quantiser_rows;
use crate::metric::Metric;
use crate::progress::Progress;
use crate::rows::Rows;
use crate::tree::CentroidTree;

/// Rows whose products with the centroids the processor takes at a time, so that results do not depend on threads. Rows
/// that are assigned in blocks of whole multiples of these, from the first on, are assigned as all would be at once.
pub const ROWS_AT_A_TIME: usize = 256;

/// Lloyd's algorithm from `initial` `(k, dim)`, until nothing moves or `iterations` are done. A centroid
/// that loses all its points stays where it was.
pub fn lloyd<B: Backend>(
    backend: &B,
    points: &B::Rows,
    initial: Array2<f32>,
    iterations: usize,
) -> Result<Array2<f32>, BackendError> {
    let mut centroids = initial;
    for _ in 0..iterations {
        let step = backend.kmeans_step(points, centroids.view())?;
        if !move_to_means(&mut centroids, &step) {
            break;
        }
    }
    Ok(centroids)
}

/// Moves every non-empty centroid to the mean of its points; false when none moved.
fn move_to_means(centroids: &mut Array2<f32>, step: &KMeansStep) -> bool {
    let mut moved = false;
    for (c, &count) in step.counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
        let mean = step.sums.row(c).mapv(|sum| (sum / count as f64) as f32);
        moved |= mean != centroids.row(c);
        centroids.row_mut(c).assign(&mean);
    }
    moved
}

/// Parameters of [`balanced`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BalancedParams {
    /// Centroids wanted; fewer come back when there are fewer points.
    pub nlist: usize,
    /// Lloyd iterations at each level, and balancing iterations over all centroids at the end.
    pub iterations: usize,
    /// Seed of every choice.
    pub seed: u64,
}

impl BalancedParams {
    /// Units of progress that [`balanced`] reports.
    pub fn steps(&self) -> u64 {
        (self.iterations + self.coarse() + 1) as u64
    }

    /// Clusters of the first level.
    fn coarse(&self) -> usize {
        (self.nlist as f64).sqrt().round().max(1.0) as usize
    }
}

/// A cluster with fewer than this share of the mean number of points is moved next to a large one.
const SMALL_CLUSTER: f64 = 0.25;

/// Balanced hierarchical k-means, after cuVS: about sqrt(nlist) coarse clusters, each split in proportion
/// to its size, then Lloyd iterations over all centroids in which clusters that stay far below the mean
/// size move next to points of large clusters. Rows are clustered by L2, under cosine after scaling to
/// unit length.
pub fn balanced<B: Backend>(
    backend: &B,
    sample: &Arc<Rows>,
    metric: Metric,
    params: BalancedParams,
    progress: &dyn Progress,
) -> Result<Array2<f32>, BackendError> {
    let points = backend.upload(Arc::clone(sample), metric)?;
    let mut clustering = Balanced::split(backend, &points, sample, metric, params, progress)?;
    while !clustering.is_settled(params) {
        clustering.settle(backend, &points, sample, metric, params, progress)?;
    }
    Ok(clustering.centroids)
}

/// A balanced clustering in the making: what [`balanced`] has after the split and after each iteration that follows. With
/// equal arguments it goes on from here as if it had never stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct Balanced {
    /// Centroids so far `(nlist, dim)`.
    pub centroids: Array2<f32>,
    /// Iterations over all centroids that are done.
    pub iterations: usize,
    /// Words drawn from the random stream of the seed.
    pub drawn: u64,
}

impl Balanced {
    /// Both levels: coarse clusters of `points`, which are `sample` on the backend, and their split.
    pub fn split<B: Backend>(
        backend: &B,
        points: &B::Rows,
        sample: &Rows,
        metric: Metric,
        params: BalancedParams,
        progress: &dyn Progress,
    ) -> Result<Self, BackendError> {
        let mut rng = ChaCha8Rng::seed_from_u64(params.seed);
        let n = sample.len();
        let nlist = params.nlist.clamp(1, n.max(1));
        let coarse = BalancedParams { nlist, ..params }.coarse();

        let initial = chosen_rows(sample, metric, &index::sample(&mut rng, n, coarse.min(n)).into_vec());
        let coarse_centroids = lloyd(backend, points, initial, params.iterations)?;
        let step = backend.kmeans_step(points, coarse_centroids.view())?;
        progress.advance(1);

        let mut members: Vec<Vec<usize>> = vec![Vec::new(); coarse_centroids.nrows()];
        for (i, &c) in step.assignments.iter().enumerate() {
            members[c as usize].push(i);
        }
        let mut centroids = Array2::<f32>::zeros((0, sample.dim()));
        for (members, share) in members.iter().zip(proportional(&step.counts, nlist)) {
            if share > 0 {
                let subset = sample.view().select(members);
                let chosen: Vec<usize> =
                    index::sample(&mut rng, members.len(), share).into_iter().map(|i| members[i]).collect();
                let initial = chosen_rows(sample, metric, &chosen);
                let rows = backend.upload(Arc::new(subset), metric)?;
                let fine = lloyd(backend, &rows, initial, params.iterations)?;
                centroids.append(Axis(0), fine.view()).map_err(|e| BackendError::Shape {
                    operation: "balanced k-means",
                    expected: "centroids of one dimension".into(),
                    got: e.to_string(),
                })?;
            }
            progress.advance(1);
        }
        Ok(Self { centroids, iterations: 0, drawn: rng.get_word_pos() as u64 })
    }

    /// Whether every iteration is done.
    pub fn is_settled(&self, params: BalancedParams) -> bool {
        self.iterations >= params.iterations
    }

    /// One iteration over all centroids.
    pub fn settle<B: Backend>(
        &mut self,
        backend: &B,
        points: &B::Rows,
        sample: &Rows,
        metric: Metric,
        params: BalancedParams,
        progress: &dyn Progress,
    ) -> Result<(), BackendError> {
        let step = backend.kmeans_step_among(points, &CentroidTree::new(self.centroids.clone())?)?;
        move_to_means(&mut self.centroids, &step);
        // The last iterations only settle, so that no centroid is left where it was dropped.
        if self.iterations + 2 < params.iterations {
            let mut rng = ChaCha8Rng::seed_from_u64(params.seed);
            rng.set_word_pos(u128::from(self.drawn));
            reseed_small(&mut self.centroids, &step, sample, metric, &mut rng);
            self.drawn = rng.get_word_pos() as u64;
        }
        self.iterations += 1;
        progress.advance(1);
        Ok(())
    }
}

/// The chosen rows as f32, unit length under cosine.
fn chosen_rows(rows: &Rows, metric: Metric, chosen: &[usize]) -> Array2<f32> {
    quantiser_rows(&rows.view().select(chosen).view(), metric)
}

/// Splits `total` into shares in proportion to `counts`: at least 1 where there is a point, never more
/// than the points there are.
fn proportional(counts: &[u64], total: usize) -> Vec<usize> {
    let n: u64 = counts.iter().sum();
    let mut shares: Vec<usize> = counts
        .iter()
        .map(|&c| if c == 0 { 0 } else { ((total as u64 * c / n.max(1)) as usize).clamp(1, c as usize) })
        .collect();
    // Hand out what rounding left over, or take back what the minimum of one gave too much, by the
    // number of points a centroid has.
    while shares.iter().sum::<usize>() < total {
        let load = |&i: &usize| (counts[i] as f64 / (shares[i] + 1) as f64, std::cmp::Reverse(i));
        let room = (0..counts.len()).filter(|&i| (shares[i] as u64) < counts[i]);
        match room.max_by(|a, b| load(a).partial_cmp(&load(b)).unwrap_or(std::cmp::Ordering::Equal)) {
            Some(i) => shares[i] += 1,
            None => break,
        }
    }
    while shares.iter().sum::<usize>() > total {
        match (0..counts.len()).filter(|&i| shares[i] > 1).max_by_key(|&i| (shares[i], std::cmp::Reverse(i))) {
            Some(i) => shares[i] -= 1,
            None => break,
        }
    }
    shares
}

/// Moves each small cluster's centroid halfway to a random point of a random cluster larger than the mean.
fn reseed_small(centroids: &mut Array2<f32>, step: &KMeansStep, sample: &Rows, metric: Metric, rng: &mut ChaCha8Rng) {
    let n = step.assignments.len();
    let mean = n as f64 / step.counts.len().max(1) as f64;
    if step.counts.iter().all(|&c| c as f64 >= SMALL_CLUSTER * mean) {
        return;
    }
    for c in 0..step.counts.len() {
        if step.counts[c] as f64 >= SMALL_CLUSTER * mean {
            continue;
        }
        // Drawing a point at random draws its cluster in proportion to size.
        let drawn =
            (0..64).map(|_| rng.random_range(0..n)).find(|&i| step.counts[step.assignments[i] as usize] as f64 > mean);
        if let Some(point) = drawn {
            let row = chosen_rows(sample, metric, &[point]);
            let large = centroids.row(step.assignments[point] as usize).to_owned();
            centroids.slice_mut(s![c, ..]).assign(&((&large + &row.row(0)) * 0.5));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuBackend;
    use crate::element::Element;
    use crate::progress::NoProgress;

    /// Blobs on a line, the first with half of all points.
    fn skewed(n: usize) -> Arc<Rows> {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let blob = |i: usize| if i.is_multiple_of(2) { 0.0 } else { (i % 16) as f32 * 10.0 };
        Arc::new(f32::into_rows(Array2::from_shape_fn((n, 8), |(i, _)| blob(i) + rng.random::<f32>())))
    }

    #[test]
    fn lists_are_balanced_on_skewed_data() {
        let backend = CpuBackend::new();
        let rows = skewed(8000);
        let params = BalancedParams { nlist: 64, iterations: 10, seed: 1 };
        let centroids = balanced(&backend, &rows, Metric::L2, params, &NoProgress).unwrap();
        assert_eq!(centroids.dim(), (64, 8));
        let resident = backend.upload(rows, Metric::L2).unwrap();
        let counts = backend.kmeans_step(&resident, centroids.view()).unwrap().counts;
        assert!(*counts.iter().max().unwrap() < 125 * 5, "{counts:?}");
    }

    #[test]
    fn odd_sizes_come_out_whole() {
        let backend = CpuBackend::new();
        for (n, nlist) in [(1, 1), (1, 5), (3, 2), (50, 50), (50, 7)] {
            let params = BalancedParams { nlist, iterations: 3, seed: 1 };
            let centroids = balanced(&backend, &skewed(n), Metric::Cosine, params, &NoProgress).unwrap();
            assert_eq!(centroids.nrows(), nlist.min(n), "{n} points, nlist {nlist}");
        }
    }

    #[test]
    fn a_clustering_goes_on_as_if_it_had_not_stopped() {
        // Half the rows are one row: all centroids that begin there but one are left without points, and moved.
        let cell = |(i, j): (usize, usize)| if i % 2 == 0 { 0.0 } else { (i * (j + 3) % 101) as f32 };
        let rows = Arc::new(f32::into_rows(Array2::from_shape_fn((3000, 4), cell)));
        let (backend, metric) = (CpuBackend::new(), Metric::L2);
        let params = BalancedParams { nlist: 60, iterations: 8, seed: 3 };
        let whole = balanced(&backend, &rows, metric, params, &NoProgress).unwrap();
        let points = backend.upload(Arc::clone(&rows), metric).unwrap();
        let mut clustering = Balanced::split(&backend, &points, &rows, metric, params, &NoProgress).unwrap();
        let drawn = clustering.drawn;
        while !clustering.is_settled(params) {
            let Balanced { centroids, iterations, drawn } = clustering;
            clustering = Balanced { centroids, iterations, drawn };
            clustering.settle(&backend, &points, &rows, metric, params, &NoProgress).unwrap();
        }
        assert!(clustering.drawn > drawn, "no centroid was moved");
        assert_eq!(clustering.centroids, whole);
    }

    #[test]
    fn among_thousands_of_centroids_the_first_nearest_is_found() {
        // Small whole numbers: every sum is exact, and there are ties.
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut draw = |n: usize| Array2::from_shape_simple_fn((n, 20), || rng.random_range(0..4) as f32);
        let (points, centroids) = (draw(300), draw(2500));
        let backend = CpuBackend::new();
        let resident = backend.upload(Arc::new(f32::into_rows(points.clone())), Metric::L2).unwrap();
        let step = backend.kmeans_step(&resident, centroids.view()).unwrap();
        for (i, point) in points.outer_iter().enumerate() {
            let distances = centroids.outer_iter().map(|c| (&c - &point).mapv(|x| x * x).sum());
            let first = |best: (usize, f32), next: (usize, f32)| if next.1 < best.1 { next } else { best };
            let nearest = distances.enumerate().reduce(first).expect("some");
            assert_eq!((step.assignments[i] as usize, step.distances[i]), nearest, "point {i}");
        }
    }

    #[test]
    fn shares_follow_counts() {
        assert_eq!(proportional(&[100, 0, 100], 4), [2, 0, 2]);
        assert_eq!(proportional(&[1, 1, 98], 10).iter().sum::<usize>(), 10);
        assert_eq!(proportional(&[2, 2], 10), [2, 2]);
    }
}
