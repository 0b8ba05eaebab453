//! One row against another, of every element type: in L1, and streamed or gathered from memory.

use std::hint::black_box;

use kiln_kernels::distance::{Isa, Kernels, RowKernel};
use kiln_kernels::{Backend, CpuBackend, Element, Lists, Metric, f16};
use rand::seq::index;

use super::sets::matrix;
use super::{Case, Store, Unit, case, cost, floats, rng};
use crate::timing::{Aligned, Windows};

/// Bytes of memory that one call reads.
const CALL: usize = 1 << 20;

pub fn add(smoke: bool, cases: &mut Vec<Case>) {
    for dim in [128, 960] {
        same::<f32>(dim, Store::L1, smoke, cases);
        same::<f16>(dim, Store::L1, smoke, cases);
        same::<u8>(dim, Store::L1, smoke, cases);
        same::<i8>(dim, Store::L1, smoke, cases);
    }
    for dim in [128, 960] {
        let kernel = |isa| f16::against_f32(isa);
        cases.push(pair("distance/f32xf16/l2", dim, Store::L1, smoke, kernel, |k| k.l2_squared, (3, Unit::F32)));
        let kernel = |isa| u8::against_f32(isa);
        cases.push(pair("distance/f32xu8/l2", dim, Store::L1, smoke, kernel, |k| k.l2_squared, (3, Unit::F32)));
    }
    same::<f32>(128, Store::Memory, smoke, cases);
    same::<u8>(128, Store::Memory, smoke, cases);
    gather::<f32>(128, smoke, cases);
    gather::<f16>(960, smoke, cases);
    gather::<u8>(128, smoke, cases);
}

/// From -1..1 to the range of the type.
pub fn element<T: Element>(x: f32) -> T {
    let bytes = match T::DTYPE {
        kiln_kernels::DType::F32 => x.to_le_bytes().to_vec(),
        kiln_kernels::DType::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        kiln_kernels::DType::U8 => vec![(x * 127.0 + 128.0) as u8],
        kiln_kernels::DType::I8 => vec![(x * 127.0) as i8 as u8],
    };
    bytemuck::pod_read_unaligned(&bytes)
}

/// `n` elements of either sign, or around the middle of u8.
pub fn elements<T: Element>(n: usize) -> Vec<T> {
    let some: Vec<T> = floats(n.min(1 << 20)).into_iter().map(element).collect();
    some.iter().copied().cycle().take(n).collect()
}

/// L2 and dot of rows of one type.
fn same<T: Kernels>(dim: usize, store: Store, smoke: bool, cases: &mut Vec<Case>) {
    let name = T::DTYPE.name();
    // Differences of bytes take nine bits, their products are those of 16-bit numbers.
    let (l2, dot) = if T::DTYPE.is_integer() { (Unit::Int16, Unit::Int8) } else { (Unit::F32, Unit::F32) };
    cases.push(pair(&format!("distance/{name}/l2"), dim, store, smoke, T::same, |k| k.l2_squared, (3, l2)));
    cases.push(pair(&format!("distance/{name}/dot"), dim, store, smoke, T::same, |k| k.dot, (2, dot)));
}

/// A row kernel's function.
type Distance<A, B> = fn(&[A], &[B]) -> f32;

/// A query against rows that fill half of L1, or memory.
fn pair<A: Element, B: Element>(
    name: &str,
    dim: usize,
    store: Store,
    smoke: bool,
    kernel: fn(Isa) -> RowKernel<A, B>,
    of: fn(RowKernel<A, B>) -> Distance<A, B>,
    (operations, unit): (usize, Unit),
) -> Case {
    let row = dim * size_of::<B>();
    let n = (store.bytes(smoke) / row).max(1);
    let (each, read, shape) = match store {
        Store::Memory => ((CALL / row).min(n), row, format!("{dim}/memory")),
        _ => (n, row + dim * size_of::<A>(), format!("{dim}")),
    };
    case(format!("{name}/{shape}"), cost(each * read, store, operations * each * dim, unit), move || {
        let (query, rows) = (Aligned::new(&elements::<A>(dim)), Aligned::new(&elements::<B>(n * dim)));
        let distance = of(kernel(Isa::best()));
        let mut windows = Windows::new(n * dim, each * dim);
        move || {
            let (query, rows) = (black_box(query.get()), &rows.get()[windows.advance()]);
            black_box(rows.chunks_exact(dim).map(|row| distance(query, row)).fold(0.0, |a: f32, b| a + b));
        }
    })
}

/// `Backend::gather_distances`: rows at random places of memory, as a walk through a graph wants them.
fn gather<T: Kernels>(dim: usize, smoke: bool, cases: &mut Vec<Case>) {
    const IDS: usize = 1024;
    let row = dim * size_of::<T>();
    let n = (Store::Memory.bytes(smoke) / row).max(IDS);
    let unit = if T::DTYPE.is_integer() { Unit::Int16 } else { Unit::F32 };
    let name = format!("gather_distances/{}/l2/{dim}/memory", T::DTYPE.name());
    cases.push(case(name, cost(IDS * row, Store::Memory, 3 * IDS * dim, unit), move || {
        let backend = CpuBackend::new();
        let base = backend.upload(matrix::<T>(n, dim), Metric::L2).expect("rows of a legal shape");
        let query = backend.upload(matrix::<T>(1, dim), Metric::L2).expect("rows of a legal shape");
        // Every row once, a thousand a call.
        let order = index::sample(&mut rng(), n, n).into_iter().map(|id| id as u32).collect::<Vec<_>>();
        let lists: Vec<Lists<u32>> = order.chunks_exact(IDS).map(|ids| Lists::from_iter([ids.to_vec()])).collect();
        let mut next = 0;
        move || {
            next = (next + 1) % lists.len();
            black_box(backend.gather_distances(&query, &base, &lists[next]).expect("ids of the base"));
        }
    }));
}
