// Purpose: multiplies columns by some rows of a rotation, before encoding.
//
// Shapes: rotation (outputs, dim) f32, rows output_first.. of the whole; columns (dim, count) f32; out (dim, count)
//   f32.
// Launch: one thread for a column and 4 outputs; workgroups of 64 columns, `group.y` counts the fours of outputs. Sums
//   of 256 terms are summed again.
// CPU twin: cpu/quantise.rs; ProductQuantizer::rotate.

struct Params {
    dim: u32,
    count: u32,
    output_first: u32,
    outputs: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rotation: array<f32>;
@group(0) @binding(2) var<storage, read> columns: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let i = at.x;
    let output = at.y * 4u;
    if i >= params.count || output >= params.outputs {
        return;
    }
    // Outputs past the end repeat the last one, and are not written.
    let last = params.outputs - 1u;
    let rows = vec4<u32>(output, min(output + 1u, last), min(output + 2u, last), min(output + 3u, last)) * params.dim;
    var sum = vec4<f32>();
    for (var first = 0u; first < params.dim; first += 256u) {
        var part = vec4<f32>();
        for (var d = first; d < min(first + 256u, params.dim); d += 1u) {
            let x = columns[d * params.count + i];
            part += x * vec4<f32>(
                rotation[rows.x + d], rotation[rows.y + d], rotation[rows.z + d], rotation[rows.w + d],
            );
        }
        sum += part;
    }
    for (var c = 0u; c < 4u && output + c < params.outputs; c += 1u) {
        out[(params.output_first + output + c) * params.count + i] = sum[c];
    }
}
