//! The plain twin: one neighbour and one coordinate at a time.

use half::f16;

use super::{FACTOR_BYTES, LANES, Scan, planes};
use crate::topk::Scored;

pub(super) fn scan(bits: u8, scan: Scan<'_>, ids: &[u32], blocks: &[u8], found: &mut Vec<Scored>) {
    let block_bytes = blocks.len() / (ids.len() / LANES).max(1);
    for (ids, block) in ids.chunks_exact(LANES).zip(blocks.chunks_exact(block_bytes.max(1))) {
        let (codes, factors) = block.split_at(block_bytes - FACTOR_BYTES);
        let factor = |at: usize| f16::from_le_bytes([factors[2 * at], factors[2 * at + 1]]).to_f32();
        for (lane, &id) in ids.iter().enumerate() {
            let product = dot(bits, scan.coordinates, codes, lane);
            let distance = estimate(&scan, factor(lane), factor(LANES + lane), product);
            if distance < scan.bound {
                found.push(Scored { distance, id });
            }
        }
    }
}

/// The estimate from its parts, in the order of operations that every instruction set keeps.
#[inline(always)]
pub(super) fn estimate(scan: &Scan<'_>, additive: f32, multiplicative: f32, product: i32) -> f32 {
    let product = (product as f32 - scan.offset) * scan.unit;
    multiplicative.mul_add(product, additive.mul_add(scan.additive_unit, scan.base))
}

/// Sum of level times query coordinate over all coordinates of one lane.
fn dot(bits: u8, query: &[i8], codes: &[u8], lane: usize) -> i32 {
    let mut sum = 0;
    let mut plane_at = 0;
    for &(width, shift) in planes(bits) {
        let per_byte = 8 / width as usize;
        let words = query.len() / (4 * per_byte);
        for word in 0..words {
            for byte in 0..4 {
                let packed = codes[plane_at + (word * LANES + lane) * 4 + byte];
                for part in 0..per_byte {
                    let level = u32::from(packed) >> (part as u32 * width) & ((1 << width) - 1);
                    let coordinate = query[(word * per_byte + part) * 4 + byte];
                    sum += (level << shift) as i32 * i32::from(coordinate);
                }
            }
        }
        plane_at += words * LANES * 4;
    }
    sum
}
