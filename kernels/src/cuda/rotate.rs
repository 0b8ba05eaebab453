//! Rotated rows. Kernels: `kernels/cuda/rotate.cu`. Twin: [`Rotation::apply`], equal bit by bit.

use bytemuck::{Pod, Zeroable};

use super::driver::{Arg, Buffer, Gpu};
use super::rows::{InverseNorms, per_type};
use crate::backend::BackendError;
use crate::element::DType;
use crate::rotation::Rotation;

/// Bytes of shared memory that a block may take without asking.
const SHARED_BYTES: usize = 48 << 10;

/// `rotation::Rounds` of the kernels.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Rounds {
    signs: u64,
    dim: u32,
    mixed: u32,
    rounds: u32,
    scale: f32,
}

/// A rotation on the device.
pub(super) struct CudaRotation {
    signs: Buffer<u8>,
    dim: usize,
    mixed: usize,
    rounds: usize,
}

/// Rows that are to be rotated.
pub(super) struct Unrotated<'a> {
    /// The first byte of the first row, and bytes from one to the next.
    pub(super) data: Arg<'static>,
    pub(super) pitch: usize,
    pub(super) dtype: DType,
    pub(super) norms: &'a InverseNorms<'a>,
    /// Rows by number, or all in order where there are none.
    pub(super) ids: Option<&'a Buffer<u32>>,
    /// Centroids `(nlist, dim)`, and of each row the one that is taken off.
    pub(super) residual_to: Option<(&'a Buffer<f32>, &'a Buffer<u32>)>,
}

impl CudaRotation {
    pub(super) fn upload(gpu: &Gpu, operation: &'static str, rotation: &Rotation) -> Result<Self, BackendError> {
        let signs = gpu.upload(operation, &rotation.to_bytes())?;
        Ok(Self { signs, dim: rotation.dim(), mixed: rotation.block(), rounds: rotation.rounds() })
    }

    /// `count` rotated rows, `(count, width)`; zeros behind the dimension.
    pub(super) fn apply(
        &self,
        gpu: &Gpu,
        operation: &'static str,
        rows: &Unrotated<'_>,
        count: usize,
        width: usize,
    ) -> Result<Buffer<f32>, BackendError> {
        let rotated = gpu.alloc::<f32>(operation, count * width)?;
        let scale = 1.0 / (self.mixed as f32).sqrt();
        let (dim, mixed, rounds) = (self.dim as u32, self.mixed as u32, self.rounds as u32);
        let how = Rounds { signs: self.signs.address(), dim, mixed, rounds, scale };
        let bytes = self.dim * size_of::<f32>();
        let shared = if bytes <= SHARED_BYTES { bytes as u32 } else { 0 };
        let (centroids, assignments) = match rows.residual_to {
            Some((centroids, assignments)) => (centroids.into(), assignments.into()),
            None => (Arg::NULL, Arg::NULL),
        };
        let args = [
            rows.data,
            Arg::U64(rows.pitch as u64),
            rows.norms.arg(),
            rows.ids.map_or(Arg::NULL, Arg::from),
            centroids,
            assignments,
            Arg::Struct(bytemuck::bytes_of(&how)),
            (&rotated).into(),
            Arg::U32(width as u32),
            Arg::U32(u32::from(shared > 0)),
        ];
        let threads = (mixed / 2).next_multiple_of(32).clamp(32, 256);
        let kernel = per_type!("rotate")[rows.dtype as usize];
        gpu.launch(operation, kernel, [count as u32, 1, 1], threads, shared, &args)?;
        Ok(rotated)
    }
}
