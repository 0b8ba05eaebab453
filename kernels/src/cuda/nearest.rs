//! Exact k nearest neighbours on the device.
//!
//! In: queries and base rows resident there. Out: [`Neighbors`]. Products on tensor cores select; where they are exact
//! (bytes) they also answer. Elsewhere a few more than k are selected and scored exactly, and an error bound certifies
//! that nothing else could belong into the answer; queries it cannot certify (ties at the k-th place, overflow) are
//! answered by scanning the base with the exact kernel. Twin: [`crate::plain::ranked`].

use ndarray::s;

use super::driver::Gpu;
use super::product::{Certificate, Form, Item, Mode, RowSet, Search, TILE};
use super::rows::CudaRows;
use crate::backend::BackendError;
use crate::batches::in_batches;
use crate::topk::Neighbors;

const OPERATION: &str = "nearest";

/// Queries of a batch at most.
const BATCH: usize = 1 << 20;

/// Blocks that are wanted for each multiprocessor: with fewer tiles of queries the base is searched in several runs.
const BLOCKS_A_MULTIPROCESSOR: usize = 4;

/// Base rows of a run at least.
const LEAST_RUN: usize = 8 * TILE;

/// For each query its `k` nearest base rows.
pub(super) fn nearest(gpu: &Gpu, queries: &CudaRows, base: &CudaRows, k: usize) -> Result<Neighbors, BackendError> {
    let mut neighbors = Neighbors::padded(queries.n, k);
    if k == 0 || base.n == 0 {
        return Ok(neighbors);
    }
    // Beyond the base there is only padding.
    let k = k.min(base.n);
    let form = Form::of(queries.dtype, base.dtype);
    let inverse_norms = queries.inverse_norms(gpu, OPERATION, base.metric)?;
    let search = Search {
        gpu,
        operation: OPERATION,
        form,
        mode: Mode::query(base.metric),
        rows: RowSet::new(queries, None, form).with_inverse_norms(&inverse_norms),
        base: RowSet::new(base, None, form),
        k,
        exclude_self: false,
        certificate: Certificate::new(queries, base, form),
    };
    let runs = |queries: usize| {
        let wanted = BLOCKS_A_MULTIPROCESSOR * gpu.properties().multiprocessors as usize;
        wanted.div_ceil(queries.div_ceil(TILE)).clamp(1, base.n.div_ceil(LEAST_RUN))
    };
    let room = gpu.memory_left(OPERATION)? as usize / 2;
    let batch = (room / search.bytes_a_row(1)).clamp(1, BATCH).min(queries.n);
    in_batches(queries.n, batch, |range| {
        let count = range.len();
        let items = items(range.start, count, base.n, runs(count));
        let lists = items.len().div_ceil(count.div_ceil(TILE)) * count;
        let device_lists = gpu.alloc(OPERATION, lists * search.selected())?;
        search.select(&items, &device_lists)?;
        let merged = search.merge(device_lists, lists / count, count)?;
        let (answers, uncertain) = search.answer(&merged, range.start, count)?;
        drop(merged);
        if let Some(uncertain) = uncertain {
            let flags = gpu.download(OPERATION, &uncertain, 0..count)?;
            let which: Vec<u32> = (0..count as u32).filter(|&i| flags[i as usize] != 0).collect();
            if !which.is_empty() {
                tracing::debug!("{OPERATION}: {} of {count} queries are answered by scanning", which.len());
            }
            in_batches(which.len(), which.len(), |part| search.scan(&which[part], range.start, base.n, &answers))?;
        }
        let ids = gpu.download(OPERATION, &answers.ids, 0..count * k)?;
        let distances = gpu.download(OPERATION, &answers.distances, 0..count * k)?;
        for (i, query) in range.enumerate() {
            let place = i * k..(i + 1) * k;
            neighbors.ids.slice_mut(s![query, ..k]).iter_mut().zip(&ids[place.clone()]).for_each(|(to, &id)| *to = id);
            neighbors
                .distances
                .slice_mut(s![query, ..k])
                .iter_mut()
                .zip(&distances[place])
                .for_each(|(to, &d)| *to = d);
        }
        Ok(())
    })?;
    Ok(neighbors)
}

/// Tiles of `count` rows from `first`, against at most `runs` runs of the base; lists by run, then by row.
fn items(first: usize, count: usize, base: usize, runs: usize) -> Vec<Item> {
    let run = base.div_ceil(runs).next_multiple_of(TILE);
    let mut items = Vec::new();
    for (number, base_first) in (0..base).step_by(run).enumerate() {
        for row in (0..count).step_by(TILE) {
            items.push(Item {
                row_first: (first + row) as u32,
                row_count: TILE.min(count - row) as u32,
                base_first: base_first as u32,
                base_count: run.min(base - base_first) as u32,
                list: (number * count + row) as u64,
            });
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ndarray::Array2;

    use super::*;
    use crate::conformance::random_rows;
    use crate::cpu::CpuBackend;
    use crate::cuda::{CudaBackend, Emulation};
    use crate::{Backend, DType, Element, Metric, Rows};

    /// The answers of the emulated device and of the CPU.
    fn both(emulation: Emulation, queries: &Rows, base: &Rows, metric: Metric, k: usize) -> Option<[Neighbors; 2]> {
        fn answers<B: Backend>(backend: &B, queries: &Rows, base: &Rows, metric: Metric, k: usize) -> Neighbors {
            let resident = |rows: &Rows| backend.upload(Arc::new(rows.clone()), metric).expect("upload");
            backend.nearest(&resident(queries), &resident(base), k).expect("nearest")
        }
        let cuda = CudaBackend::emulated(emulation).ok()?;
        Some([answers(&cuda, queries, base, metric, k), answers(&CpuBackend::new(), queries, base, metric, k)])
    }

    #[test]
    fn equal_rows_rank_by_number() {
        // All equal, and only five values: every place is a tie.
        for values in [1, 5] {
            let base = Array2::from_shape_fn((1500, 9), |(i, j)| ((i * 7 % values) * (j + 1)) as u8);
            let queries = Array2::from_shape_fn((3, 9), |(i, j)| (i * j) as u8);
            for metric in [Metric::L2, Metric::InnerProduct] {
                let floats = |rows: &Array2<u8>| f32::into_rows(rows.mapv(f32::from));
                let (q, b) = (u8::into_rows(queries.clone()), u8::into_rows(base.clone()));
                for (q, b) in [(q, b), (floats(&queries), floats(&base))] {
                    let Some([got, expected]) = both(Emulation::default(), &q, &b, metric, 37) else { return };
                    assert_eq!(got, expected, "{metric} {} {values}", q.dtype());
                }
            }
        }
    }

    #[test]
    fn lists_beyond_shared_memory_and_long_rows_are_right() {
        for (n, dim, k) in [(2500, 5, 400), (90, 3000, 64), (700, 700, 90)] {
            for dtype in [DType::U8, DType::F16, DType::F32] {
                let (queries, base) = (random_rows(dtype, 2, dim, 3), random_rows(dtype, n, dim, 4));
                let Some([got, expected]) = both(Emulation::default(), &queries, &base, Metric::L2, k) else { return };
                let same = got.ids.iter().zip(&expected.ids).filter(|(a, b)| a == b).count();
                assert!(same * 100 >= got.ids.len() * 98, "{dtype} {n}x{dim} k {k}: {same} of {}", got.ids.len());
                if dtype == DType::U8 {
                    assert_eq!(got, expected, "{n}x{dim} k {k}");
                }
            }
        }
    }

    #[test]
    fn products_that_overflow_decide_nothing() {
        // Squares beyond f32 in some rows only.
        let large = |i: usize| if i.is_multiple_of(3) { 3e19f32 } else { 1.0 };
        let base = f32::into_rows(Array2::from_shape_fn((400, 4), |(i, j)| large(i) * (i + j) as f32));
        let queries = f32::into_rows(Array2::from_shape_fn((2, 4), |(i, j)| (i + j) as f32));
        let Some([got, expected]) = both(Emulation::default(), &queries, &base, Metric::L2, 20) else { return };
        assert_eq!(got.ids, expected.ids);
    }

    #[test]
    fn little_memory_makes_batches_smaller() {
        let (queries, base) = (random_rows(DType::U8, 700, 20, 5), random_rows(DType::U8, 300, 20, 6));
        let all = Emulation::default();
        let little = Emulation { free_memory: Some(130 << 10), ..Emulation::default() };
        let Some([expected, _]) = both(all, &queries, &base, Metric::L2, 50) else { return };
        let Some([got, _]) = both(little, &queries, &base, Metric::L2, 50) else { return };
        assert_eq!(got, expected);
        let cuda =
            CudaBackend::emulated(Emulation { free_memory: Some(40 << 10), ..Emulation::default() }).expect("emulator");
        let resident = |rows: &Rows| cuda.upload(Arc::new(rows.clone()), Metric::L2);
        let refused = match (resident(&queries), resident(&base)) {
            (Ok(queries), Ok(base)) => cuda.nearest(&queries, &base, 1 << 13).map(|_| ()),
            (queries, base) => queries.and(base).map(|_| ()),
        };
        assert!(matches!(refused, Err(BackendError::OutOfMemory { .. })), "{refused:?}");
    }
}
