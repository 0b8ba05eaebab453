//! Codes of rows, one after another, before they are laid out in the blocks of a list.
//!
//! In: rows and the centroids that they are coded relative to. Out: of each row, in [`Rabitq::row_bytes`],
//!
//! ```text
//! add, mul, err by signs, f32 | more than one bit: add, mul, err by all bits, f32 | planes | zeros up to four bytes
//! ```
//!
//! with the planes of [`planes`]: the last one is the signs.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::{Rabitq, code, factors, planes};
use crate::element::Element;
use crate::metric::Metric;

/// Rows that one task codes.
const ROWS_A_TASK: usize = 64;

impl Rabitq {
    /// Bytes of the codes of one row.
    pub fn row_bytes(&self) -> usize {
        (self.planes_at() + planes::row_bytes(self.dim(), self.bits)).next_multiple_of(4)
    }

    /// Where the planes of a row begin.
    pub(crate) fn planes_at(&self) -> usize {
        if self.bits > 1 { 24 } else { 12 }
    }

    /// Bits a coordinate.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The centre `(dim)`, rotated.
    pub(crate) fn center(&self) -> &[f32] {
        &self.center
    }

    /// The rotation of residuals.
    pub(crate) fn rotation(&self) -> &crate::rotation::Rotation {
        &self.rotation
    }

    /// What a code's product is taken with for `add`: the centroid less the centre, both rotated.
    fn toward(&self, centroid: &[f32]) -> Vec<f32> {
        let mut toward = centroid.to_vec();
        self.rotation.apply(&mut toward);
        toward.iter_mut().zip(&self.center).for_each(|(c, m)| *c -= m);
        toward
    }

    /// Codes a residual, rotated, into `out` ([`row_bytes`](Self::row_bytes), zero); `codes` `(dim)` is working memory.
    fn encode_row(&self, r: &[f32], toward: &[f32], metric: Metric, codes: &mut [u8], out: &mut [u8]) {
        let (numbers, planes) = out.split_at_mut(self.planes_at());
        let mut put = |at: usize, factors: [f32; 3]| {
            let bytes = numbers[12 * at..].as_chunks_mut::<4>().0;
            bytes.iter_mut().zip(factors).for_each(|(bytes, factor)| *bytes = factor.to_le_bytes());
        };
        let sized = |bits: u8, codes: &mut [u8]| {
            let coded = code::encode(r, bits, codes);
            factors(r, toward, &self.center, codes, bits, coded, metric)
        };
        let [add, mul, err] = sized(1, codes);
        // Look-ups sum +-1, twice the +-1/2 of one-bit codes.
        put(0, [add, 0.5 * mul, err]);
        if self.bits > 1 {
            put(1, sized(self.bits, codes));
        }
        planes::pack(codes, self.bits, &mut planes[..planes::row_bytes(r.len(), self.bits)]);
    }
}

/// Codes of the rows `ids` less `centroids[assignments[i]]`: `(ids, row_bytes)`. `inverse_norms` is empty but under cosine.
pub(crate) fn encode<T: Element>(
    rows: &ArrayView2<'_, T>,
    inverse_norms: &[f32],
    ids: &[u32],
    (centroids, assignments): (ArrayView2<'_, f32>, &[u32]),
    rabitq: &Rabitq,
    metric: Metric,
) -> Array2<u8> {
    let (dim, width) = (rabitq.dim(), rabitq.row_bytes());
    let centroids = centroids.as_standard_layout();
    let centroid = |c: u32| centroids.row(c as usize).to_slice().expect("a row of a matrix in standard layout");
    let toward: Vec<Vec<f32>> =
        (0..centroids.nrows() as u32).into_par_iter().map(|c| rabitq.toward(centroid(c))).collect();
    let mut out = Array2::<u8>::zeros((ids.len(), width));
    let flat = out.as_slice_mut().expect("a fresh matrix is contiguous");
    flat.par_chunks_mut(width * ROWS_A_TASK).enumerate().for_each(|(task, out)| {
        let (mut r, mut codes) = (vec![0f32; dim], vec![0u8; dim]);
        for (out, i) in out.chunks_exact_mut(width).zip(task * ROWS_A_TASK..) {
            let (id, list) = (ids[i] as usize, assignments[i]);
            let scale = inverse_norms.get(id).copied().unwrap_or(1.0);
            let coordinates = crate::cpu::row(rows, id).iter().zip(centroid(list));
            r.iter_mut().zip(coordinates).for_each(|(r, (x, c))| *r = x.to_f32() * scale - c);
            rabitq.rotation.apply(&mut r);
            rabitq.encode_row(&r, &toward[list as usize], metric, &mut codes, out);
        }
    });
    out
}
