//! The best of a stream of estimates, for re-ranking.
//!
//! In: (estimate, position) pairs. Out: the `keep` smallest by (estimate, position), whatever the order in which they
//! came, and meanwhile the bound beyond which nothing can enter. Unlike a heap it is tidied only once every `keep`
//! offers, by a selection over plain integers.

use crate::topk::{Scored, TopK};

/// Keeps the `keep` smallest.
#[derive(Debug, Clone)]
pub struct Shortlist {
    keep: usize,
    /// Estimate, as an integer of the same order, above the position.
    keys: Vec<u64>,
    bound: f32,
    /// The least upper bounds offered, for the k-th of them.
    uppers: TopK,
}

/// Offers taken between selections, at least.
const SLACK: usize = 64;

impl Default for Shortlist {
    fn default() -> Self {
        Self { keep: 1, keys: Vec::new(), bound: f32::INFINITY, uppers: TopK::new(0) }
    }
}

impl Shortlist {
    /// Empties the list for a selection of `keep`, at least 1. Where rows come with an upper bound too, nothing beyond
    /// the `k`-th least of these is kept; k = 0 leaves upper bounds aside.
    pub fn reset(&mut self, keep: usize, k: usize) {
        self.keep = keep.max(1);
        self.uppers = TopK::new(k);
        self.keys.clear();
        self.bound = f32::INFINITY;
    }

    /// The largest estimate that may still enter: infinite until the first selection.
    #[inline(always)]
    pub fn bound(&self) -> f32 {
        self.bound
    }

    /// Offers a position; its estimate must not be NaN.
    #[inline(always)]
    pub fn push(&mut self, estimate: f32, position: u32) {
        if estimate <= self.bound {
            self.keys.push(u64::from(ordered(estimate)) << 32 | u64::from(position));
            if self.keys.len() >= self.keep + self.keep.max(SLACK) {
                self.select();
            }
        }
    }

    /// Offers a position by its lower bound. No row whose lower bound exceeds the k-th least upper bound can be among
    /// the k nearest.
    #[inline(always)]
    pub fn push_between(&mut self, lower: f32, upper: f32, position: u32) {
        self.push(lower, position);
        if upper < self.uppers.bound() {
            self.uppers.push(Scored { distance: upper, id: position });
            self.bound = self.bound.min(self.uppers.bound());
        }
    }

    #[inline(never)]
    fn select(&mut self) {
        if self.keys.len() > self.keep {
            self.keys.select_nth_unstable(self.keep - 1);
            self.keys.truncate(self.keep);
            self.bound = self.bound.min(estimate(self.keys[self.keep - 1]));
        }
    }

    /// The selection as (estimate, position), ascending.
    pub fn sorted(&mut self) -> impl ExactSizeIterator<Item = (f32, u32)> + Clone {
        self.select();
        self.keys.sort_unstable();
        self.keys.iter().map(|&key| (estimate(key), key as u32))
    }

    /// The selection in no order.
    pub fn selected(&mut self) -> impl ExactSizeIterator<Item = (f32, u32)> + Clone {
        self.select();
        self.keys.iter().map(|&key| (estimate(key), key as u32))
    }
}

/// The bits of a float, changed so that unsigned integers order as the floats do.
#[inline(always)]
fn ordered(x: f32) -> u32 {
    let bits = x.to_bits();
    // A negative number has all its bits flipped, a positive one its sign.
    bits ^ ((bits as i32 >> 31) as u32 | 0x8000_0000)
}

#[inline(always)]
fn estimate(key: u64) -> f32 {
    let bits = (key >> 32) as u32;
    f32::from_bits(if bits >> 31 == 1 { bits ^ 0x8000_0000 } else { !bits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_keeps_what_sorting_would(offers in prop::collection::vec((-50i32..50, any::<u32>()), 0..900), keep in 1usize..200) {
            let mut list = Shortlist::default();
            list.reset(keep, 0);
            let mut all: Vec<(f32, u32)> = offers.iter().map(|&(d, id)| (d as f32 / 4.0, id)).collect();
            for &(estimate, id) in &all {
                list.push(estimate, id);
            }
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            all.truncate(keep);
            prop_assert_eq!(list.sorted().collect::<Vec<_>>(), all);
        }
    }

    #[test]
    fn infinities_have_their_place() {
        let mut list = Shortlist::default();
        list.reset(3, 0);
        for (estimate, id) in [(f32::INFINITY, 0), (1.0, 1), (f32::NEG_INFINITY, 2), (-0.5, 3)] {
            list.push(estimate, id);
        }
        assert_eq!(list.sorted().map(|(_, id)| id).collect::<Vec<_>>(), [2, 3, 1]);
    }
}
