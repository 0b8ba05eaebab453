//! Robust prune (DiskANN, NeurIPS 2019, algorithm 2).
//!
//! In: a point and its candidates. Out: the kept neighbours, nearest first. Deviation from the paper, as in DiskANN's
//! code: candidates are first taken at alpha 1 and, while there is room, again at the full alpha, so that a full list
//! prefers the edges that the stricter rule keeps. Candidates are gathered side by side once; each kept one is then
//! multiplied with all behind it by the packed kernels of `bytes` and `floats`. Twin: [`crate::plain::robust_prune`].

use std::cell::RefCell;

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::bytes::{ByteKernel, Columns, append_signed, padded_width};
use super::floats::{FloatColumns, occlude};
use super::row;
use crate::backend::{Lists, PruneParams};
use crate::distance::{GraphAux, GraphGeometry, Isa, Kernels, prefetch};
use crate::element::DType;
use crate::metric::Metric;
use crate::topk::Scored;

/// Bytes of gathered candidates at most; longer lists are pruned row by row.
const GATHERED: usize = 16 << 20;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    bytes: Columns,
    floats: FloatColumns,
    signed: Vec<i8>,
    flat: Vec<f32>,
    sums: Vec<i32>,
    distances: Vec<f32>,
    between: Vec<f32>,
    occlusion: Vec<f32>,
    chosen: Vec<u32>,
}

pub(super) fn robust_prune<T: Kernels>(
    base: &ArrayView2<'_, T>,
    aux: &GraphAux,
    isa: Isa,
    points: &[u32],
    candidates: &Lists<u32>,
    params: PruneParams,
) -> Lists<u32> {
    let geometry = GraphGeometry::<T>::new(aux, isa);
    let kept: Vec<Vec<u32>> = (0..points.len())
        .into_par_iter()
        .map_init(Vec::new, |pool, i| {
            let mut kept = Vec::with_capacity(params.max_degree);
            let (own, own_aux) = (row(base, points[i] as usize), geometry.aux(points[i] as usize));
            candidates.get(i).iter().for_each(|&id| prefetch(row(base, id as usize)));
            pool.clear();
            pool.extend(candidates.get(i).iter().map(|&id| {
                let distance = geometry.distance(own, own_aux, row(base, id as usize), geometry.aux(id as usize));
                Scored { distance, id }
            }));
            robust_prune_one(base, &geometry, points[i], pool, params, &mut kept);
            kept
        })
        .collect();
    kept.into_iter().collect()
}

/// Prunes one point's `candidates` (sorted and thinned in place) into `kept`.
pub fn robust_prune_one<T: Kernels>(
    base: &ArrayView2<'_, T>,
    geometry: &GraphGeometry<'_, T>,
    point: u32,
    candidates: &mut Vec<Scored>,
    params: PruneParams,
    kept: &mut Vec<u32>,
) {
    candidates.retain(|c| c.id != point);
    candidates.sort_unstable();
    // Equal ids carry equal distances, so they are neighbours in the order.
    candidates.dedup_by_key(|c| c.id);
    SCRATCH.with_borrow_mut(|scratch| {
        let scratch = &mut *scratch;
        let count = candidates.len();
        scratch.distances.clear();
        scratch.distances.extend(candidates.iter().map(|c| c.distance));
        scratch.between.resize(count.next_multiple_of(16), 0.0);
        let pairs = Pairs::gather(base, geometry, candidates, scratch);
        choose(&pairs, candidates, params, scratch);
        kept.clear();
        kept.extend(scratch.chosen.iter().map(|&i| candidates[i as usize].id));
    });
}

/// The algorithm: positions of the kept candidates, ascending, into `scratch.chosen`.
fn choose<T: Kernels>(pairs: &Pairs<'_, T>, candidates: &[Scored], params: PruneParams, scratch: &mut Scratch) {
    scratch.chosen.clear();
    // The largest d(p, c) / d(k, c) over kept k: how strongly c is occluded. Infinite: kept, or a copy.
    scratch.occlusion.clear();
    scratch.occlusion.resize(candidates.len(), 0.0);
    'rounds: for alpha in [1.0, params.alpha] {
        for i in 0..candidates.len() {
            if scratch.occlusion[i] > alpha {
                continue;
            }
            scratch.chosen.push(i as u32);
            if scratch.chosen.len() == params.max_degree {
                break 'rounds;
            }
            scratch.occlusion[i] = f32::INFINITY;
            pairs.distances_behind(i, candidates, params.alpha, scratch);
            let Scratch { distances, between, occlusion, .. } = scratch;
            occlude(pairs.geometry.isa(), &distances[i + 1..], &between[i + 1..], &mut occlusion[i + 1..]);
        }
        if params.alpha <= 1.0 {
            break;
        }
    }
    scratch.chosen.sort_unstable();
}

/// How distances between candidates are had.
enum Form {
    /// Packed bytes: integer rows under L2, exactly.
    Bytes(ByteKernel),
    /// Packed f32.
    Floats,
    /// The rows where they lie: more candidates than are worth gathering.
    Rows,
}

struct Pairs<'a, T> {
    base: &'a ArrayView2<'a, T>,
    geometry: &'a GraphGeometry<'a, T>,
    form: Form,
}

impl<'a, T: Kernels> Pairs<'a, T> {
    /// Gathers the candidates into `scratch` in their order.
    fn gather(
        base: &'a ArrayView2<'a, T>,
        geometry: &'a GraphGeometry<'a, T>,
        candidates: &[Scored],
        scratch: &mut Scratch,
    ) -> Self {
        let flat_dim = geometry.flat_dim(base.ncols());
        let cells = candidates.len() * flat_dim;
        let form = if T::DTYPE.is_integer() && geometry.metric() == Metric::L2 && cells <= GATHERED {
            let kernel = ByteKernel::new(geometry.isa());
            scratch.bytes.reset(candidates.len(), padded_width(base.ncols()));
            for (column, c) in candidates.iter().enumerate() {
                scratch.bytes.set(column, bytemuck::cast_slice(row(base, c.id as usize)), unsigned_flip::<T>());
            }
            kernel.seal(&mut scratch.bytes);
            Form::Bytes(kernel)
        } else if cells * size_of::<f32>() <= GATHERED {
            scratch.floats.reset(candidates.len(), flat_dim);
            scratch.flat.resize(flat_dim, 0.0);
            for (column, c) in candidates.iter().enumerate() {
                geometry.flatten(row(base, c.id as usize), c.id as usize, &mut scratch.flat);
                scratch.floats.set(column, &scratch.flat);
            }
            Form::Floats
        } else {
            Form::Rows
        };
        Self { base, geometry, form }
    }

    /// Distances from candidate `i` to those behind it, into `scratch.between`; what is occluded beyond `alpha` may be
    /// left out.
    fn distances_behind(&self, i: usize, candidates: &[Scored], alpha: f32, scratch: &mut Scratch) {
        let id = candidates[i].id as usize;
        let (vector, aux) = (row(self.base, id), self.geometry.aux(id));
        let first_group = (i + 1) / 16;
        let Scratch { bytes, floats, signed, flat, sums, between, occlusion, .. } = scratch;
        match self.form {
            Form::Bytes(kernel) if i + 1 < candidates.len() => {
                signed.clear();
                append_signed(
                    bytemuck::cast_slice(vector),
                    unsigned_flip::<T>() ^ 0x80,
                    padded_width(vector.len()),
                    signed,
                );
                sums.resize(bytes.padded(), 0);
                kernel.distances(bytes, first_group, signed, &bytes.squares()[i..=i], sums);
                between[i + 1..].iter_mut().zip(&sums[i + 1..]).for_each(|(between, &sum)| *between = sum as f32);
            }
            Form::Floats if i + 1 < candidates.len() => {
                self.geometry.flatten(vector, id, flat);
                let isa = self.geometry.isa();
                if self.geometry.metric() == Metric::Cosine {
                    floats.sums::<false>(isa, first_group, flat, between);
                    between[i + 1..].iter_mut().for_each(|d| *d = (1.0 - *d).max(0.0));
                } else {
                    floats.sums::<true>(isa, first_group, flat, between);
                }
            }
            Form::Bytes(_) | Form::Floats => (),
            Form::Rows => {
                for j in (i + 1..candidates.len()).filter(|&j| occlusion[j] <= alpha) {
                    let other = candidates[j].id as usize;
                    between[j] = self.geometry.distance(vector, aux, row(self.base, other), self.geometry.aux(other));
                }
            }
        }
    }
}

/// What turns the bytes of an integer row into u8, keeping distances.
fn unsigned_flip<T: Kernels>() -> u8 {
    if T::DTYPE == DType::I8 { 0x80 } else { 0 }
}
