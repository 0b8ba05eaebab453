//! Memory on the device, and what kernels are given.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use super::Gpu;

/// An argument of a kernel, by value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// An address on the device.
    Pointer(u64),
    U32(u32),
    U64(u64),
    F32(f32),
    /// A small struct: `bytemuck::bytes_of(&value)`.
    Struct(&'a [u8]),
}

impl Arg<'_> {
    /// The address that means "not given".
    pub(crate) const NULL: Arg<'static> = Arg::Pointer(0);

    /// The value, as a kernel gets it.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Arg::Pointer(x) | Arg::U64(x) => bytemuck::bytes_of(x),
            Arg::U32(x) => bytemuck::bytes_of(x),
            Arg::F32(x) => bytemuck::bytes_of(x),
            Arg::Struct(bytes) => bytes,
        }
    }
}

impl<T> From<&Buffer<T>> for Arg<'_> {
    fn from(buffer: &Buffer<T>) -> Self {
        Arg::Pointer(buffer.pointer)
    }
}

impl From<u32> for Arg<'_> {
    fn from(x: u32) -> Self {
        Arg::U32(x)
    }
}

impl From<f32> for Arg<'_> {
    fn from(x: f32) -> Self {
        Arg::F32(x)
    }
}

impl From<u64> for Arg<'_> {
    fn from(x: u64) -> Self {
        Arg::U64(x)
    }
}

/// `len` elements on the device, at a 256-byte boundary; given back when dropped.
pub(crate) struct Buffer<T> {
    pub(super) gpu: Gpu,
    /// 0 until there is memory.
    pub(super) pointer: u64,
    pub(super) len: usize,
    element: PhantomData<fn() -> T>,
}

impl<T> Buffer<T> {
    /// Without memory as yet.
    pub(super) fn empty(gpu: Gpu, len: usize) -> Self {
        Self { gpu, pointer: 0, len, element: PhantomData }
    }

    /// Elements.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address of the first element, for structs of arguments; 0 where there is none.
    pub(crate) fn address(&self) -> u64 {
        self.pointer
    }

    /// The address of element `index`, as an argument.
    pub(crate) fn at(&self, index: usize) -> Arg<'static> {
        debug_assert!(index <= self.len);
        Arg::Pointer(self.pointer + (index * size_of::<T>()) as u64)
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.len * size_of::<T>()) as u64
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.pointer != 0 {
            self.gpu.0.engine.free(self.pointer);
            self.gpu.0.used.fetch_sub(self.bytes(), Ordering::Relaxed);
        }
    }
}

impl<T> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer<{}>({})", std::any::type_name::<T>(), self.len)
    }
}
