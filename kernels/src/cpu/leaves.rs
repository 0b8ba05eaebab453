//! Nearest neighbours within small sets of rows: all pairs of a leaf, and points against leaders.
//!
//! A block of rows times the packed columns gives byte distances that stay in the cache; a selection keeps the few that
//! can be among the k smallest. Where the sketch is not exact, [`MARGIN`] more than k are kept and scored exactly.

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::bytes::{ByteKernel, Columns, append_signed, square};
use super::row;
use super::sketch::Sketch;
use crate::backend::Lists;
use crate::distance::{GraphGeometry, Kernels};
use crate::topk::Scored;

/// Rows of one product. Their distances to a leaf of 1,024 fill 32 KiB.
const BLOCK: usize = 8;

/// Points of one task against leaders.
const TASK: usize = 512;

/// Candidates beyond k that an inexact sketch selects for exact scoring.
const MARGIN: usize = 6;

/// Rows to search among, in their graph geometry.
pub(super) struct Leaves<'a, T> {
    pub rows: ArrayView2<'a, T>,
    pub geometry: GraphGeometry<'a, T>,
    pub sketch: &'a Sketch,
}

#[derive(Default)]
struct Scratch {
    columns: Columns,
    sketch: Vec<u8>,
    signed: Vec<i8>,
    squares: Vec<i32>,
    flat: Vec<f32>,
    distances: Vec<i32>,
    found: Vec<u32>,
    keys: Vec<u64>,
}

impl<T: Kernels> Leaves<'_, T> {
    /// For each member of each leaf, in order, its `k` nearest other members.
    pub(super) fn neighbors(&self, leaves: &Lists<u32>, k: usize) -> Lists<Scored> {
        let each = |leaf: &[u32]| k.min(leaf.len().saturating_sub(1));
        let mut offsets = vec![0];
        for leaf in leaves.iter() {
            let first = offsets[offsets.len() - 1];
            offsets.extend((1..=leaf.len()).map(|i| first + i * each(leaf)));
        }
        let mut items = vec![Scored { distance: 0.0, id: 0 }; offsets[offsets.len() - 1]];
        let (mut parts, mut rest) = (Vec::with_capacity(leaves.len()), &mut items[..]);
        for leaf in leaves.iter() {
            let (part, after) = rest.split_at_mut(each(leaf) * leaf.len());
            parts.push((leaf, part));
            rest = after;
        }
        parts.into_par_iter().for_each_init(
            || (Scratch::default(), Vec::new()),
            |(scratch, found), (leaf, out)| {
                found.clear();
                self.all_pairs(leaf, each(leaf), scratch, found);
                out.copy_from_slice(found);
            },
        );
        Lists { offsets, items }
    }

    /// Appends the `k` nearest other members of each member; k is less than the number of members, or 0.
    fn all_pairs(&self, leaf: &[u32], k: usize, scratch: &mut Scratch, out: &mut Vec<Scored>) {
        if k == 0 {
            return;
        }
        let kernel = ByteKernel::new(self.geometry.isa());
        let width = self.sketch.width();
        self.pack(leaf, &kernel, scratch);
        let padded = scratch.columns.padded();
        for first in (0..leaf.len()).step_by(BLOCK) {
            let count = BLOCK.min(leaf.len() - first);
            scratch.distances.resize(count * padded, 0);
            kernel.distances(
                &scratch.columns,
                0,
                &scratch.signed[first * width..(first + count) * width],
                &scratch.squares[first..first + count],
                &mut scratch.distances,
            );
            for i in 0..count {
                // Never its own neighbour.
                scratch.distances[i * padded + first + i] = i32::MAX;
                self.nearest(&kernel, leaf[first + i], leaf, i * padded, k, scratch, out);
            }
        }
    }

    /// The `k` nearest of `leaders` to each of `points`, nearest first: `(points, k)`; k is at most the number of leaders.
    pub(super) fn leaders(&self, points: &[u32], leaders: &[u32], k: usize) -> Vec<u32> {
        let kernel = ByteKernel::new(self.geometry.isa());
        let mut shared = Scratch::default();
        self.pack(leaders, &kernel, &mut shared);
        let padded = shared.columns.padded();
        let mut nearest = vec![0u32; points.len() * k];
        nearest.par_chunks_mut(TASK * k).zip(points.par_chunks(TASK)).for_each_init(
            || (Scratch::default(), Vec::new()),
            |(scratch, scored), (nearest, points)| {
                for (nearest, points) in nearest.chunks_mut(BLOCK * k).zip(points.chunks(BLOCK)) {
                    scratch.signed.clear();
                    scratch.squares.clear();
                    for &point in points {
                        self.operand(point, scratch);
                    }
                    scratch.distances.resize(points.len() * padded, 0);
                    let Scratch { signed, squares, distances, .. } = scratch;
                    kernel.distances(&shared.columns, 0, signed, squares, distances);
                    for (i, (nearest, &point)) in nearest.chunks_exact_mut(k).zip(points).enumerate() {
                        scored.clear();
                        self.nearest(&kernel, point, leaders, i * padded, k, scratch, scored);
                        nearest.iter_mut().zip(scored.iter()).for_each(|(out, s)| *out = s.id);
                    }
                }
            },
        );
        nearest
    }

    /// Sketches `ids`, both as columns and as row operands.
    fn pack(&self, ids: &[u32], kernel: &ByteKernel, scratch: &mut Scratch) {
        scratch.signed.clear();
        scratch.squares.clear();
        scratch.columns.reset(ids.len(), self.sketch.width());
        for (column, &id) in ids.iter().enumerate() {
            self.operand(id, scratch);
            scratch.columns.set(column, &scratch.sketch, 0);
        }
        kernel.seal(&mut scratch.columns);
    }

    /// Sketches one row and appends it as a row operand.
    fn operand(&self, id: u32, scratch: &mut Scratch) {
        let Scratch { sketch, signed, squares, flat, .. } = scratch;
        sketch.resize(self.sketch.width(), 0);
        self.sketch.encode(&self.rows, &self.geometry, id, flat, sketch);
        append_signed(sketch, 0x80, self.sketch.width(), signed);
        squares.push(square(sketch));
    }

    /// Appends the `k` nearest of `ids` to `point`, whose distances of sketches begin at `start`; `i32::MAX` excludes.
    #[allow(clippy::too_many_arguments, reason = "the inner step of two loops")]
    fn nearest(
        &self,
        kernel: &ByteKernel,
        point: u32,
        ids: &[u32],
        start: usize,
        k: usize,
        scratch: &mut Scratch,
        out: &mut Vec<Scored>,
    ) {
        let Scratch { distances, found, keys, .. } = scratch;
        let distances = &distances[start..start + ids.len()];
        let wanted = if self.sketch.is_exact() { k } else { (k + MARGIN).min(ids.len()) };
        kernel.select(distances, wanted, found);
        keys.clear();
        let key = |&at: &u32| (distances[at as usize] as u64) << 32 | u64::from(ids[at as usize]);
        keys.extend(found.iter().map(key).filter(|&key| key >> 32 < i32::MAX as u64));
        if keys.len() > 4 * wanted {
            // Many at one distance: copies of a row.
            keys.select_nth_unstable(wanted - 1);
            keys.truncate(wanted);
        }
        keys.sort_unstable();
        keys.truncate(wanted);
        let first = out.len();
        let (own, own_aux) = (row(&self.rows, point as usize), self.geometry.aux(point as usize));
        out.extend(keys.iter().map(|&key| {
            let id = key as u32;
            let exactly = || {
                let other = row(&self.rows, id as usize);
                self.geometry.distance(own, own_aux, other, self.geometry.aux(id as usize))
            };
            // Rounded once, as the row kernels do.
            let distance = if self.sketch.is_exact() { (key >> 32) as f32 } else { exactly() };
            Scored { distance, id }
        }));
        out[first..].sort_unstable();
        out.truncate(first + k);
    }
}
