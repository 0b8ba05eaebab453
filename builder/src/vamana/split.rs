//! Splits rows into many small overlapping leaves by randomly sampled leaders.
//!
//! In: rows resident on a backend. Out: leaves of at most `leaf_size` rows, every row in about 24 of them. Each row goes
//! to its `fanout` nearest leaders, each leader's part is split again until it is small. Distances do the work: the
//! backend finds the nearest leaders as dense products. What leaders do not divide (copies of one row) is cut by position.

use std::ops::Range;

use kiln_kernels::{Backend, Lists};
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::error::BuilderError;

/// Leaders that a row goes to, by depth; one at greater depths.
pub(super) const FANOUT: [usize; 2] = [8, 3];

/// Rows of a leaf at most. Larger leaves cost more and name nearer neighbours, which prune to shorter edges.
pub(crate) const LEAF_SIZE: usize = 1024;

/// Leaders of the first split as a share of n, and at most.
const LEADER_SHARE: f64 = 0.005;
const MAX_LEADERS: usize = 8192;

/// Leaders of a later split at most.
const MAX_LATER_LEADERS: usize = 1000;

/// Leaders a fanout at least, so that a split really divides.
const LEADERS_A_FANOUT: usize = 4;

/// A part with more than this share of its whole was not divided by its leaders: it is cut by position.
const UNDIVIDED: f64 = 0.75;

/// One in so many leaders of the first split names a region of neighbouring ones.
const REGION: usize = 64;

/// Splits all rows into clusters, and clusters into leaves.
pub(super) struct Splitter<'a, B: Backend> {
    backend: &'a B,
    resident: &'a B::Rows,
    seed: u64,
    leaf_size: usize,
    /// The number of the first cluster that [`leaves`](Self::leaves) is given.
    first_cluster: usize,
}

impl<'a, B: Backend> Splitter<'a, B> {
    pub(super) fn new(backend: &'a B, resident: &'a B::Rows, seed: u64) -> Self {
        Self { backend, resident, seed, leaf_size: LEAF_SIZE, first_cluster: 0 }
    }

    /// The same, for clusters of which the first is number `first` among all.
    pub(super) fn numbered_from(self, first: usize) -> Self {
        Self { first_cluster: first, ..self }
    }

    /// All rows among the leaders of the first split, neighbouring clusters one after another.
    pub(super) fn first_split(&self, n: usize) -> Result<Lists<u32>, BuilderError> {
        let all: Vec<u32> = (0..n as u32).collect();
        if n <= self.leaf_size {
            return Ok([all].into_iter().collect());
        }
        let leaders = by_region(self.backend, self.resident, &first_leaders(n, self.seed))?;
        self.assign(&all, &leaders, FANOUT[0])
    }

    /// The members of each leader's part: every row goes to its `fanout` nearest.
    fn assign(&self, rows: &[u32], leaders: &[u32], fanout: usize) -> Result<Lists<u32>, BuilderError> {
        let nearest = self.backend.nearest_leaders(self.resident, rows, leaders, fanout)?;
        Ok(Self::parts(rows, leaders, &nearest))
    }

    /// The members of each leader's part, given the `nearest` leaders of each row, as many of every one.
    pub(super) fn parts(rows: &[u32], leaders: &[u32], nearest: &[u32]) -> Lists<u32> {
        let fanout = nearest.len() / rows.len().max(1);
        let mut number: Vec<(u32, u32)> = leaders.iter().zip(0..).map(|(&leader, i)| (leader, i)).collect();
        number.sort_unstable();
        let part = |leader: u32| number[number.partition_point(|&(id, _)| id < leader)].1 as usize;
        let parts: Vec<u32> = nearest.par_iter().map(|&leader| part(leader) as u32).collect();
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
        Lists { offsets, items }
    }

    /// The leaves of some clusters of the first split.
    pub(super) fn leaves(&self, clusters: &Lists<u32>, range: Range<usize>) -> Result<Lists<u32>, BuilderError> {
        let split = |cluster: usize| {
            let mut rng = generator(self.seed, self.first_cluster + cluster);
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

    /// Appends the leaves of `rows`, which came about by `depth` splits.
    pub(super) fn split(
        &self,
        rows: &[u32],
        depth: usize,
        rng: &mut ChaCha8Rng,
        leaves: &mut Lists<u32>,
    ) -> Result<(), BuilderError> {
        let leaf_size = self.leaf_size;
        if rows.len() <= leaf_size {
            if rows.len() > 1 {
                leaves.push(rows);
            }
            return Ok(());
        }
        let (leaders, fanout) = later_leaders(rows, depth, leaf_size, rng);
        let parts = self.assign(rows, &leaders, fanout)?;
        for part in parts.iter() {
            match piece_of_undivided(part.len(), rows.len(), leaf_size) {
                Some(piece) => part.chunks(piece).for_each(|piece| leaves.push(piece)),
                None => self.split(part, depth + 1, rng, leaves)?,
            }
        }
        Ok(())
    }
}

/// The leaders of the first split of `n` rows, ascending.
pub(crate) fn first_leaders(n: usize, seed: u64) -> Vec<u32> {
    let count = ((n as f64 * LEADER_SHARE) as usize).clamp(LEADERS_A_FANOUT * FANOUT[0], MAX_LEADERS);
    let mut chosen = index::sample(&mut ChaCha8Rng::seed_from_u64(seed), n, count.min(n)).into_vec();
    chosen.sort_unstable();
    chosen.into_iter().map(|row| row as u32).collect()
}

/// Ascending leaders with those of one region side by side, so that a batch of clusters shares its rows.
pub(super) fn by_region<B: Backend>(
    backend: &B,
    resident: &B::Rows,
    leaders: &[u32],
) -> Result<Vec<u32>, BuilderError> {
    let regions: Vec<u32> = leaders.iter().step_by(REGION).copied().collect();
    let region = backend.nearest_leaders(resident, leaders, &regions, 1)?;
    let mut order: Vec<usize> = (0..leaders.len()).collect();
    order.sort_by_key(|&i| (region[i], leaders[i]));
    Ok(order.into_iter().map(|i| leaders[i]).collect())
}

/// The leaders of the split of `rows` at some depth, and how many of them a row goes to.
pub(super) fn later_leaders(rows: &[u32], depth: usize, leaf_size: usize, rng: &mut ChaCha8Rng) -> (Vec<u32>, usize) {
    let fanout = FANOUT.get(depth).copied().unwrap_or(1);
    // Parts of half a leaf on average: few exceed it.
    let count = (2 * fanout * rows.len()).div_ceil(leaf_size).clamp(LEADERS_A_FANOUT * fanout, MAX_LATER_LEADERS);
    (sampled(rows, count, rng), fanout)
}

/// Rows of the pieces that a part is cut into, where leaders did not divide the whole that it is part of.
pub(super) fn piece_of_undivided(part: usize, whole: usize, leaf_size: usize) -> Option<usize> {
    (part as f64 > UNDIVIDED * whole as f64).then(|| part.div_ceil(part.div_ceil(leaf_size)))
}

/// The generator of the splits of a cluster of the first split.
pub(super) fn generator(seed: u64, cluster: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(cluster as u64 + 1);
    rng
}

/// `count` of `rows`, in their order.
fn sampled(rows: &[u32], count: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut chosen = index::sample(rng, rows.len(), count.min(rows.len())).into_vec();
    chosen.sort_unstable();
    chosen.into_iter().map(|i| rows[i]).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kiln_kernels::{CpuBackend, Metric, Rows};
    use ndarray::Array2;

    use super::*;

    /// All leaves of `rows`, with leaves of at most 32 rows.
    fn leaves_of(rows: Array2<u8>) -> Lists<u32> {
        let (backend, n) = (CpuBackend::new(), rows.nrows());
        let resident = backend.upload(Arc::new(Rows::U8(rows)), Metric::L2).expect("upload");
        let splitter = Splitter { leaf_size: 32, ..Splitter::new(&backend, &resident, 1) };
        let clusters = splitter.first_split(n).expect("split");
        splitter.leaves(&clusters, 0..clusters.len()).expect("leaves")
    }

    #[test]
    fn every_row_is_in_many_small_leaves() {
        let rows = Array2::from_shape_fn((3000, 6), |(i, j)| (i.wrapping_mul(2_654_435_761) >> (j * 5)) as u8);
        let leaves = leaves_of(rows);
        let mut count = vec![0; 3000];
        for leaf in leaves.iter() {
            assert!((2..=32).contains(&leaf.len()));
            assert_eq!(leaf.iter().collect::<std::collections::HashSet<_>>().len(), leaf.len());
            leaf.iter().for_each(|&row| count[row as usize] += 1);
        }
        assert!(count.iter().all(|&c| (1..=24).contains(&c)), "{:?}", count.iter().min());
        assert!(count.iter().sum::<usize>() > 20 * 3000);
    }

    #[test]
    fn what_leaders_do_not_divide_is_cut() {
        // All equal; half equal; two values.
        for value in
            [|_| 7, |i| if i % 2 == 0 { 7 } else { (i / 2 % 251) as u8 }, |i| (i % 2) as u8] as [fn(usize) -> u8; 3]
        {
            let leaves = leaves_of(Array2::from_shape_fn((4000, 3), |(i, _)| value(i)));
            assert!(leaves.iter().all(|leaf| leaf.len() <= 32));
            assert!(leaves.items.len() <= 24 * 4000, "{} places", leaves.items.len());
        }
    }
}
