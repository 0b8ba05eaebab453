//! What a walk remembers: its nearest candidates, and the nodes that it has seen.

use kiln_kernels::Scored;

/// The nearest candidates, ascending by (distance, id), each with a mark when it was visited.
#[derive(Default)]
pub(super) struct Pool {
    slots: Vec<Slot>,
    /// Candidates kept.
    capacity: usize,
    /// Everything before it was visited.
    next: usize,
    /// Keys on their way in.
    entering: Vec<u64>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// (distance, id) as one number that orders alike.
    key: u64,
    visited: bool,
}

impl Pool {
    pub(super) fn clear(&mut self, capacity: usize) {
        self.slots.clear();
        self.capacity = capacity;
        self.next = 0;
    }

    /// The worst candidate, when there is no room for more.
    #[inline(always)]
    fn worst(&self) -> Option<u64> {
        self.slots.last().filter(|_| self.slots.len() == self.capacity).map(|slot| slot.key)
    }

    /// The distance below which a candidate can still enter.
    #[inline(always)]
    pub(super) fn bound(&self) -> f32 {
        self.worst().map_or(f32::INFINITY, |worst| unpack(worst).distance.next_up())
    }

    /// Whether a candidate at `distance` can still enter.
    #[inline(always)]
    pub(super) fn takes(&self, distance: f32) -> bool {
        self.worst().is_none_or(|worst| distance <= unpack(worst).distance)
    }

    /// Takes in those of `candidates` that are among the nearest, and returns the place of the nearest that entered: one
    /// merge from the far end, which touches nothing nearer than that.
    #[inline(always)]
    pub(super) fn admit(&mut self, candidates: &[Scored]) -> Option<usize> {
        let worst = self.worst().unwrap_or(u64::MAX);
        self.entering.clear();
        self.entering.extend(candidates.iter().map(|&candidate| pack(candidate)).filter(|&key| key < worst));
        self.entering.sort_unstable();
        let (mut old, mut new) = (self.slots.len(), self.entering.len());
        let kept = (old + new).min(self.capacity);
        self.slots.resize(kept.max(old), Slot::default());
        let mut surplus = old + new - kept;
        let (mut to, mut nearest) = (kept, None);
        while new > 0 {
            let from_old = old > 0 && self.slots[old - 1].key > self.entering[new - 1];
            let slot = if from_old {
                old -= 1;
                self.slots[old]
            } else {
                new -= 1;
                Slot { key: self.entering[new], visited: false }
            };
            if surplus > 0 {
                surplus -= 1;
                continue;
            }
            to -= 1;
            self.slots[to] = slot;
            if !from_old {
                nearest = Some(to);
                self.next = self.next.min(to);
            }
        }
        nearest
    }

    /// Candidates in the list.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The nearest candidate that was not visited.
    #[inline(always)]
    pub(super) fn peek(&mut self) -> Option<Scored> {
        while self.slots.get(self.next)?.visited {
            self.next += 1;
        }
        Some(unpack(self.slots[self.next].key))
    }

    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<Scored> {
        let nearest = self.peek()?;
        self.slots[self.next].visited = true;
        Some(nearest)
    }
}

/// Orders as `Scored` does: by `f32::total_cmp`, then by id.
#[inline(always)]
fn pack(scored: Scored) -> u64 {
    let bits = scored.distance.to_bits();
    let flip = ((bits as i32 >> 31) as u32) | 1 << 31;
    u64::from(bits ^ flip) << 32 | u64::from(scored.id)
}

#[inline(always)]
fn unpack(key: u64) -> Scored {
    let ordered = (key >> 32) as u32;
    let flip = ((!ordered as i32 >> 31) as u32) | 1 << 31;
    Scored { distance: f32::from_bits(ordered ^ flip), id: key as u32 }
}

/// A set of node numbers: open addressing with linear probing, sized by what a walk visits and not by n.
pub(crate) struct VisitedSet {
    /// Node numbers, `EMPTY` where free; a power of two long.
    slots: Vec<u32>,
    used: usize,
}

/// Never a node number: an index holds at most 2^32 - 2 rows.
const EMPTY: u32 = u32::MAX;

impl Default for VisitedSet {
    fn default() -> Self {
        Self { slots: vec![EMPTY; 1 << 11], used: 0 }
    }
}

impl VisitedSet {
    pub(super) fn clear(&mut self) {
        self.slots.fill(EMPTY);
        self.used = 0;
    }

    /// Adds a node; false when it was there.
    #[inline]
    pub(crate) fn insert(&mut self, node: u32) -> bool {
        if self.used * 2 >= self.slots.len() {
            self.grow();
        }
        let slot = self.find(node);
        let new = self.slots[slot] == EMPTY;
        self.slots[slot] = node;
        self.used += usize::from(new);
        new
    }

    /// The slot that holds `node`, or the free one where it belongs.
    #[inline]
    fn find(&self, node: u32) -> usize {
        let mask = self.slots.len() - 1;
        // Fibonacci hashing: neighbours in number scatter.
        let mut slot = (node.wrapping_mul(0x9E37_79B1) >> 7) as usize & mask;
        while self.slots[slot] != EMPTY && self.slots[slot] != node {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) {
        let doubled = vec![EMPTY; self.slots.len() * 2];
        for node in std::mem::replace(&mut self.slots, doubled) {
            if node != EMPTY {
                let slot = self.find(node);
                self.slots[slot] = node;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_candidates_order_as_scored_ones() {
        let distances = [-f32::INFINITY, -2.5, -1e-30, -0.0, 0.0, 1e-30, 2.5, f32::INFINITY];
        let all: Vec<Scored> =
            distances.iter().flat_map(|&distance| [0, 7, u32::MAX - 1].map(|id| Scored { distance, id })).collect();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1] && pack(pair[0]) < pack(pair[1])));
        assert!(all.iter().all(|&scored| unpack(pack(scored)) == scored));
    }

    #[test]
    fn the_visited_set_grows_and_forgets() {
        let mut set = VisitedSet::default();
        assert!((0..20_000).all(|n| set.insert(n * 8)));
        assert!((0..20_000).all(|n| !set.insert(n * 8)));
        set.clear();
        assert!(set.insert(8));
    }
}
