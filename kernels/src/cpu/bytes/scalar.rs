//! Portable byte products: the obvious loops. Twin of `avx2` and `avx512`.

use super::{ByteKernel, Columns, LANES};

pub(super) fn kernel() -> ByteKernel {
    ByteKernel { distances, below, minima, seal }
}

fn distances(columns: &Columns, first_group: usize, rows: &[i8], squares: &[i32], out: &mut [i32]) {
    let rows = rows.chunks_exact(4 * columns.steps);
    for ((row, square), out) in rows.zip(squares).zip(out.chunks_exact_mut(columns.padded())) {
        for column in first_group * LANES..columns.padded() {
            let (group, lane) = (column / LANES, column % LANES);
            let blocks = &columns.blocks[group * columns.steps..(group + 1) * columns.steps];
            let mut product = 0i32;
            for (block, a) in blocks.iter().zip(row.as_chunks::<4>().0) {
                for (&a, &b) in a.iter().zip(&block.0[4 * lane..]) {
                    product = product.wrapping_add(i32::from(a) * i32::from(b));
                }
            }
            out[column] = square.wrapping_add(columns.constants[column]).wrapping_sub(product.wrapping_mul(2));
        }
    }
}

fn below(distances: &[i32], bound: i32, found: &mut Vec<u32>) {
    found.extend((0..distances.len() as u32).filter(|&i| distances[i as usize] <= bound));
}

#[inline(always)]
pub(super) fn minima(distances: &[i32]) -> [i32; 2 * LANES] {
    let mut minima = [i32::MAX; 2 * LANES];
    let (whole, tail) = distances.as_chunks::<{ 2 * LANES }>();
    for chunk in whole {
        for (least, &d) in minima.iter_mut().zip(chunk) {
            *least = d.min(*least);
        }
    }
    for (least, &d) in minima.iter_mut().zip(tail) {
        *least = d.min(*least);
    }
    minima
}

pub(super) fn seal(columns: &mut Columns) {
    let steps = columns.steps;
    for column in 0..columns.padded() {
        let (group, lane) = (column / LANES, column % LANES);
        let (mut square, mut sum) = (0i32, 0i32);
        for block in &columns.blocks[group * steps..(group + 1) * steps] {
            for &x in &block.0[4 * lane..4 * lane + 4] {
                square = square.wrapping_add(i32::from(x) * i32::from(x));
                sum = sum.wrapping_add(i32::from(x));
            }
        }
        columns.squares[column] = square;
        columns.constants[column] = square.wrapping_sub(sum.wrapping_mul(256));
    }
}
