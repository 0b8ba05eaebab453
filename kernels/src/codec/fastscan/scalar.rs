//! The slow, obvious twin of every block scan, and what it shares with them: the score of a row.

use super::{BLOCK, FACTOR_BYTES, Factors, GROUP_BYTES, Layout, Probe, Scores};

/// See [`FastScan::score`](super::FastScan::score).
pub(super) fn score(probes: &[Probe<'_>], layout: Layout, blocks: &[u8], out: &mut Scores) {
    for (number, block) in blocks.chunks_exact(layout.stride).enumerate() {
        let (factors, codes) = block.split_at(layout.factors.bytes());
        for (q, probe) in probes.iter().enumerate() {
            let sums = sums(probe, layout, codes);
            out.masks[q][number] = mask(probe, layout.factors, factors, &sums, &mut out.scores[q][number]);
        }
    }
}

fn sums(probe: &Probe<'_>, layout: Layout, codes: &[u8]) -> [u16; BLOCK] {
    let mut sums = [0u16; BLOCK];
    for (table, bytes) in probe.tables.groups().iter().zip(codes.chunks_exact(GROUP_BYTES)).take(layout.groups) {
        for (row, sum) in sums.iter_mut().enumerate() {
            for sub in 0..4 {
                let code = (bytes[4 * (row % 16) + sub] >> (4 * (row / 16))) & 15;
                *sum += u16::from(table.0[16 * sub + usize::from(code)]);
            }
        }
    }
    sums
}

/// Scores of a block's rows from their sums, and the mask of those whose lower bound is within the bound. Products and
/// sums are rounded one by one, in this order, on every instruction set.
#[inline(always)]
pub(super) fn mask(
    probe: &Probe<'_>,
    kind: Factors,
    factors: &[u8],
    sums: &[u16; BLOCK],
    scores: &mut [f32; BLOCK],
) -> u32 {
    let (scale, bias) = (probe.tables.scale, probe.tables.bias);
    let mut within = [false; BLOCK];
    match kind {
        Factors::Add => {
            let base = probe.base + bias;
            let add = factor(factors, 0);
            for row in 0..BLOCK {
                scores[row] = base + (add[row] + scale * f32::from(sums[row]));
                within[row] = scores[row] <= probe.bound;
            }
        }
        Factors::AddMulErr => {
            let (add, mul, err) = (factor(factors, 0), factor(factors, 1), factor(factors, 2));
            for row in 0..BLOCK {
                let sum = bias + scale * f32::from(sums[row]);
                scores[row] = probe.base + (add[row] + mul[row] * sum);
                within[row] = scores[row] - probe.gap * err[row] <= probe.bound;
            }
        }
    }
    within.iter().rev().fold(0, |mask, &within| mask << 1 | u32::from(within))
}

#[inline(always)]
fn factor(factors: &[u8], number: usize) -> [f32; BLOCK] {
    let bytes = factors[number * FACTOR_BYTES..][..FACTOR_BYTES].as_chunks::<4>().0;
    std::array::from_fn(|row| f32::from_le_bytes(bytes[row]))
}
