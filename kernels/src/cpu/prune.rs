//! Robust prune (DiskANN, NeurIPS 2019, algorithm 2).
//!
//! In: a point and its candidates with distances. Out: the kept neighbours, nearest first. Deviation from
//! the paper, as in DiskANN's code: candidates are first taken at alpha 1 and, while there is room, again
//! at the full alpha, so that a full list prefers the edges that the stricter rule keeps.

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::row;
use crate::backend::{Lists, PruneParams};
use crate::distance::{GraphAux, GraphGeometry, Isa, Kernels};
use crate::topk::Scored;

pub(super) fn robust_prune<T: Kernels>(
    base: &ArrayView2<'_, T>,
    aux: &GraphAux,
    isa: Isa,
    points: &[u32],
    candidates: &Lists<Scored>,
    params: PruneParams,
) -> Lists<u32> {
    let geometry = GraphGeometry::<T>::new(aux, isa);
    let kept: Vec<Vec<u32>> = (0..points.len())
        .into_par_iter()
        .map(|i| {
            let mut pool = candidates.get(i).to_vec();
            let mut kept = Vec::with_capacity(params.max_degree);
            robust_prune_one(base, &geometry, points[i], &mut pool, params, &mut kept);
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
    kept.clear();
    candidates.retain(|c| c.id != point);
    candidates.sort_unstable();
    // Equal ids carry equal distances, so they are neighbours in the order.
    candidates.dedup_by_key(|c| c.id);

    // The largest d(p, c) / d(k, c) over kept k: how strongly c is occluded. Infinite: kept, or a copy.
    let mut occlusion = vec![0f32; candidates.len()];
    let mut chosen: Vec<usize> = Vec::with_capacity(params.max_degree);
    'rounds: for alpha in [1.0, params.alpha] {
        for i in 0..candidates.len() {
            if chosen.len() == params.max_degree {
                break 'rounds;
            }
            if occlusion[i] > alpha {
                continue;
            }
            chosen.push(i);
            occlusion[i] = f32::INFINITY;
            let id = candidates[i].id as usize;
            let (vector, aux) = (row(base, id), geometry.aux(id));
            for (c, occlusion) in candidates.iter().zip(&mut occlusion).skip(i + 1) {
                if *occlusion > params.alpha {
                    continue;
                }
                let between = geometry.distance(vector, aux, row(base, c.id as usize), geometry.aux(c.id as usize));
                // A copy of a kept neighbour (distance 0) is reached through it.
                let ratio = if between > 0.0 { c.distance / between } else { f32::INFINITY };
                *occlusion = occlusion.max(ratio);
            }
        }
        if params.alpha <= 1.0 {
            break;
        }
    }
    chosen.sort_unstable();
    kept.extend(chosen.into_iter().map(|i| candidates[i].id));
}
