//! Kernels: their sources, bindings and compiled pipelines, and the dispatches made of them.
//!
//! A pipeline is compiled when it is first used and kept. Element types and distances are constants of the pipeline, so
//! that one source serves all of them.

use std::sync::{Arc, PoisonError};

use ::wgpu::{BindGroupEntry, BindGroupLayoutEntry, BufferBindingType, ShaderStages};

use super::device::{Buffer, Task};
use crate::backend::BackendError;
use crate::element::DType;
use crate::metric::Metric;

const ROWS: &str = include_str!("../../wgsl/rows.wgsl");
const TILES: &str = include_str!("../../wgsl/tiles.wgsl");

/// A kernel: an entry point of one of the sources in `kernels/wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    Nearest,
    Select,
    Argmin,
    Gather,
    WidenByRow,
    WidenByColumn,
    Subtract,
    Rotate,
    Encode,
    Sums,
    Pairs,
    Prune,
    Hadamard,
    PackRecords,
    EdgeCodes,
    Rabitq,
    Walk,
}

/// What a kernel does with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// How distances are made of sums; numbered as in `rows.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Distance {
    #[default]
    L2 = 0,
    NegativeDot = 1,
    Cosine = 2,
    GraphCosine = 3,
    GraphInnerProduct = 4,
}

impl Distance {
    /// The ordering distance of a metric.
    pub(super) fn of_metric(metric: Metric) -> Self {
        match metric {
            Metric::L2 => Self::L2,
            Metric::InnerProduct => Self::NegativeDot,
            Metric::Cosine => Self::Cosine,
        }
    }

    /// The distance in which graphs are built ([`crate::distance::GraphGeometry`]).
    pub(super) fn of_graph(metric: Metric) -> Self {
        match metric {
            Metric::L2 => Self::L2,
            Metric::InnerProduct => Self::GraphInnerProduct,
            Metric::Cosine => Self::GraphCosine,
        }
    }
}

/// The constants of a pipeline. Kernels that read no rows ignore them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Constants {
    /// Element types of the two operands.
    pub(super) types: (DType, DType),
    pub(super) distance: Distance,
    /// Whether lists are too long for workgroup memory (prune only).
    pub(super) long: bool,
}

impl Default for Constants {
    fn default() -> Self {
        Self { types: (DType::F32, DType::F32), distance: Distance::L2, long: false }
    }
}

pub(super) type Key = (Kernel, Constants);

/// A pipeline, and the layout of its bindings.
pub(super) struct Compiled {
    pipeline: ::wgpu::ComputePipeline,
    layout: ::wgpu::BindGroupLayout,
}

impl Kernel {
    /// The texts of which its source consists.
    fn source(self) -> Vec<&'static str> {
        match self {
            Self::Nearest => vec![ROWS, TILES, include_str!("../../wgsl/nearest.wgsl")],
            Self::Select => vec![ROWS, include_str!("../../wgsl/select.wgsl")],
            Self::Argmin => vec![ROWS, TILES, include_str!("../../wgsl/argmin.wgsl")],
            Self::Gather => vec![include_str!("../../wgsl/gather.wgsl")],
            Self::WidenByRow | Self::WidenByColumn | Self::Subtract => {
                vec![ROWS, include_str!("../../wgsl/widen.wgsl")]
            }
            Self::Rotate => vec![include_str!("../../wgsl/rotate.wgsl")],
            Self::Encode => vec![ROWS, include_str!("../../wgsl/encode.wgsl")],
            Self::Sums => vec![include_str!("../../wgsl/sums.wgsl")],
            Self::Pairs => vec![ROWS, include_str!("../../wgsl/pairs.wgsl")],
            Self::Prune => vec![ROWS, include_str!("../../wgsl/prune.wgsl")],
            Self::Hadamard => vec![ROWS, include_str!("../../wgsl/hadamard.wgsl")],
            Self::PackRecords => vec![include_str!("../../wgsl/pack.wgsl")],
            Self::EdgeCodes => vec![include_str!("../../wgsl/edge_codes.wgsl")],
            Self::Rabitq => vec![include_str!("../../wgsl/rabitq.wgsl")],
            Self::Walk => vec![ROWS, include_str!("../../wgsl/walk.wgsl")],
        }
    }

    fn entry(self) -> &'static str {
        match self {
            Self::WidenByRow => "by_row",
            Self::WidenByColumn => "by_column",
            Self::Subtract => "subtract",
            _ => "main",
        }
    }

    /// The storage buffers, by binding number; number 0 is the uniform buffer of parameters.
    fn bindings(self) -> &'static [(u32, Access)] {
        use Access::{Read, Write};
        match self {
            Self::Nearest => {
                &[(1, Read), (2, Read), (3, Read), (4, Read), (5, Read), (6, Read), (7, Write), (8, Write)]
            }
            Self::Select => &[(1, Write), (2, Write), (3, Write)],
            Self::Argmin => &[(1, Read), (2, Read), (3, Read), (4, Read), (5, Write)],
            Self::Gather => &[(1, Read), (2, Read), (3, Read), (4, Write), (5, Write)],
            Self::WidenByRow => &[(1, Read), (2, Read), (4, Write), (5, Write)],
            Self::WidenByColumn => &[(1, Read), (2, Read), (6, Write)],
            Self::Subtract => &[(1, Read), (3, Read), (6, Write)],
            Self::Rotate | Self::Encode => &[(1, Read), (2, Read), (3, Write)],
            Self::Sums => &[(1, Read), (2, Read), (3, Read), (4, Write)],
            Self::Pairs => &[(1, Read), (2, Read), (3, Read), (4, Read), (5, Read), (6, Write)],
            Self::Prune => &[(1, Read), (2, Read), (3, Read), (4, Read), (5, Write), (6, Write)],
            Self::Hadamard => &[(1, Read), (2, Read), (3, Read), (4, Read), (5, Write)],
            Self::PackRecords | Self::EdgeCodes => &[(1, Read), (2, Read), (3, Read), (4, Read), (5, Read), (6, Write)],
            Self::Rabitq => &[(1, Read), (2, Read), (3, Read), (4, Write)],
            Self::Walk => &[(1, Read), (2, Read), (3, Read), (4, Read), (5, Read), (6, Read), (7, Write)],
        }
    }

    /// The pipeline constants that its source declares, as naga wants them.
    fn constants(self, constants: Constants) -> Vec<(&'static str, f64)> {
        let number = |dtype: DType| match dtype {
            DType::F32 => 0.0,
            DType::F16 => 1.0,
            DType::U8 => 2.0,
            DType::I8 => 3.0,
        };
        let mut named = Vec::new();
        if self.source()[0] == ROWS {
            named.push(("A_TYPE", number(constants.types.0)));
            named.push(("B_TYPE", number(constants.types.1)));
            named.push(("MODE", f64::from(constants.distance as u32)));
        }
        if self == Self::Prune {
            named.push(("LONG", f64::from(u8::from(constants.long))));
        }
        named
    }

    fn compile(self, device: &::wgpu::Device, constants: Constants) -> Compiled {
        let name = format!("{self:?}");
        let label = Some(name.as_str());
        let buffer = |binding, ty| BindGroupLayoutEntry {
            binding,
            visibility: ShaderStages::COMPUTE,
            ty: ::wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let storage = self.bindings().iter().map(|&(binding, access)| {
            buffer(binding, BufferBindingType::Storage { read_only: access == Access::Read })
        });
        let entries: Vec<_> = [buffer(0, BufferBindingType::Uniform)].into_iter().chain(storage).collect();
        let layout = device.create_bind_group_layout(&::wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&::wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let module = device.create_shader_module(::wgpu::ShaderModuleDescriptor {
            label,
            source: ::wgpu::ShaderSource::Wgsl(self.source().concat().into()),
        });
        let pipeline = device.create_compute_pipeline(&::wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(self.entry()),
            compilation_options: ::wgpu::PipelineCompilationOptions {
                constants: &self.constants(constants),
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        Compiled { pipeline, layout }
    }
}

/// Dispatches that are recorded, in order, until they are submitted.
pub(super) struct Commands<'a> {
    task: Task<'a>,
    encoder: ::wgpu::CommandEncoder,
}

impl<'a> Task<'a> {
    /// No dispatches yet.
    pub(super) fn commands(&self) -> Commands<'a> {
        Commands { task: *self, encoder: self.gpu.device.create_command_encoder(&Default::default()) }
    }

    fn pipeline(&self, key: Key) -> Arc<Compiled> {
        let mut pipelines = self.gpu.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(pipelines.entry(key).or_insert_with(|| Arc::new(key.0.compile(&self.gpu.device, key.1))))
    }
}

impl Commands<'_> {
    /// Records a dispatch of `grid` workgroups. `params` are the kernel's `Params`, `buffers` its storage buffers in
    /// the order of their binding numbers.
    pub(super) fn dispatch(
        &mut self,
        kernel: Kernel,
        constants: Constants,
        params: &[u32],
        buffers: &[&Buffer],
        grid: (u32, u32),
    ) -> Result<(), BackendError> {
        let compiled = self.task.pipeline((kernel, constants));
        let uniform = self.task.uniform(params)?;
        let numbers = kernel.bindings().iter().map(|&(binding, _)| binding);
        let storage = numbers.zip(buffers).map(|(binding, buffer)| (binding, *buffer));
        let entries: Vec<_> = [(0, &uniform)]
            .into_iter()
            .chain(storage)
            .map(|(binding, buffer)| BindGroupEntry { binding, resource: buffer.raw.as_entire_binding() })
            .collect();
        let group = self.task.gpu.device.create_bind_group(&::wgpu::BindGroupDescriptor {
            label: None,
            layout: &compiled.layout,
            entries: &entries,
        });
        let mut pass = self.encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&compiled.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(grid.0, grid.1, 1);
        Ok(())
    }

    /// Records that a whole buffer becomes zero.
    pub(super) fn clear(&mut self, buffer: &Buffer) {
        self.encoder.clear_buffer(&buffer.raw, 0, None);
    }

    /// Records a copy of the first `bytes`.
    pub(super) fn copy(&mut self, from: &Buffer, to: &Buffer, bytes: u64) {
        self.encoder.copy_buffer_to_buffer(&from.raw, 0, &to.raw, 0, bytes);
    }

    /// Sends what was recorded to the device.
    pub(super) fn submit(self) {
        self.task.gpu.queue.submit([self.encoder.finish()]);
    }
}
