//! Rows on the device: uploaded once in shards of whole rows, gathered or widened into scratch for a stage.
//!
//! In memory a row is padded by zeros to whole units of 16 bytes; beside it lie two words, as `wgsl/rows.wgsl` says.

use std::ops::Range;

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::device::{Buffer, Pace, Task, fold};
use super::pipelines::{Commands, Constants, Kernel};
use crate::backend::BackendError;
use crate::cpu::row;
use crate::dispatch_rows;
use crate::distance::{GraphAux, GraphGeometry, Isa, Kernels, inverse_norm};
use crate::element::DType;
use crate::metric::Metric;
use crate::rows::{Rows, RowsView};

/// Bytes of a unit.
pub(super) const UNIT: usize = 16;
/// Bytes of the numbers beside a row.
pub(super) const NUMBERS: usize = 8;

/// How rows lie in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) dtype: DType,
    pub(super) dim: usize,
}

impl Shape {
    /// Units of a row, at least 1.
    pub(super) fn stride(self) -> usize {
        (self.dim * self.dtype.bytes()).div_ceil(UNIT).max(1)
    }

    /// Quads of a row that hold coordinates.
    pub(super) fn quads(self) -> u32 {
        self.dim.div_ceil(4) as u32
    }

    /// Bytes of a row.
    pub(super) fn row_bytes(self) -> usize {
        self.stride() * UNIT
    }

    /// Rows that one binding holds, at least 1: a row has at most 128 KiB.
    pub(super) fn rows_in(self, bytes: u64) -> usize {
        ((bytes / self.row_bytes().max(NUMBERS) as u64) as usize).max(1)
    }
}

/// Rows side by side in one buffer, with their numbers.
pub(super) struct Block {
    /// `(rows, stride)` units.
    pub(super) rows: Buffer,
    /// `(rows, 2)` words.
    pub(super) numbers: Buffer,
    pub(super) shape: Shape,
    /// The rows that it holds, of all.
    pub(super) range: Range<usize>,
}

impl Block {
    /// Room for rows of `range`.
    pub(super) fn allocate(task: Task<'_>, shape: Shape, range: Range<usize>) -> Result<Self, BackendError> {
        let bytes = |each: usize| (range.len() * each) as u64;
        let rows = task.allocate(bytes(shape.row_bytes()))?;
        let numbers = task.allocate(bytes(NUMBERS))?;
        Ok(Self { rows, numbers, shape, range })
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }
}

/// Rows resident on a device in shards, with what their metric needs beside them.
pub struct WgpuRows {
    pub(super) n: usize,
    pub(super) shape: Shape,
    pub(super) metric: Metric,
    /// Consecutive, each below the largest binding.
    pub(super) shards: Vec<Block>,
}

impl std::fmt::Debug for WgpuRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { n, shape, metric, shards } = self;
        write!(f, "WgpuRows({n} x {} {}, {metric}, {} shards)", shape.dim, shape.dtype, shards.len())
    }
}

impl WgpuRows {
    /// The number of rows, `n`.
    pub fn len(&self) -> usize {
        self.n
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The number of coordinates in a row.
    pub fn dim(&self) -> usize {
        self.shape.dim
    }

    /// Copies `rows` to the device. Numbers are computed here, in f64 as the CPU backend does.
    pub(super) fn upload(task: Task<'_>, rows: &Rows, metric: Metric) -> Result<Self, BackendError> {
        Self::upload_view(task, rows.view(), metric)
    }

    /// f32 rows `(n, dim)` for products under L2: centroids.
    pub(super) fn centroids(task: Task<'_>, rows: ArrayView2<'_, f32>) -> Result<Self, BackendError> {
        let contiguous = rows.as_standard_layout();
        Self::upload_view(task, RowsView::F32(contiguous.view()), Metric::L2)
    }

    fn upload_view(task: Task<'_>, rows: RowsView<'_>, metric: Metric) -> Result<Self, BackendError> {
        let (n, shape) = (rows.len(), Shape { dtype: rows.dtype(), dim: rows.dim() });
        let numbers = dispatch_rows!(&rows, v => numbers_of(v.view(), metric));
        let each = shape.rows_in(task.gpu.shard());
        let mut shards = Vec::with_capacity(n.div_ceil(each));
        for first in (0..n).step_by(each) {
            let range = first..n.min(first + each);
            shards.push(task.scoped(|| {
                let block = Block::allocate(task, shape, range.clone())?;
                task.write(&block.numbers, 0, bytemuck::cast_slice(&numbers[range.clone()]));
                write_padded(task, &block, &rows.slice(range.clone()));
                Ok(block)
            })?);
        }
        Ok(Self { n, shape, metric, shards })
    }

    /// An f32 copy, for products with rows of another type.
    pub(super) fn widened(&self, task: Task<'_>) -> Result<Self, BackendError> {
        let shape = Shape { dtype: DType::F32, dim: self.shape.dim };
        let each = shape.rows_in(task.gpu.shard());
        let mut shards = Vec::new();
        for shard in &self.shards {
            for first in shard.range.clone().step_by(each) {
                let range = first..shard.range.end.min(first + each);
                shards.push(task.scoped(|| {
                    let mut commands = task.commands();
                    let block = widen(task, &mut commands, shard, range.clone(), false)?;
                    commands.submit();
                    Ok(block)
                })?);
            }
        }
        Ok(Self { n: self.n, shape, metric: self.metric, shards })
    }

    /// The rows `ids` side by side, in a new block numbered from 0.
    pub(super) fn gather(
        &self,
        task: Task<'_>,
        commands: &mut Commands<'_>,
        ids: &[u32],
    ) -> Result<Block, BackendError> {
        let block = Block::allocate(task, self.shape, 0..ids.len())?;
        let ids_buffer = task.upload(ids)?;
        let stride = self.shape.stride();
        for shard in &self.shards {
            let (width, height) = fold((ids.len() * stride).div_ceil(64) as u64);
            commands.dispatch(
                Kernel::Gather,
                Constants::default(),
                &[stride as u32, ids.len() as u32, shard.range.start as u32, shard.len() as u32, width],
                &[&shard.rows, &shard.numbers, &ids_buffer, &block.rows, &block.numbers],
                (width, height),
            )?;
        }
        Ok(block)
    }
}

/// Rows `range` (of all) of a shard as f32; divided by their norms where `unit_length`.
pub(super) fn widen(
    task: Task<'_>,
    commands: &mut Commands<'_>,
    shard: &Block,
    range: Range<usize>,
    unit_length: bool,
) -> Result<Block, BackendError> {
    let first = range.start - shard.range.start;
    let block = Block::allocate(task, Shape { dtype: DType::F32, dim: shard.shape.dim }, range)?;
    let (width, height) = fold((block.len() * block.shape.stride()).div_ceil(64) as u64);
    let params = widening(shard, first, block.len(), unit_length, width);
    commands.dispatch(
        Kernel::WidenByRow,
        Constants { types: (shard.shape.dtype, shard.shape.dtype), ..Default::default() },
        &params,
        &[&shard.rows, &shard.numbers, &block.rows, &block.numbers],
        (width, height),
    )?;
    Ok(block)
}

/// The parameters of `widen.wgsl` for `count` rows of a shard from its row `first` on.
pub(super) fn widening(shard: &Block, first: usize, count: usize, unit_length: bool, fold: u32) -> [u32; 10] {
    let out = Shape { dtype: DType::F32, dim: shard.shape.dim };
    [
        shard.shape.stride() as u32,
        out.stride() as u32,
        shard.shape.quads(),
        shard.shape.dim as u32,
        first as u32,
        count as u32,
        u32::from(unit_length),
        shard.range.start as u32,
        shard.len() as u32,
        fold,
    ]
}

/// The two words beside each row, see `wgsl/rows.wgsl`.
fn numbers_of<T: Kernels>(rows: ArrayView2<'_, T>, metric: Metric) -> Vec<[u32; 2]> {
    let isa = Isa::best();
    // Only inner product lifts.
    let aux = (metric == Metric::InnerProduct).then(|| GraphAux::new(rows, metric));
    let aside = |i: usize| match metric {
        Metric::L2 => 0.0,
        Metric::Cosine => inverse_norm(row(&rows, i)),
        Metric::InnerProduct => aux.as_ref().map_or(0.0, |aux| GraphGeometry::<T>::new(aux, isa).aux(i)),
    };
    let own = |i: usize| {
        let row = row(&rows, i);
        match T::DTYPE {
            // Below 2^32, as `MAX_DIM` says.
            DType::U8 | DType::I8 => row.iter().map(|x| (x.to_f32() as i32).pow(2) as u32).sum(),
            DType::F32 | DType::F16 => inverse_norm(row).to_bits(),
        }
    };
    (0..rows.nrows()).into_par_iter().map(|i| [own(i), aside(i).to_bits()]).collect()
}

/// Writes rows into a block, padded to whole units.
fn write_padded(task: Task<'_>, block: &Block, rows: &RowsView<'_>) {
    let (from, to) = (block.shape.dim * block.shape.dtype.bytes(), block.shape.row_bytes());
    // Pieces of about 8 MiB, so that the padded copy stays small.
    let each = ((8 << 20) / to).max(1);
    let (mut padded, mut pace) = (Vec::new(), Pace::default());
    for first in (0..rows.len()).step_by(each) {
        let count = each.min(rows.len() - first);
        padded.clear();
        padded.resize(count * to, 0u8);
        if from > 0 {
            for (i, out) in padded.chunks_exact_mut(to).enumerate() {
                out[..from].copy_from_slice(rows.row_bytes(first + i));
            }
        }
        task.write(&block.rows, (first * to) as u64, &padded);
        task.send_off(&mut pace);
    }
}
