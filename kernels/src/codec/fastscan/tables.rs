//! Look-up tables quantised to bytes.

use super::GROUP_BYTES;
use crate::distance::{Isa, Level};

/// The tables of four sub-spaces: 16 entries of the first, then of the second, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Group(pub [u8; GROUP_BYTES]);

/// The tables of one query: an entry t of sub-space s stands for `least(s) + scale * t`.
///
/// All sub-spaces share one scale, so that a code's score is `bias + scale * (sum of its entries)`. Entries are at most
/// 255 and at most 65,535 / m: a sum never exceeds 16 bits.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    groups: Vec<Group>,
    /// One step of a sum.
    pub scale: f32,
    /// The score of a sum of zero: the least entries of all sub-spaces together.
    pub bias: f32,
    m: usize,
    /// The least entry of every sub-space.
    least: Vec<f32>,
}

impl Tables {
    /// Quantises `table` `(m, 16)` flat.
    pub fn quantise(table: &[f32]) -> Self {
        let mut tables = Self::default();
        tables.assign(table, Isa::SCALAR);
        tables
    }

    /// Quantises the tables of `query` (dim): entry t of a sub-space is the dot product of the query's coordinates with
    /// centroid t. `centroids` holds `(width, 16)` a sub-space, one coordinate of all sixteen contiguous, and `widths`
    /// how many coordinates each sub-space has. `table` is working memory.
    pub fn assign_products(
        &mut self,
        query: &[f32],
        centroids: &[[f32; 16]],
        widths: impl Iterator<Item = usize>,
        table: &mut Vec<[f32; 16]>,
        isa: Isa,
    ) {
        table.clear();
        let mut coordinates = query.iter().zip(centroids);
        table.extend(widths.map(|width| {
            let mut entries = [0.0; 16];
            for (q, coordinate) in coordinates.by_ref().take(width) {
                entries.iter_mut().zip(coordinate).for_each(|(entry, c)| *entry += q * c);
            }
            entries
        }));
        self.assign(table.as_flattened(), isa);
    }

    /// Quantises `table` `(m, 16)` flat into the memory of these, with instructions of `isa`; the result is the same
    /// on every one.
    pub fn assign(&mut self, table: &[f32], isa: Isa) {
        match isa.0 {
            // SAFETY: an `Isa` of this level exists only where its features were probed.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { self.assign_avx512(table) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { self.assign_avx2(table) },
            _ => self.assign_by(table),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn assign_avx512(&mut self, table: &[f32]) {
        self.assign_by(table);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn assign_avx2(&mut self, table: &[f32]) {
        self.assign_by(table);
    }

    #[inline(always)]
    fn assign_by(&mut self, table: &[f32]) {
        let (subs, _) = table.as_chunks::<16>();
        self.m = subs.len();
        let (mut range, mut bias) = (0f32, 0f32);
        self.least.clear();
        for entries in subs {
            let (least, most) = ends(entries);
            range = if most - least > range { most - least } else { range };
            bias += least;
            self.least.push(least);
        }
        let largest = (65_535 / self.m.max(1)).clamp(1, 255) as f32;
        (self.scale, self.bias) = (range / largest, bias);
        // Constant tables have nothing to tell apart.
        let inverse = if range > 0.0 { largest / range } else { 0.0 };
        self.groups.clear();
        self.groups.resize(self.m.div_ceil(4), Group([0; GROUP_BYTES]));
        for (sub, (entries, &least)) in subs.iter().zip(&self.least).enumerate() {
            let bytes = &mut self.groups[sub / 4].0[16 * (sub % 4)..][..16];
            for (byte, &entry) in bytes.iter_mut().zip(entries) {
                // Rounds to nearest: the value is not negative and below 256. By way of i32, which vectorises.
                *byte = ((entry - least) * inverse + 0.5).min(largest) as i32 as u8;
            }
        }
    }

    /// The groups of four sub-spaces.
    #[inline]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// What a score may be off by through quantisation: half a step a sub-space (and f32 rounding).
    pub fn error_bound(&self) -> f32 {
        0.5 * self.scale * self.m as f32
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self { groups: Vec::new(), scale: 0.0, bias: 0.0, m: 0, least: Vec::new() }
    }
}

/// The least and the largest entry, by halves: a chain of sixteen comparisons would wait for each.
#[inline(always)]
fn ends(entries: &[f32; 16]) -> (f32, f32) {
    let (mut least, mut most) = (*entries, *entries);
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            least[i] = if least[i + width] < least[i] { least[i + width] } else { least[i] };
            most[i] = if most[i + width] > most[i] { most[i + width] } else { most[i] };
        }
    }
    (least[0], most[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_score_is_within_the_error_bound(table in prop::collection::vec(-100.0f32..100.0, 16 * 12), code in prop::collection::vec(0usize..16, 12)) {
            let tables = Tables::quantise(&table);
            let exact: f64 = code.iter().enumerate().map(|(s, &c)| f64::from(table[16 * s + c])).sum();
            let sum: u32 = code.iter().enumerate().map(|(s, &c)| u32::from(tables.groups[s / 4].0[16 * (s % 4) + c])).sum();
            let score = f64::from(tables.bias) + f64::from(tables.scale) * f64::from(sum);
            prop_assert!((score - exact).abs() <= f64::from(tables.error_bound()) * 1.0001 + 1e-3);
        }
    }

    #[test]
    fn constant_tables_score_their_constant() {
        let tables = Tables::quantise(&[2.5; 48]);
        assert_eq!((tables.scale, tables.bias, tables.error_bound()), (0.0, 7.5, 0.0));
    }
}
