//! Bounded reservoirs: the nearest distinct candidates of every row, whatever the order in which they arrive.
//!
//! In: per row, ascending lists of candidates. Out: its `keep` nearest by (key, id), where the key is the
//! distance in 16 bits. Six bytes a place: with 1.5 R places a row and a few to overflow into, all reservoirs together
//! stay below three times the bytes of the graph's ids. The order is total, so neither threads nor batches decide.

use std::collections::VecDeque;

use rayon::prelude::*;

use crate::topk::Scored;

/// Places beyond those kept, so that rows are rarely cut back. Also what the search for copies steps by.
const OVERFLOW: usize = 8;

/// Rows of a shard: what one thread owns while a batch is merged.
const SHARD: usize = 4096;

/// Distances in 16 bits, monotone: five of exponent and eleven of mantissa below a largest distance.
#[derive(Debug, Clone, Copy)]
pub struct DistanceKey {
    lowest: u32,
}

impl DistanceKey {
    /// Keys that tell distances apart between `largest` and 2^-32 of it; beyond, keys are equal.
    pub fn new(largest: f32) -> Self {
        Self { lowest: (largest.to_bits() >> 12).saturating_sub(u32::from(u16::MAX)) }
    }

    /// What is taken from the upper 20 bits of a distance.
    pub(crate) fn lowest(self) -> u32 {
        self.lowest
    }

    #[inline(always)]
    /// The key of a distance.
    pub fn of(self, distance: f32) -> u16 {
        (distance.to_bits() >> 12).saturating_sub(self.lowest).min(u32::from(u16::MAX)) as u16
    }
}

/// Bytes a row of reservoirs that keep `keep` candidates.
pub fn bytes_a_row(keep: usize) -> usize {
    (keep + OVERFLOW) * (size_of::<u32>() + size_of::<u16>()) + size_of::<(u16, bool)>()
}

/// The reservoirs of all rows, in shards of consecutive rows.
pub struct Reservoirs {
    key: DistanceKey,
    keep: usize,
    shards: VecDeque<Shard>,
}

struct Shard {
    first_row: u32,
    /// `(rows, keep + OVERFLOW)`, unordered.
    ids: Vec<u32>,
    keys: Vec<u16>,
    /// Places in use, and whether the row was ever cut back: its place `keep - 1` then holds the worst that may stay.
    used: Vec<(u16, bool)>,
}

impl Reservoirs {
    /// Empty reservoirs of `keep` candidates for each of `n` rows.
    pub fn new(n: usize, keep: usize, key: DistanceKey) -> Self {
        let shard = |first: usize| {
            let rows = SHARD.min(n - first);
            let places = rows * (keep + OVERFLOW);
            Shard { first_row: first as u32, ids: vec![0; places], keys: vec![0; places], used: vec![(0, false); rows] }
        };
        Self { key, keep, shards: (0..n).step_by(SHARD).map(shard).collect() }
    }

    /// Offers each row `rows[i]` the candidates `lists(i)`, ascending.
    pub fn offer<'a>(&mut self, rows: &[u32], lists: impl Fn(usize) -> &'a [Scored] + Sync) {
        // Positions by shard, then by row, so that a row's places are touched once a batch.
        let mut ends = vec![0usize; self.shards.len() + 1];
        rows.iter().for_each(|&row| ends[row as usize / SHARD + 1] += 1);
        for shard in 1..ends.len() {
            ends[shard] += ends[shard - 1];
        }
        let mut slots = ends.clone();
        let mut order = vec![0u64; rows.len()];
        for (position, &row) in rows.iter().enumerate() {
            let slot = &mut slots[row as usize / SHARD];
            order[*slot] = u64::from(row) << 32 | position as u64;
            *slot += 1;
        }
        let (key, keep) = (self.key, self.keep);
        let mut rest = &mut order[..];
        let mut parts = Vec::with_capacity(self.shards.len());
        for window in ends.windows(2) {
            let (part, after) = rest.split_at_mut(window[1] - window[0]);
            parts.push(part);
            rest = after;
        }
        self.shards.make_contiguous().par_iter_mut().zip(parts).for_each_init(Vec::new, |scratch, (shard, part)| {
            part.sort_unstable();
            for entry in part.iter() {
                shard.offer((entry >> 32) as u32, lists(*entry as u32 as usize), key, keep, scratch);
            }
        });
    }

    /// Empties the next shard, in order: (first row, each row's candidates, nearest first). Its memory goes; `None` after the
    /// last.
    pub(crate) fn take_next(&mut self) -> Option<(u32, Vec<Vec<u32>>)> {
        self.take(|entries| entries.iter().map(|&entry| entry as u32).collect())
    }

    /// The same, each candidate with its key, as `key << 32 | id`.
    pub fn take_next_keyed(&mut self) -> Option<(u32, Vec<Vec<u64>>)> {
        self.take(<[u64]>::to_vec)
    }

    fn take<R: Send>(&mut self, finish: impl Fn(&[u64]) -> R + Sync) -> Option<(u32, Vec<R>)> {
        let (shard, keep) = (self.shards.pop_front()?, self.keep);
        let rows = (0..shard.used.len()).into_par_iter().map_init(Vec::new, |scratch, row| {
            shard.load(row, keep, scratch);
            scratch.sort_unstable();
            scratch.truncate(keep);
            finish(scratch)
        });
        Some((shard.first_row, rows.collect()))
    }
}

impl Shard {
    fn offer(&mut self, row: u32, candidates: &[Scored], key: DistanceKey, keep: usize, scratch: &mut Vec<u64>) {
        let row = (row - self.first_row) as usize;
        let places = keep + OVERFLOW;
        let (ids, keys) = (&mut self.ids[row * places..][..places], &mut self.keys[row * places..][..places]);
        let (used, cut) = &mut self.used[row];
        for candidate in candidates {
            let key = key.of(candidate.distance);
            if *cut && (key, candidate.id) >= (keys[keep - 1], ids[keep - 1]) {
                if key > keys[keep - 1] {
                    break;
                }
                continue;
            }
            if holds(ids, usize::from(*used), candidate.id) {
                continue;
            }
            (ids[usize::from(*used)], keys[usize::from(*used)]) = (candidate.id, key);
            *used += 1;
            if usize::from(*used) == places {
                scratch.clear();
                scratch.extend(keys.iter().zip(ids.iter()).map(|(&key, &id)| entry(key, id)));
                scratch.select_nth_unstable(keep - 1);
                for (place, entry) in scratch[..keep].iter().enumerate() {
                    (keys[place], ids[place]) = ((entry >> 32) as u16, *entry as u32);
                }
                (*used, *cut) = (keep as u16, true);
            }
        }
    }

    fn load(&self, row: usize, keep: usize, out: &mut Vec<u64>) {
        let places = row * (keep + OVERFLOW)..row * (keep + OVERFLOW) + usize::from(self.used[row].0);
        out.clear();
        out.extend(self.keys[places.clone()].iter().zip(&self.ids[places]).map(|(&key, &id)| entry(key, id)));
    }
}

fn entry(key: u16, id: u32) -> u64 {
    u64::from(key) << 32 | u64::from(id)
}

/// Whether the first `used` of `ids` name `id`. Whole chunks without an early end: this vectorises.
#[inline(always)]
fn holds(ids: &[u32], used: usize, id: u32) -> bool {
    let (chunks, tail) = ids[..used].as_chunks::<OVERFLOW>();
    let mut any = false;
    for chunk in chunks {
        any |= chunk.iter().fold(false, |any, &other| any | (other == id));
    }
    tail.iter().fold(any, |any, &other| any | (other == id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn keys_are_monotone() {
        let key = DistanceKey::new(1e6);
        let distances = [0.0, 1e-9, 1e-3, 0.5, 0.5001, 1.0, 1.001, 7.0, 1e5, 1e6, 1e9, f32::INFINITY];
        assert!(distances.map(|d| key.of(d)).is_sorted());
        assert!(key.of(1.0) < key.of(1.001) && key.of(1e6) == u16::MAX);
        DistanceKey::new(0.0).of(0.0);
    }

    #[test]
    fn what_is_kept_is_the_nearest_of_all_in_any_order() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let key = DistanceKey::new(100.0);
        for keep in [4, 32, 48] {
            // A fixed distance for each pair, many equal; each list ascending, with copies between lists.
            let distance = |row: u32, id: u32| ((row * 31 + id * 7) % 50) as f32;
            let mut offers: Vec<(u32, Vec<Scored>)> = (0..3000)
                .map(|_| {
                    let row = rng.random_range(0..5000);
                    let mut list: Vec<Scored> = (0..10)
                        .map(|_| rng.random_range(0..200))
                        .map(|id| Scored { distance: distance(row % 40, id), id })
                        .collect();
                    list.sort();
                    list.dedup();
                    (row % 40 * 127, list)
                })
                .collect();
            let mut wanted = vec![Vec::new(); 5000];
            for (row, list) in &offers {
                wanted[*row as usize].extend(list.iter().map(|c| (key.of(c.distance), c.id)));
            }
            for list in &mut wanted {
                list.sort();
                list.dedup();
                list.truncate(keep);
            }
            for batch in [1, 100, 3000] {
                offers.shuffle(&mut rng);
                let mut reservoirs = Reservoirs::new(5000, keep, key);
                for batch in offers.chunks(batch) {
                    let rows: Vec<u32> = batch.iter().map(|(row, _)| *row).collect();
                    reservoirs.offer(&rows, |i| &batch[i].1);
                }
                let got: Vec<Vec<u32>> =
                    std::iter::from_fn(|| reservoirs.take_next()).flat_map(|(_, rows)| rows).collect();
                let wanted: Vec<Vec<u32>> = wanted.iter().map(|l| l.iter().map(|(_, id)| *id).collect()).collect();
                assert_eq!(got, wanted);
            }
        }
    }
}
