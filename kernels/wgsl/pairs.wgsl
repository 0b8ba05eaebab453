// Purpose: distances of chosen pairs of rows; put after rows.wgsl.
//
// Shapes: a_rows, b_rows and their numbers as in tiles.wgsl; pairs (count) of (row of A, row of B); out (count) f32.
// Launch: 8 threads a pair, workgroups of 64, in a grid folded at `fold` workgroups; 512 bytes of workgroup memory.
// Threads of a pair read neighbouring units of its rows.
// CPU twin: cpu/mod.rs, `gather_distances`; plain::distance.

struct Params {
    a_stride: u32,
    b_stride: u32,
    quads: u32,
    count: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a_rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> a_numbers: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> b_rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> b_numbers: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> pairs: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

const LANES = 8u;

var<workgroup> sums: array<f32, 64>;
var<workgroup> products: array<u32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let number = (group.x + group.y * params.fold) * (64u / LANES) + thread / LANES;
    let pair = pairs[min(number, params.count - 1u)];
    let a_row = pair.x * params.a_stride;
    let b_row = pair.y * params.b_stride;
    var product = 0u;
    var sum = 0.0;
    if sums_bytes() {
        for (var unit = thread % LANES; unit < params.a_stride; unit += LANES) {
            product += byte_products(a_rows[a_row + unit], b_rows[b_row + unit]);
        }
    } else {
        // Sums of 32 quads a thread are summed again.
        for (var first = thread % LANES; first < params.quads; first += 32u * LANES) {
            var part = 0.0;
            for (var quad = first; quad < min(first + 32u * LANES, params.quads); quad += LANES) {
                let a = unpack_quad(A_TYPE, a_rows[a_row + unit_of(A_TYPE, quad)], quad);
                let b = unpack_quad(B_TYPE, b_rows[b_row + unit_of(B_TYPE, quad)], quad);
                part += quad_terms(a, b);
            }
            sum += part;
        }
    }
    sums[thread] = sum;
    products[thread] = product;
    workgroupBarrier();
    if thread % LANES != 0u || number >= params.count {
        return;
    }
    for (var lane = 1u; lane < LANES; lane += 1u) {
        sum += sums[thread + lane];
        product += products[thread + lane];
    }
    let a = a_numbers[pair.x];
    let b = b_numbers[pair.y];
    if sums_bytes() {
        out[number] = distance_of_products(product, a, b);
    } else {
        out[number] = distance_of_sum(sum, a, b);
    }
}
