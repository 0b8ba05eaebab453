//! Packing nodes on the host.

use rayon::prelude::*;

use super::{NodeBlock, PAGE};
use crate::distance::{Kernels, inverse_norm};
use crate::edge_codes::{EdgeCodes, EdgeEncoder};
use crate::metric::Metric;
use ndarray::ArrayView2;

/// Nodes that one task packs, or as many as fill a page: they share many neighbours, whose rotations are made once.
const NODES_A_TASK: usize = 256;

/// Rows in the host's memory.
pub(crate) struct Source<'a, T> {
    /// `(n, dim)`.
    pub(crate) rows: ArrayView2<'a, T>,
    /// 1 / norm of each `(n)` under cosine; where empty they are computed.
    pub(crate) inverse_norms: &'a [f32],
}

/// The pages of `block`, which was checked.
pub(crate) fn pack<T: Kernels>(source: &Source<'_, T>, block: &NodeBlock<'_>) -> Vec<u8> {
    let layout = block.layout;
    let (per_page, page_bytes) = (layout.nodes_per_page(), layout.pages_per_node() * PAGE);
    let task = NODES_A_TASK.next_multiple_of(per_page);
    let mut pages = vec![0; layout.section_bytes(block.rows.len())];
    pages.par_chunks_mut(task / per_page * page_bytes).enumerate().for_each(|(number, pages)| {
        let first = number * task;
        let nodes = first..block.rows.len().min(first + task);
        let mut coder = block.codes.map(|codes| {
            let named = nodes.clone().flat_map(|i| block.neighbors(i)).chain(&block.rows[nodes.clone()]);
            (EdgeEncoder::new(codes.codes), Rotated::of(codes.codes, source, named.copied().collect()))
        });
        for i in nodes {
            let row = block.rows[i] as usize;
            let node = &mut pages[layout.offset((i - first) as u32)..][..layout.node_bytes()];
            let (vector, norm) = (source.row(row), source.scale(row, layout.record.metric));
            layout.record.write(bytemuck::cast_slice(vector), norm, &mut node[..layout.record.bytes()]);
            layout.write_places(block.places.get(i), node);
            if let Some((encoder, rotated)) = &mut coder {
                let neighbors = block.neighbors(i);
                let neighbor = |place: usize| neighbors.get(place).map(|&id| rotated.row(id));
                encoder.encode(rotated.row(block.rows[i]), neighbor, &mut node[layout.codes_at()..]);
            }
        }
    });
    pages
}

impl<'a, T: Kernels> Source<'a, T> {
    fn row(&self, i: usize) -> &'a [T] {
        crate::cpu::row(&self.rows, i)
    }

    /// What makes a row as long as codes see it: 1 / norm under cosine, else 1.
    fn scale(&self, i: usize, metric: Metric) -> f32 {
        match metric {
            Metric::Cosine => self.inverse_norms.get(i).copied().unwrap_or_else(|| inverse_norm(self.row(i))),
            Metric::L2 | Metric::InnerProduct => 1.0,
        }
    }
}

/// Some rows as edge codes see them: f32, of unit length under cosine, rotated.
#[derive(Debug, Clone)]
pub struct Rotated {
    /// Ascending.
    ids: Vec<u32>,
    /// `(ids, width)`.
    rows: Vec<f32>,
    width: usize,
}

impl Rotated {
    /// Rotates those of `rows` `(n, dim)` that `ids` names, once each.
    pub fn new<T: Kernels>(codes: &EdgeCodes, rows: ArrayView2<'_, T>, ids: Vec<u32>) -> Self {
        Self::of(codes, &Source { rows, inverse_norms: &[] }, ids)
    }

    /// The same, with inverse norms where the source has them.
    fn of<T: Kernels>(codes: &EdgeCodes, source: &Source<'_, T>, mut ids: Vec<u32>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        let (dim, width) = (codes.dim(), codes.padded_dim());
        let mut rotated = vec![0f32; ids.len() * width];
        for (&id, into) in ids.iter().zip(rotated.chunks_exact_mut(width)) {
            let row = source.row(id as usize);
            let scale = source.scale(id as usize, codes.metric());
            into[..dim].iter_mut().zip(row).for_each(|(x, value)| *x = value.to_f32() * scale);
            codes.rotate(into);
        }
        Self { ids, rows: rotated, width }
    }

    /// A row by its number.
    ///
    /// # Panics
    /// When it was not named.
    pub fn row(&self, id: u32) -> &[f32] {
        let at = self.ids.partition_point(|&other| other < id);
        &self.rows[at * self.width..][..self.width]
    }
}
