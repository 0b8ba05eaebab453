//! Robust prune on the device.
//!
//! In: points and candidates as row numbers. Out: kept edges. Kernels: `prune.cu`. Lists of like length share a launch, so
//! that a block's shared memory is sized by its own candidates; those that fit no block take the slower kernel that
//! follows the definition. Twin: [`crate::plain::robust_prune`].

use std::collections::BTreeMap;

use bytemuck::{Pod, Zeroable};

use super::driver::{Arg, Buffer, Gpu};
use super::product::{Form, Mode, RowSet};
use super::rows::CudaRows;
use crate::backend::{BackendError, Lists, PruneParams};
use crate::batches::in_batches;

const OPERATION: &str = "robust prune";
const THREADS: u32 = 128;

/// Candidates of a tile of pairs; and of a list at most: a warp's lanes hold 32 each.
const PAIRS: usize = 64;
const LONGEST: usize = 1024;

/// Points of a batch at most.
const BATCH: usize = 1 << 20;

/// `PruneArguments` of `prune.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PruneArguments {
    base: RowSet,
    points: u64,
    which: u64,
    begins: u64,
    counts: u64,
    candidates: u64,
    kept: u64,
    degrees: u64,
    scratch: u64,
    mode: u32,
    width: u32,
    max_degree: u32,
    alpha: f32,
}

/// Points and their candidates on the device, to be pruned.
pub(super) struct Pruning<'a> {
    pub gpu: &'a Gpu,
    pub operation: &'static str,
    pub base: &'a CudaRows,
    /// Row numbers `(points)`.
    pub points: Buffer<u32>,
    /// Where each point's candidates begin, and how many they are, `(points)`.
    pub begins: Buffer<u64>,
    pub counts: Buffer<u32>,
    /// Row numbers.
    pub candidates: Buffer<u32>,
    pub params: PruneParams,
}

/// Edges on the device.
pub(super) struct Kept {
    /// Row numbers `(points, max_degree)`, padded by [`PAD_ID`](crate::topk::PAD_ID).
    pub edges: Buffer<u32>,
    /// How many of them `(points)`.
    pub degrees: Buffer<u32>,
}

/// Robust prune of each point's candidates.
pub(super) fn robust_prune(
    gpu: &Gpu,
    base: &CudaRows,
    points: &[u32],
    candidates: &Lists<u32>,
    params: PruneParams,
) -> Result<Lists<u32>, BackendError> {
    let (mut all, degree) = (Lists::default(), params.max_degree);
    if degree == 0 {
        all.offsets.resize(points.len() + 1, 0);
        return Ok(all);
    }
    let room = gpu.memory_left(OPERATION)? as usize / 2;
    let mean = candidates.items.len() / points.len().max(1) + 1;
    let batch = (room / (mean * 4 + degree * 4 + 20)).clamp(1, BATCH);
    in_batches(points.len(), batch, |range| {
        let (begin, end) = (candidates.offsets[range.start], candidates.offsets[range.end]);
        let offsets = &candidates.offsets[range.start..=range.end];
        let begins: Vec<u64> = offsets.iter().map(|&offset| (offset - begin) as u64).collect();
        let counts: Vec<u32> = offsets.windows(2).map(|w| (w[1] - w[0]) as u32).collect();
        let pruning = Pruning {
            gpu,
            operation: OPERATION,
            base,
            points: gpu.upload(OPERATION, &points[range.clone()])?,
            begins: gpu.upload(OPERATION, &begins)?,
            counts: gpu.upload(OPERATION, &counts)?,
            candidates: gpu.upload(OPERATION, &candidates.items[begin..end])?,
            params,
        };
        let kept = pruning.new_edges()?;
        let longest = pruning.longest_list();
        let mut classes: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (position, &count) in (0..).zip(&counts) {
            let width = (count as usize).max(1).next_multiple_of(PAIRS);
            classes.entry(if width <= longest { width } else { usize::MAX }).or_default().push(position);
        }
        for (width, which) in classes {
            pruning.some(&gpu.upload(OPERATION, &which)?, width, &kept)?;
        }
        let edges = gpu.download(OPERATION, &kept.edges, 0..range.len() * degree)?;
        let degrees = gpu.download(OPERATION, &kept.degrees, 0..range.len())?;
        edges.chunks_exact(degree).zip(degrees).for_each(|(list, count)| all.push(&list[..count as usize]));
        Ok(())
    })?;
    Ok(all)
}

impl Pruning<'_> {
    /// Room for the edges of all points.
    pub(super) fn new_edges(&self) -> Result<Kept, BackendError> {
        let count = self.points.len();
        let edges = self.gpu.alloc(self.operation, count * self.params.max_degree)?;
        Ok(Kept { edges, degrees: self.gpu.alloc(self.operation, count)? })
    }

    /// Prunes all points, whose lists have at most `longest` candidates.
    pub(super) fn all(&self, longest: usize, kept: &Kept) -> Result<(), BackendError> {
        self.launch(0, self.points.len(), longest.max(1).next_multiple_of(PAIRS), kept)
    }

    /// Prunes the points at positions `which`, whose lists have at most `width` candidates.
    fn some(&self, which: &Buffer<u32>, width: usize, kept: &Kept) -> Result<(), BackendError> {
        self.launch(which.address(), which.len(), width, kept)
    }

    /// Prunes the points at `count` positions of `which` from `first` on, whose lists have at most `width` candidates.
    pub(super) fn class(
        &self,
        which: &Buffer<u32>,
        first: usize,
        count: usize,
        width: usize,
        kept: &Kept,
    ) -> Result<(), BackendError> {
        self.launch(which.address() + (first * size_of::<u32>()) as u64, count, width, kept)
    }

    /// `which`: the address of `count` positions; 0: all in order.
    fn launch(&self, which: u64, count: usize, width: usize, kept: &Kept) -> Result<(), BackendError> {
        let form = self.form();
        let fits = width <= self.longest_list();
        let scratch: Buffer<u64> = self.gpu.alloc(self.operation, if fits { 0 } else { 2 * self.candidates.len() })?;
        let arguments = PruneArguments {
            base: RowSet::new(self.base, None, form),
            points: self.points.address(),
            which,
            begins: self.begins.address(),
            counts: self.counts.address(),
            candidates: self.candidates.address(),
            kept: kept.edges.address(),
            degrees: kept.degrees.address(),
            scratch: scratch.address(),
            mode: Mode::graph(self.base.metric) as u32,
            width: if fits { width as u32 } else { 0 },
            max_degree: self.params.max_degree as u32,
            alpha: self.params.alpha,
        };
        let (kernel, shared) = match form {
            _ if !fits => ("prune_long", 0),
            Form::U8 => ("prune_u8", shared_bytes(form, width)),
            Form::I8 => ("prune_i8", shared_bytes(form, width)),
            Form::F16 | Form::Float => ("prune_float", shared_bytes(form, width)),
        };
        let arguments = [Arg::Struct(bytemuck::bytes_of(&arguments))];
        self.gpu.launch(self.operation, kernel, [count as u32, 1, 1], THREADS, shared as u32, &arguments)
    }

    /// In what form candidates are multiplied: bytes only under L2.
    fn form(&self) -> Form {
        let form = Form::of(self.base.dtype, self.base.dtype);
        if form.is_exact() && Mode::graph(self.base.metric) == Mode::L2 { form } else { Form::Float }
    }

    /// Candidates of a list that fits a block, a multiple of [`PAIRS`].
    fn longest_list(&self) -> usize {
        let (form, limit) = (self.form(), self.gpu.properties().shared_memory_per_block as usize);
        (PAIRS..=LONGEST).step_by(PAIRS).take_while(|&width| shared_bytes(form, width) <= limit).last().unwrap_or(0)
    }
}

/// Dynamic shared memory for lists of `width`.
fn shared_bytes(form: Form, width: usize) -> usize {
    24 * width + width * width / 4 + 4 * form.stage_bytes(PAIRS)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conformance::random_rows;
    use crate::cuda::{CudaBackend, Emulation};
    use crate::{Backend, DType, Metric, plain};

    #[test]
    fn lists_of_every_length_are_pruned_as_by_the_twin() {
        let Ok(cuda) = CudaBackend::emulated(Emulation::default()) else { return };
        let lengths = [0, 1, 2, 63, 64, 65, 130, 200, 500, 700, 1300];
        for (dtype, metric) in [
            (DType::U8, Metric::L2),
            (DType::I8, Metric::L2),
            (DType::F32, Metric::L2),
            (DType::U8, Metric::Cosine),
            (DType::F16, Metric::InnerProduct),
        ] {
            let rows = Arc::new(random_rows(dtype, 1500, 13, 1));
            let floats = rows.view().to_f32();
            let resident = cuda.upload(rows, metric).expect("upload");
            let points: Vec<u32> = (0..lengths.len() as u32).map(|i| i * 100).collect();
            let list = |(i, &length): (usize, &usize)| -> Vec<u32> {
                (0..length).map(|j| ((i * 131 + j * 7 + j * j % 11) % 1500) as u32).collect()
            };
            let candidates: Lists<u32> = lengths.iter().enumerate().map(list).collect();
            for (max_degree, alpha) in [(1, 1.0), (40, 1.0), (64, 1.2), (500, 1.3)] {
                let params = PruneParams { max_degree, alpha };
                let got = cuda.robust_prune(&resident, &points, &candidates, params).expect("prune");
                let expected = plain::robust_prune(metric, floats.view(), &points, &candidates, params);
                if dtype.is_integer() && metric == Metric::L2 {
                    assert_eq!(got, expected, "{dtype} {params:?}");
                }
                let same = got.iter().zip(expected.iter()).filter(|(got, expected)| got == expected).count();
                assert!(same + 1 >= points.len(), "{dtype} {metric} {params:?}: {same} of {} agree", points.len());
            }
        }
    }

    #[test]
    fn nothing_is_kept_of_nothing() {
        let Ok(cuda) = CudaBackend::emulated(Emulation::default()) else { return };
        let resident = cuda.upload(Arc::new(random_rows(DType::U8, 5, 3, 1)), Metric::L2).expect("upload");
        let prune = |points: &[u32], lists: &[&[u32]], max_degree: usize| {
            let candidates = lists.iter().map(|list| list.to_vec()).collect();
            cuda.robust_prune(&resident, points, &candidates, PruneParams { max_degree, alpha: 1.2 }).expect("prune")
        };
        assert_eq!(prune(&[], &[], 4).len(), 0);
        assert_eq!(prune(&[1, 2], &[&[], &[2, 2]], 4), [vec![], vec![]].into_iter().collect());
        assert_eq!(prune(&[1], &[&[0, 3]], 0), [vec![]].into_iter().collect());
    }
}
