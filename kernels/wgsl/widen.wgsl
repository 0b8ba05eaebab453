// Purpose: rows of any type as f32, row by row for products (`by_row`) or coordinate by coordinate for encoding
//   (`by_column`), there less a centroid (`subtract`). Put after rows.wgsl; A_TYPE is the rows' type.
//
// Shapes: rows (shard rows, stride units) and numbers, of which `count` from `first` are read; by_row writes out_units
//   (count, out_stride) f32 and out_numbers (count); by_column writes columns (dim, count) f32. `subtract` takes from
//   column i its centroid: rows here are f32 centroids, shard_first .. shard_first + shard_rows of all, chosen by
//   `chosen` (count). Where `unit_length` is 1, rows are divided by their norms; zero rows stay zero.
// Launch: one thread a quad, workgroups of 64, in a grid folded at `fold` workgroups.
// CPU twin: cpu/tiles.rs, `widen`; distance/geometry.rs, `quantiser_rows`.

struct Params {
    stride: u32,
    out_stride: u32,
    // Quads of a row that hold coordinates, and coordinates.
    quads: u32,
    dim: u32,
    first: u32,
    count: u32,
    unit_length: u32,
    shard_first: u32,
    shard_rows: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> numbers: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> chosen: array<u32>;
@group(0) @binding(4) var<storage, read_write> out_units: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out_numbers: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> columns: array<f32>;

fn scaled_quad(row: u32, quad: u32) -> vec4<f32> {
    let unit = rows[row * params.stride + unit_of(A_TYPE, quad)];
    let scale = select(1.0, inverse_norm(A_TYPE, numbers[row]), params.unit_length == 1u);
    return unpack_quad(A_TYPE, unit, quad) * scale;
}

@compute @workgroup_size(64)
fn by_row(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let at = (group.x + group.y * params.fold) * 64u + thread;
    let i = at / params.out_stride;
    let quad = at % params.out_stride;
    if i >= params.count {
        return;
    }
    out_units[at] = scaled_quad(params.first + i, quad);
    if quad == 0u {
        let own = numbers[params.first + i];
        out_numbers[i] = vec2<u32>(bitcast<u32>(inverse_norm(A_TYPE, own)), own.y);
    }
}

@compute @workgroup_size(64)
fn by_column(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let at = (group.x + group.y * params.fold) * 64u + thread;
    // Neighbouring threads write neighbouring rows of one coordinate.
    let i = at % params.count;
    let quad = at / params.count;
    if quad >= params.quads {
        return;
    }
    let values = scaled_quad(params.first + i, quad);
    for (var c = 0u; c < 4u && quad * 4u + c < params.dim; c += 1u) {
        columns[(quad * 4u + c) * params.count + i] = values[c];
    }
}

@compute @workgroup_size(64)
fn subtract(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let at = (group.x + group.y * params.fold) * 64u + thread;
    let i = at % params.count;
    let quad = at / params.count;
    if quad >= params.quads {
        return;
    }
    let row = chosen[i] - params.shard_first;
    if row >= params.shard_rows {
        return;
    }
    let values = bitcast<vec4<f32>>(rows[row * params.stride + quad]);
    for (var c = 0u; c < 4u && quad * 4u + c < params.dim; c += 1u) {
        columns[(quad * 4u + c) * params.count + i] -= values[c];
    }
}
