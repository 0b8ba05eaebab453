// Purpose: copies chosen rows of one shard, with their numbers, side by side. Rows of other shards are left to their
//   calls.
//
// Shapes: rows (shard rows, stride units) and numbers (shard rows), see rows.wgsl; ids (count) row numbers, of which
//   the shard holds shard_first .. shard_first + shard_rows; out_rows (count, stride) and out_numbers (count).
// Launch: one thread a unit, workgroups of 64, in a grid folded at `fold` workgroups.
// CPU twin: rows.rs, `select`.

struct Params {
    stride: u32,
    count: u32,
    shard_first: u32,
    shard_rows: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> numbers: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> out_rows: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> out_numbers: array<vec2<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let at = (group.x + group.y * params.fold) * 64u + thread;
    let i = at / params.stride;
    if i >= params.count {
        return;
    }
    // Wraps where the row lies before the shard, and is then too large as well.
    let row = ids[i] - params.shard_first;
    if row >= params.shard_rows {
        return;
    }
    let unit = at % params.stride;
    out_rows[at] = rows[row * params.stride + unit];
    if unit == 0u {
        out_numbers[i] = numbers[row];
    }
}
