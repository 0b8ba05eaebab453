//! Rotated rows. Kernel: `wgsl/hadamard.wgsl`. Twin: [`Rotation::apply`].

use super::device::{Buffer, Task, fold};
use super::pipelines::{Commands, Constants, Kernel};
use super::rows::Block;
use crate::backend::BackendError;
use crate::element::DType;
use crate::rotation::Rotation;

/// A rotation on the device.
pub(super) struct WgpuRotation {
    signs: Buffer,
    dim: usize,
    mixed: usize,
    rounds: usize,
}

impl WgpuRotation {
    pub(super) fn upload(task: Task<'_>, rotation: &Rotation) -> Result<Self, BackendError> {
        let signs = task.upload(&rotation.to_bytes())?;
        Ok(Self { signs, dim: rotation.dim(), mixed: rotation.block(), rounds: rotation.rounds() })
    }

    /// Records the rotation of a block's rows, at unit length where `unit_length`, less the f32 rows of `minus` one by one.
    /// Out: `(rows, width)` f32, zeros behind the dimension; `width` is a multiple of 4.
    pub(super) fn record(
        &self,
        task: Task<'_>,
        commands: &mut Commands<'_>,
        block: &Block,
        minus: Option<&Block>,
        unit_length: bool,
        width: usize,
    ) -> Result<Buffer, BackendError> {
        let out = task.allocate((block.len() * width * size_of::<f32>()) as u64)?;
        let (across, down) = fold(block.len() as u64);
        let params = [
            block.shape.stride() as u32,
            minus.map_or(0, |minus| minus.shape.stride() as u32),
            self.dim as u32,
            width as u32,
            self.mixed as u32,
            self.rounds as u32,
            block.len() as u32,
            u32::from(unit_length),
            u32::from(minus.is_some()),
            (1.0 / (self.mixed as f32).sqrt()).to_bits(),
            across,
        ];
        let types = (block.shape.dtype, DType::F32);
        // Where nothing is taken off, any rows will do for those that are not read.
        let minus = minus.unwrap_or(block);
        let buffers = [&block.rows, &block.numbers, &minus.rows, &self.signs, &out];
        let constants = Constants { types, ..Default::default() };
        commands.dispatch(Kernel::Hadamard, constants, &params, &buffers, (across, down))?;
        Ok(out)
    }
}
