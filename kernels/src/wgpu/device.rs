//! The device under all stages: memory with a budget, transfers, and errors turned into [`BackendError`]s.
//!
//! wgpu reports errors beside the calls that cause them. [`Task::scoped`] collects what a piece of work caused and
//! gives its most telling error back: a lost device first, then memory, then anything else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use ::wgpu::{BufferUsages, ErrorFilter, PollType};

use super::pipelines::{Compiled, Key};
use crate::backend::BackendError;

/// Bytes of scratch at most, where neither the device nor the budget has less.
const SCRATCH: u64 = 256 << 20;

/// Bytes moved between host and device at a time.
const PIECE: usize = 16 << 20;

/// Workgroups of one dimension of a dispatch, in every adapter.
const GROUPS: u32 = 65_535;

/// An open device.
pub(super) struct Gpu {
    pub(super) device: ::wgpu::Device,
    pub(super) queue: ::wgpu::Queue,
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) pipelines: Mutex<HashMap<Key, Arc<Compiled>>>,
    memory: Arc<Memory>,
    /// Bytes of the largest buffer asked for since work began: what a driver that is out of memory did not have, at
    /// most.
    largest: AtomicU64,
    /// What the driver said when the device was lost.
    lost: Arc<OnceLock<String>>,
    /// Bytes of a storage binding at most.
    binding: u64,
    /// Bytes of a shard of rows at most.
    shard: u64,
    /// Fill new buffers with a pattern, so that a result that no kernel wrote is seen.
    poison: bool,
}

/// How a [`Gpu`] behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behaviour {
    pub(super) memory: Option<u64>,
    pub(super) shard: Option<u64>,
    pub(super) poison: bool,
}

/// Bytes allocated, and how many may be.
struct Memory {
    limit: u64,
    used: AtomicU64,
}

/// A buffer in the device's memory; its bytes are given back to the budget when it is dropped.
pub(super) struct Buffer {
    pub(super) raw: ::wgpu::Buffer,
    bytes: u64,
    memory: Arc<Memory>,
}

/// The last piece of a transfer that was sent off.
#[derive(Default)]
pub(super) struct Pace(Option<::wgpu::SubmissionIndex>);

impl Drop for Buffer {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Gpu {
    pub(super) fn new(
        device: ::wgpu::Device,
        queue: ::wgpu::Queue,
        info: &::wgpu::AdapterInfo,
        behaviour: Behaviour,
    ) -> Self {
        let lost = Arc::new(OnceLock::new());
        let said = Arc::clone(&lost);
        device.set_device_lost_callback(move |reason, message| {
            // The first reason is the one that matters.
            let _ = said.set(format!("{reason:?}: {message}"));
        });
        // Without a handler an error outside any scope would panic.
        device.on_uncaptured_error(Arc::new(|error| tracing::error!("wgpu: {error}")));
        let limits = device.limits();
        let binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let memory = Memory { limit: behaviour.memory.unwrap_or(u64::MAX), used: AtomicU64::new(0) };
        Self {
            name: format!("wgpu ({}, {})", info.name, info.backend),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            pipelines: Mutex::default(),
            memory: Arc::new(memory),
            largest: AtomicU64::new(0),
            lost,
            binding,
            shard: behaviour.shard.unwrap_or(binding).min(binding),
            poison: behaviour.poison,
            device,
            queue,
        }
    }

    /// The bytes that may be allocated, where they are limited.
    pub(super) fn memory_limit(&self) -> Option<u64> {
        (self.memory.limit < u64::MAX).then_some(self.memory.limit)
    }

    /// Work under the name of a backend method.
    pub(super) fn task(&self, operation: &'static str) -> Task<'_> {
        Task { gpu: self, operation }
    }

    /// Bytes of a storage binding at most.
    pub(super) fn binding(&self) -> u64 {
        self.binding
    }

    /// Bytes of a shard of rows at most.
    pub(super) fn shard(&self) -> u64 {
        self.shard
    }

    /// Bytes that one batch of work may take in all.
    pub(super) fn scratch(&self) -> u64 {
        let free = self.memory.limit.saturating_sub(self.memory.used.load(Ordering::Relaxed));
        // Half: transfers need room too, and a batch twice as large is hardly faster.
        SCRATCH.min(free / 2)
    }
}

/// `total` workgroups as a grid: its width, which kernels know as `fold`, and its height.
pub(super) fn fold(total: u64) -> (u32, u32) {
    let width = total.clamp(1, u64::from(GROUPS));
    (width as u32, total.div_ceil(width).max(1) as u32)
}

/// Work on a device under the name of a backend method.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) operation: &'static str,
}

impl Task<'_> {
    /// Does `work` and waits for the errors that it caused on the device.
    pub(super) fn scoped<T>(&self, work: impl FnOnce() -> Result<T, BackendError>) -> Result<T, BackendError> {
        let device = &self.gpu.device;
        let scopes = [ErrorFilter::Internal, ErrorFilter::Validation, ErrorFilter::OutOfMemory]
            .map(|filter| device.push_error_scope(filter));
        self.gpu.largest.store(0, Ordering::Relaxed);
        let result = work();
        // Innermost first.
        let [internal, validation, memory] = scopes;
        let memory = pollster::block_on(memory.pop());
        let other = pollster::block_on(validation.pop()).or(pollster::block_on(internal.pop()));
        if memory.is_none() && other.is_none() && result.is_ok() && self.gpu.lost.get().is_none() {
            return result;
        }
        // The callback of a lost device runs when the device is polled; and what failed work held is given back.
        let _ = device.poll(PollType::wait_indefinitely());
        if let Some(problem) = self.gpu.lost.get() {
            return Err(BackendError::Lost {
                device: self.gpu.name.clone(),
                operation: self.operation,
                problem: problem.clone(),
            });
        }
        self.judged(memory, other, result)
    }

    /// The most telling of what the scopes caught and what the work itself came to. Where memory was short, later
    /// errors only follow from that.
    pub(super) fn judged<T>(
        &self,
        memory: Option<::wgpu::Error>,
        other: Option<::wgpu::Error>,
        result: Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        match (memory, other, result) {
            (Some(_), _, Err(error @ BackendError::OutOfMemory { .. })) => Err(error),
            (Some(_), ..) => Err(self.out_of_memory(self.gpu.largest.load(Ordering::Relaxed))),
            (None, Some(problem), _) => Err(self.refused(problem)),
            (None, None, result) => result,
        }
    }

    /// The device said no.
    pub(super) fn refused(&self, problem: impl std::fmt::Display) -> BackendError {
        BackendError::Device { device: self.gpu.name.clone(), operation: self.operation, problem: problem.to_string() }
    }

    pub(super) fn out_of_memory(&self, bytes: u64) -> BackendError {
        BackendError::OutOfMemory { device: self.gpu.name.clone(), operation: self.operation, bytes }
    }

    /// A storage buffer of `bytes`, at least 16.
    pub(super) fn allocate(&self, bytes: u64) -> Result<Buffer, BackendError> {
        if bytes > self.gpu.binding {
            return Err(self.out_of_memory(bytes));
        }
        let buffer = self.reserve(bytes, BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST)?;
        if self.gpu.poison {
            let pattern = vec![0xA5u8; PIECE.min(buffer.bytes as usize)];
            for first in (0..buffer.bytes).step_by(pattern.len()) {
                let count = pattern.len().min((buffer.bytes - first) as usize);
                self.gpu.queue.write_buffer(&buffer.raw, first, &pattern[..count]);
            }
        }
        Ok(buffer)
    }

    /// A buffer of any usage, counted against the budget.
    fn reserve(&self, bytes: u64, usage: BufferUsages) -> Result<Buffer, BackendError> {
        let bytes = bytes.next_multiple_of(16).max(16);
        let memory = &self.gpu.memory;
        let fits = |used: u64| used.checked_add(bytes).filter(|&used| used <= memory.limit);
        if memory.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return Err(self.out_of_memory(bytes));
        }
        let descriptor = ::wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false };
        self.gpu.largest.fetch_max(bytes, Ordering::Relaxed);
        let raw = self.gpu.device.create_buffer(&descriptor);
        Ok(Buffer { raw, bytes, memory: Arc::clone(memory) })
    }

    /// A storage buffer that holds `data`.
    pub(super) fn upload<T: bytemuck::NoUninit>(&self, data: &[T]) -> Result<Buffer, BackendError> {
        let buffer = self.allocate(size_of_val(data) as u64)?;
        self.write(&buffer, 0, bytemuck::cast_slice(data));
        Ok(buffer)
    }

    /// A uniform buffer of one dispatch.
    pub(super) fn uniform(&self, words: &[u32]) -> Result<Buffer, BackendError> {
        let buffer = self.reserve(size_of_val(words) as u64, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;
        self.write(&buffer, 0, bytemuck::cast_slice(words));
        Ok(buffer)
    }

    /// Writes `bytes` at `offset`, a multiple of 4. A last word is filled up with zeros.
    pub(super) fn write(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) {
        let (whole, rest) = bytes.split_at(bytes.len() / 4 * 4);
        let mut pace = Pace::default();
        for (i, piece) in whole.chunks(PIECE).enumerate() {
            self.gpu.queue.write_buffer(&buffer.raw, offset + (i * PIECE) as u64, piece);
            if piece.len() == PIECE {
                self.send_off(&mut pace);
            }
        }
        if !rest.is_empty() {
            let mut word = [0u8; 4];
            word[..rest.len()].copy_from_slice(rest);
            self.gpu.queue.write_buffer(&buffer.raw, offset + whole.len() as u64, &word);
        }
    }

    /// Sends written pieces to the device and waits for those before, so that at most two are on their way: staging
    /// memory is outside the budget.
    pub(super) fn send_off(&self, pace: &mut Pace) {
        let sent = self.gpu.queue.submit([]);
        if let Some(before) = pace.0.replace(sent) {
            // A failure is reported by whatever uses the buffer next.
            let _ = self.gpu.device.poll(PollType::Wait { submission_index: Some(before), timeout: None });
        }
    }

    /// The first `count` elements of a buffer, after all work that was submitted.
    pub(super) fn read<T: bytemuck::Pod>(&self, buffer: &Buffer, count: usize) -> Result<Vec<T>, BackendError> {
        let mut out = vec![T::zeroed(); count];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut out);
        if bytes.is_empty() {
            return Ok(out);
        }
        let size = PIECE.min(bytes.len().next_multiple_of(4));
        let staging = self.reserve(size as u64, BufferUsages::MAP_READ | BufferUsages::COPY_DST)?;
        for (i, piece) in bytes.chunks_mut(size).enumerate() {
            let length = piece.len().next_multiple_of(4) as u64;
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&buffer.raw, (i * size) as u64, &staging.raw, 0, length);
            self.gpu.queue.submit([encoder.finish()]);
            let slice = staging.raw.slice(..length);
            let mapped = Arc::new(OnceLock::new());
            let answer = Arc::clone(&mapped);
            slice.map_async(::wgpu::MapMode::Read, move |result| {
                let _ = answer.set(result);
            });
            self.gpu.device.poll(PollType::wait_indefinitely()).map_err(|problem| self.refused(problem))?;
            match mapped.get() {
                Some(Ok(())) => (),
                Some(Err(problem)) => return Err(self.refused(problem)),
                None => return Err(self.refused("the result was never mapped")),
            }
            let view = slice.get_mapped_range().map_err(|problem| self.refused(problem))?;
            piece.copy_from_slice(&view[..piece.len()]);
            drop(view);
            staging.raw.unmap();
        }
        Ok(out)
    }

    /// Sends off what was written, and waits until it is there: a clock that starts now sees nothing of it.
    pub(super) fn settle(&self) -> Result<(), BackendError> {
        self.gpu.queue.submit([]);
        self.wait()
    }

    /// Waits until all submitted work is done.
    pub(super) fn wait(&self) -> Result<(), BackendError> {
        self.gpu.device.poll(PollType::wait_indefinitely()).map(drop).map_err(|problem| self.refused(problem))
    }
}
