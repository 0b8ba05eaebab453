//! Codes: rotations, a node's coded neighbours, product quantiser tables and scores.

use std::hint::black_box;

use kiln_kernels::Metric;
use kiln_kernels::distance::Isa;
use kiln_kernels::edge_codes::{EdgeCodes, EdgeEncoder, EdgeTraining, LANES};
use kiln_kernels::rotation::Rotation;
use rand::seq::SliceRandom;

use super::sets::quantizer;
use super::{Case, Store, Unit, case, cost, floats, rng};
use crate::timing::Windows;

/// Neighbours of a node.
const DEGREE: usize = 32;

pub fn add(smoke: bool, cases: &mut Vec<Case>) {
    for dim in [128, 384, 960] {
        let name = format!("rotation/{dim}");
        cases.push(case(name, cost(2 * 4 * dim, Store::L1, rotation_operations(dim), Unit::F32), move || {
            let (rotation, mut x) = (Rotation::new(dim, 1, Isa::best()), floats(dim));
            move || rotation.apply(black_box(&mut x))
        }));
    }
    for dim in [128, 384, 960] {
        prepare(dim, cases);
    }
    for dim in [128, 384] {
        for bits in [1, 2, 3, 4] {
            encode(dim, bits, cases);
        }
    }
    for dim in [128, 384] {
        for bits in [1, 2, 3, 4, 8] {
            neighbors(dim, bits, Store::L1, smoke, cases);
        }
    }
    neighbors(128, 4, Store::Memory, smoke, cases);
    neighbors(384, 1, Store::Memory, smoke, cases);
    for (dim, m) in [(128, 32), (960, 240)] {
        for bits in [8, 4] {
            table(dim, m, bits, cases);
            score(dim, m, bits, cases);
        }
    }
}

/// Additions of the transforms and the multiplications before them.
fn rotation_operations(dim: usize) -> usize {
    let stages = dim.ilog2() as usize;
    let rounds = if dim.is_power_of_two() { 2 } else { 6 };
    rounds * (1 << stages) * (1 + stages)
}

fn edge_codes(dim: usize, bits: u8) -> EdgeCodes {
    // Rows of `floats` are about (dim / 3)^(1/2) long.
    let training =
        EdgeTraining { mean: &vec![0.0; dim], radius: (dim as f32).sqrt(), bits, metric: Metric::L2, seed: 1 };
    EdgeCodes::train(training, Isa::best())
}

/// A query: a rotation, its largest coordinate, rounding, its norm (nine operations a coordinate).
fn prepare(dim: usize, cases: &mut Vec<Case>) {
    let operations = rotation_operations(dim) + 9 * dim;
    cases.push(case(
        format!("edge_codes/prepare/{dim}"),
        cost(2 * 4 * dim, Store::L1, operations, Unit::F32),
        move || {
            let (codes, query) = (edge_codes(dim, 4), floats(dim));
            move || {
                black_box(codes.prepare(black_box(&query).clone()));
            }
        },
    ));
}

/// A node and its neighbours, rotated: 14 operations a coordinate of a neighbour.
fn encode(dim: usize, bits: u8, cases: &mut Vec<Case>) {
    let operations = DEGREE * 14 * dim;
    let name = format!("edge_codes/encode/{bits}bit/{DEGREE}x{dim}");
    cases.push(case(name, cost((DEGREE + 1) * dim * 4, Store::L2, operations, Unit::F32), move || {
        let codes = edge_codes(dim, bits);
        let rotated = rotated(&codes, &floats((DEGREE + 1) * dim));
        // An encoder borrows its codes, and a closure cannot borrow from itself.
        let mut encoder = EdgeEncoder::new(Box::leak(Box::new(codes)));
        let mut out = vec![0; DEGREE / LANES * kiln_kernels::edge_codes::block_bytes(dim, bits)];
        move || {
            let (node, neighbors) = black_box(&rotated).split_first().expect("a node");
            encoder.encode(node, |place| neighbors.get(place).map(Vec::as_slice), &mut out);
            black_box(&out);
        }
    }));
}

/// Each row of `rows` `(n, dim)` as an encoder takes it.
fn rotated(codes: &EdgeCodes, rows: &[f32]) -> Vec<Vec<f32>> {
    let rotate = |row: &[f32]| {
        let mut row = row.to_vec();
        row.resize(codes.padded_dim(), 0.0);
        codes.rotate(&mut row);
        row
    };
    rows.chunks_exact(codes.dim()).map(rotate).collect()
}

/// The neighbours of one node in L1 again and again, or of many nodes in random order; an eighth is below the bound.
fn neighbors(dim: usize, bits: u8, store: Store, smoke: bool, cases: &mut Vec<Case>) {
    let node = DEGREE / LANES * kiln_kernels::edge_codes::block_bytes(dim, bits);
    let memory = store == Store::Memory;
    let nodes = if memory { Store::Memory.bytes(smoke) / node } else { 1 };
    let each = nodes.min(256);
    let shape = format!("{DEGREE}x{dim}{}", if memory { "/memory" } else { "" });
    let cost = cost(each * node, store, each * 2 * DEGREE * dim, Unit::Int8);
    cases.push(case(format!("edge_codes/neighbors_below/{bits}bit/{shape}"), cost, move || {
        let codes = edge_codes(dim, bits);
        let rows = floats((DEGREE + 2) * dim);
        let mut blocks = vec![0; node];
        let rotated = rotated(&codes, &rows);
        let neighbor = |place: usize| rotated.get(2 + place).map(Vec::as_slice);
        EdgeEncoder::new(&codes).encode(&rotated[1], neighbor, &mut blocks);
        let query = codes.prepare(rows[..dim].to_vec());
        let (base, ids) = (1.0, (0..DEGREE as u32).collect::<Vec<_>>());
        let mut found = Vec::new();
        codes.neighbors_below(&query, base, f32::INFINITY, &ids, &blocks, &mut found);
        found.sort_unstable();
        let bound = found[DEGREE / 8].distance;
        let blocks = blocks.repeat(nodes);
        let mut order: Vec<usize> = (0..nodes).collect();
        order.shuffle(&mut rng());
        let mut windows = Windows::new(nodes, each);
        move || {
            for &at in &order[windows.advance()] {
                found.clear();
                codes.neighbors_below(&query, base, bound, &ids, &blocks[at * node..(at + 1) * node], &mut found);
                black_box(&found);
            }
        }
    }));
}

/// A query's table: every centroid once.
fn table(dim: usize, m: usize, bits: u8, cases: &mut Vec<Case>) {
    let bytes = (dim * 4) << bits;
    let store = if bytes > Store::L2.bytes(false) / 16 { Store::L2 } else { Store::L1 };
    let name = format!("pq/l2_table/{bits}bit/{dim}/m{m}");
    cases.push(case(name, cost(bytes, store, (3 * dim) << bits, Unit::F32), move || {
        let (quantizer, query) = (quantizer(dim, m, bits), floats(dim));
        move || drop(black_box(quantizer.l2_table(black_box(&query))))
    }));
}

/// Scores of 256 codes: a code and as many entries of a table as there are sub-spaces.
fn score(dim: usize, m: usize, bits: u8, cases: &mut Vec<Case>) {
    const CODES: usize = 256;
    let code_bytes = m * usize::from(bits) / 8;
    // A table of 240 times 256 entries is larger than L1.
    let store = if m << bits > 8192 { Store::L2 } else { Store::L1 };
    let name = format!("pq/score/{bits}bit/{CODES}/m{m}");
    cases.push(case(name, cost(CODES * (code_bytes + 4 * m), store, CODES * m, Unit::F32), move || {
        let quantizer = quantizer(dim, m, bits);
        let table = quantizer.l2_table(&floats(dim));
        let codes: Vec<u8> = floats(CODES * code_bytes).iter().map(|x| x.to_bits() as u8).collect();
        move || {
            let scores = codes.chunks_exact(code_bytes).map(|code| quantizer.score(&table, code));
            black_box(scores.fold(f32::INFINITY, f32::min));
        }
    }));
}
