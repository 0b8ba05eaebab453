//! Rows as bytes whose squared L2 orders them as the graph geometry does: what leaves and leaders are searched in.
//!
//! Bytes under L2 are their own sketch, exactly (i8 shifted by 128). All other rows are centred and scaled by one
//! factor for all coordinates, after scaling to unit length (cosine) or lifting by a coordinate (inner product). Such a
//! sketch only selects candidates, which are then scored exactly. Nothing is stored: rows are sketched as they are gathered.

use ndarray::ArrayView2;

use super::bytes::padded_width;
use super::row;
use crate::distance::{GraphGeometry, Kernels};
use crate::element::DType;
use crate::metric::Metric;
use crate::whole::SAMPLE;

#[derive(Debug, Clone)]
pub(crate) struct Sketch {
    /// Bytes of a row, padded to what products take.
    width: usize,
    /// None: the rows are their own sketch.
    affine: Option<Affine>,
}

#[derive(Debug, Clone)]
struct Affine {
    centre: Vec<f32>,
    /// Codes a unit.
    scale: f32,
}

impl Sketch {
    /// Centre and scale are taken from [`SAMPLE`] rows, evenly spaced.
    pub(super) fn new<T: Kernels>(rows: &ArrayView2<'_, T>, geometry: &GraphGeometry<'_, T>) -> Self {
        let dim = geometry.flat_dim(rows.ncols());
        let width = padded_width(dim);
        if T::DTYPE.is_integer() && geometry.metric() == Metric::L2 {
            return Self { width, affine: None };
        }
        let step = rows.nrows().div_ceil(SAMPLE).max(1);
        let mut sample = vec![0f32; rows.nrows().div_ceil(step) * dim];
        for (i, flat) in sample.chunks_exact_mut(dim).enumerate() {
            geometry.flatten(row(rows, i * step), i * step, flat);
        }
        let count = (sample.len() / dim) as f32;
        let centre: Vec<f32> =
            (0..dim).map(|d| sample.iter().skip(d).step_by(dim).map(|x| x / count).sum::<f32>()).collect();
        for flat in sample.chunks_exact_mut(dim) {
            flat.iter_mut().zip(&centre).for_each(|(x, c)| *x -= c);
        }
        Self { width, affine: Some(Affine { centre, scale: best_scale(&sample) }) }
    }

    /// Whether distances of sketches are those of the rows.
    pub(super) fn is_exact(&self) -> bool {
        self.affine.is_none()
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The sketch of row `id` into `out` `(width)`; `flat` is working memory.
    pub(super) fn encode<T: Kernels>(
        &self,
        rows: &ArrayView2<'_, T>,
        geometry: &GraphGeometry<'_, T>,
        id: u32,
        flat: &mut Vec<f32>,
        out: &mut [u8],
    ) {
        let row = row(rows, id as usize);
        let Some(Affine { centre, scale }) = &self.affine else {
            let flip = if T::DTYPE == DType::I8 { 0x80 } else { 0 };
            let bytes: &[u8] = bytemuck::cast_slice(row);
            out.iter_mut().zip(bytes).for_each(|(out, x)| *out = x ^ flip);
            out[bytes.len()..].fill(0);
            return;
        };
        flat.resize(centre.len(), 0.0);
        geometry.flatten(row, id as usize, flat);
        for ((out, x), c) in out.iter_mut().zip(flat.iter()).zip(centre) {
            *out = code((x - c) * scale);
        }
        out[centre.len()..].fill(0);
    }
}

/// A centred, scaled coordinate as a byte, clipped. Adding 2^23 leaves the rounded value in the low bits: unlike a
/// saturating cast this is two additions and vectorises.
#[inline(always)]
fn code(x: f32) -> u8 {
    const ROUNDED: f32 = 8_388_608.0;
    ((x + 127.5).clamp(0.0, 255.0) + ROUNDED).to_bits() as u8
}

/// The scale of least squared error over centred coordinates: a wider range clips less and rounds more.
fn best_scale(centred: &[f32]) -> f32 {
    let largest = centred.iter().fold(0f32, |m, x| m.max(x.abs()));
    let error = |scale: f32| -> f64 {
        let off = |&x: &f32| x - (f32::from(code(x * scale)) - 127.5) / scale;
        centred.iter().map(|x| f64::from(off(x)).powi(2)).sum()
    };
    // From the whole range down to 1/16 of it.
    let scales = (0..16).map(|i| 127.5 / largest * 2f32.powf(i as f32 / 4.0));
    let best = scales.filter(|s| s.is_finite()).min_by(|&a, &b| error(a).total_cmp(&error(b)));
    best.unwrap_or(1.0)
}
