// Purpose: the nearest row of B for each row of A, one product with the selection in registers.
//
// Shapes: operands as in tiles.wgsl; best (rows of A) of (key, number of the row of B), see rows.wgsl. B is a part of
//   all rows: its row i is number b_first + i; `first`: nothing is in `best` yet.
// Launch: one workgroup (16, 16) for 64 rows of A, in a grid folded at `fold`; 16 KiB of workgroup memory.
// Ties go to the lower number.
// CPU twin: cpu/quantise.rs; plain::kmeans_step.

struct Params {
    a_stride: u32,
    b_stride: u32,
    quads: u32,
    a_count: u32,
    b_count: u32,
    b_first: u32,
    first: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read_write> best: array<vec2<u32>>;

// The smallest of each thread's columns, `[row * 16 + x]`.
var<workgroup> columns: array<vec2<u32>, 1024>;

// The smallest of the thread's four columns that exist, or what is there already.
fn smallest(before: vec2<u32>, distances: vec4<f32>, column: u32) -> vec2<u32> {
    var least = before;
    for (var j = 0u; j < 4u; j += 1u) {
        let row = column + 16u * j;
        let candidate = vec2<u32>(key_of(distances[j]), params.b_first + row);
        if row < params.b_count && is_before(candidate, least) {
            least = candidate;
        }
    }
    return least;
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let a_begin = (group.x + group.y * params.fold) * 64u;
    if a_begin >= params.a_count {
        return;
    }
    let operands = Operands(params.a_stride, params.b_stride, params.quads);
    let none = vec2<u32>(NO_ROW, NO_ROW);
    var l0 = none;
    var l1 = none;
    var l2 = none;
    var l3 = none;
    for (var b_begin = 0u; b_begin < params.b_count; b_begin += 64u) {
        let found = tile_distances(operands, a_begin, params.a_count - 1u, b_begin, params.b_count - 1u, local.xy);
        l0 = smallest(l0, found.d0, b_begin + local.x);
        l1 = smallest(l1, found.d1, b_begin + local.x);
        l2 = smallest(l2, found.d2, b_begin + local.x);
        l3 = smallest(l3, found.d3, b_begin + local.x);
    }
    columns[local.y * 16u + local.x] = l0;
    columns[(local.y + 16u) * 16u + local.x] = l1;
    columns[(local.y + 32u) * 16u + local.x] = l2;
    columns[(local.y + 48u) * 16u + local.x] = l3;
    workgroupBarrier();
    let row = local.y * 16u + local.x;
    if row < 64u && a_begin + row < params.a_count {
        var least = none;
        if params.first == 0u {
            least = best[a_begin + row];
        }
        for (var i = 0u; i < 16u; i += 1u) {
            let candidate = columns[row * 16u + i];
            if is_before(candidate, least) {
                least = candidate;
            }
        }
        best[a_begin + row] = least;
    }
}
