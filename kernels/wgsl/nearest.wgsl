// Purpose: exact nearest rows by tiles; what can still enter a query's k best joins its queue, all other distances end
//   in registers. select.wgsl merges the queues. One call examines up to `chunk` rows of each set of B.
//
// Shapes: operands as in tiles.wgsl; tiles (tiles) of (first and end query, first and end row of B), in rows of the
//   bound buffers; ids: what row `id_first + i` of B is called, or unused where `id_mode` is 0 and row i is called
//   `id_first + i`; state (queries, 3): queue length, key and id of the k-th best; queue (queries, capacity) of (key,
//   id).
// Launch: one workgroup (16, 16) a tile and 64 rows of the chunk, in a grid folded at `fold` workgroups. A chunk has no
//   more rows than a queue has places. `first`: no k-th best exists yet.
// CPU twin: cpu/nearest.rs and cpu/leaves.rs; plain::ranked.

struct Params {
    a_stride: u32,
    b_stride: u32,
    quads: u32,
    tiles: u32,
    chunk_first: u32,
    chunk: u32,
    capacity: u32,
    first: u32,
    query_first: u32,
    id_first: u32,
    // 0: numbered from id_first; 1: named by `ids`; 2: named by `ids`, and query q is row q + self_shift of B, which is
    // not its neighbour.
    id_mode: u32,
    self_shift: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> tiles: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read> ids: array<u32>;
@group(0) @binding(7) var<storage, read_write> state: array<atomic<u32>>;
@group(0) @binding(8) var<storage, read_write> queue: array<vec2<u32>>;

fn offer(query: u32, row: u32, distance: f32, worst: vec2<u32>) {
    var id = params.id_first + row;
    if params.id_mode > 0u {
        id = ids[id];
    }
    let candidate = vec2<u32>(key_of(distance), id);
    if is_before(candidate, worst) {
        let slot = query - params.query_first;
        let place = atomicAdd(&state[slot * 3u], 1u);
        if place < params.capacity {
            queue[slot * params.capacity + place] = candidate;
        }
    }
}

fn offer_row(query: u32, tile: vec4<u32>, b_begin: u32, b_end: u32, x: u32, distances: vec4<f32>) {
    if query >= tile.y {
        return;
    }
    let slot = (query - params.query_first) * 3u;
    var worst = vec2<u32>(NO_ROW, NO_ROW);
    if params.first == 0u {
        worst = vec2<u32>(atomicLoad(&state[slot + 1u]), atomicLoad(&state[slot + 2u]));
    }
    for (var j = 0u; j < 4u; j += 1u) {
        let row = b_begin + x + 16u * j;
        if row < b_end && !(params.id_mode == 2u && row == query + params.self_shift) {
            offer(query, row, distances[j], worst);
        }
    }
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let number = group.x + group.y * params.fold;
    if number >= params.tiles * ((params.chunk + 63u) / 64u) {
        return;
    }
    let tile = tiles[number % params.tiles];
    let chunk_begin = tile.z + params.chunk_first;
    let b_begin = chunk_begin + number / params.tiles * 64u;
    let b_end = min(tile.w, chunk_begin + params.chunk);
    if b_begin >= b_end {
        return;
    }
    let operands = Operands(params.a_stride, params.b_stride, params.quads);
    let found = tile_distances(operands, tile.x, tile.y - 1u, b_begin, tile.w - 1u, local.xy);
    offer_row(tile.x + local.y, tile, b_begin, b_end, local.x, found.d0);
    offer_row(tile.x + local.y + 16u, tile, b_begin, b_end, local.x, found.d1);
    offer_row(tile.x + local.y + 32u, tile, b_begin, b_end, local.x, found.d2);
    offer_row(tile.x + local.y + 48u, tile, b_begin, b_end, local.x, found.d3);
}
