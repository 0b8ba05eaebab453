//! Distances from one row to many packed f32 rows at once: the product of pruning for rows that are not bytes under L2.
//!
//! In: columns packed sixteen at a time, `[group][width][16]`. Out: squared L2 or dot product, f32. One loop, compiled
//! for each instruction set; the lanes are independent sums, so it vectorises without reordering any.

use crate::distance::{Isa, Level};

/// Columns of a group.
const LANES: usize = 16;

/// Groups summed side by side, to hide the latency of additions.
const SIDE: usize = 4;

/// Packed columns.
#[derive(Debug, Default)]
pub(super) struct FloatColumns {
    width: usize,
    values: Vec<[f32; LANES]>,
}

impl FloatColumns {
    /// Makes room for `len` columns of `width` coordinates.
    pub(super) fn reset(&mut self, len: usize, width: usize) {
        self.width = width;
        self.values.clear();
        self.values.resize(len.div_ceil(LANES) * width, [0.0; LANES]);
    }

    /// Writes one column.
    pub(super) fn set(&mut self, column: usize, row: &[f32]) {
        let (group, lane) = (column / LANES, column % LANES);
        let values = &mut self.values[group * self.width..(group + 1) * self.width];
        values.iter_mut().zip(row).for_each(|(value, &x)| value[lane] = x);
    }

    /// Squared L2 (`L2`) or dot product of `row` to the columns from group `first_group` on, into `out` `(padded)`.
    pub(super) fn sums<const L2: bool>(&self, isa: Isa, first_group: usize, row: &[f32], out: &mut [f32]) {
        match isa.0 {
            Level::Scalar => self.plain::<L2, false>(first_group, row, out),
            // SAFETY: the instruction set was probed.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { self.avx2::<L2>(first_group, row, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { self.avx512::<L2>(first_group, row, out) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => self.plain::<L2, false>(first_group, row, out),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const L2: bool>(&self, first_group: usize, row: &[f32], out: &mut [f32]) {
        self.plain::<L2, true>(first_group, row, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,fma")]
    unsafe fn avx512<const L2: bool>(&self, first_group: usize, row: &[f32], out: &mut [f32]) {
        self.plain::<L2, true>(first_group, row, out);
    }

    #[inline(always)]
    fn plain<const L2: bool, const FUSED: bool>(&self, first_group: usize, row: &[f32], out: &mut [f32]) {
        let (mut values, mut out) = (&self.values[first_group * self.width..], &mut out[first_group * LANES..]);
        while values.len() >= SIDE * self.width && !values.is_empty() {
            side_by_side::<L2, FUSED, SIDE>(row, self.width, values, out);
            values = &values[SIDE * self.width..];
            out = &mut out[SIDE * LANES..];
        }
        match values.len() / self.width {
            3 => side_by_side::<L2, FUSED, 3>(row, self.width, values, out),
            2 => side_by_side::<L2, FUSED, 2>(row, self.width, values, out),
            1 => side_by_side::<L2, FUSED, 1>(row, self.width, values, out),
            _ => (),
        }
    }
}

/// Sums of `GROUPS` groups.
#[inline(always)]
fn side_by_side<const L2: bool, const FUSED: bool, const GROUPS: usize>(
    row: &[f32],
    width: usize,
    values: &[[f32; LANES]],
    out: &mut [f32],
) {
    let mut sums = [[0f32; LANES]; GROUPS];
    let groups: [&[[f32; LANES]]; GROUPS] = std::array::from_fn(|group| &values[group * width..(group + 1) * width]);
    for (d, &x) in row[..width].iter().enumerate() {
        for (sums, group) in sums.iter_mut().zip(groups) {
            add::<L2, FUSED>(sums, x, &group[d]);
        }
    }
    out[..GROUPS * LANES].copy_from_slice(sums.as_flattened());
}

#[inline(always)]
fn add<const L2: bool, const FUSED: bool>(sums: &mut [f32; LANES], x: f32, column: &[f32; LANES]) {
    for (sum, &y) in sums.iter_mut().zip(column) {
        let (a, b) = if L2 { (x - y, x - y) } else { (x, y) };
        *sum = if FUSED { a.mul_add(b, *sum) } else { *sum + a * b };
    }
}

/// Raises each candidate's occlusion to its distance over `between`, its distance to a kept neighbour; a copy of the
/// neighbour (0) is occluded for good.
pub(super) fn occlude(isa: Isa, distances: &[f32], between: &[f32], occlusion: &mut [f32]) {
    #[inline(always)]
    fn plain(distances: &[f32], between: &[f32], occlusion: &mut [f32]) {
        for ((&d, &b), occlusion) in distances.iter().zip(between).zip(occlusion) {
            let ratio = if b > 0.0 { d / b } else { f32::INFINITY };
            *occlusion = if ratio > *occlusion { ratio } else { *occlusion };
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn avx512(distances: &[f32], between: &[f32], occlusion: &mut [f32]) {
        plain(distances, between, occlusion);
    }
    match isa.0 {
        // SAFETY: the instruction set was probed.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(distances, between, occlusion) },
        _ => plain(distances, between, occlusion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn every_isa_sums_as_f64_does() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (len, width, first_group) in [(1, 1, 0), (16, 7, 0), (33, 100, 1), (50, 31, 0), (64, 384, 2)] {
            let mut draw = || (0..width).map(|_| rng.random::<f32>() - 0.5).collect::<Vec<f32>>();
            let (row, rows): (Vec<f32>, Vec<Vec<f32>>) = (draw(), (0..len).map(|_| draw()).collect());
            let mut columns = FloatColumns::default();
            columns.reset(len, width);
            rows.iter().enumerate().for_each(|(i, row)| columns.set(i, row));
            for isa in Isa::supported() {
                let (mut l2, mut dot) = (vec![0f32; 80], vec![0f32; 80]);
                let padded = len.next_multiple_of(LANES);
                columns.sums::<true>(isa, first_group, &row, &mut l2[..padded]);
                columns.sums::<false>(isa, first_group, &row, &mut dot[..padded]);
                for i in first_group * LANES..len {
                    let pairs = || row.iter().zip(&rows[i]).map(|(&x, &y)| (f64::from(x), f64::from(y)));
                    let expected: (f64, f64) =
                        (pairs().map(|(x, y)| (x - y) * (x - y)).sum(), pairs().map(|(x, y)| x * y).sum());
                    let close = |got: f32, expected: f64| (f64::from(got) - expected).abs() < 1e-5 * width as f64;
                    assert!(close(l2[i], expected.0) && close(dot[i], expected.1), "{} {i}", isa.name());
                }
            }
        }
    }
}
