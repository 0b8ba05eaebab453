// Purpose: rows as codes of few bits see them: f32, less a centroid where there is one, rotated by rounds of random signs
//   and fast Hadamard transforms. Put after rows.wgsl; A_TYPE is the rows' type.
//
// Shapes: rows (count, stride units) and numbers (count), see rows.wgsl; minus (count, minus_stride units) f32, read where
//   `subtract` is 1; signs (rounds * dim bits), set where a sign is negative; out (count, width) f32, zeros behind `dim`.
//   Where `unit_length` is 1, rows are multiplied by their second number, 1 / |row|. A transform mixes `mixed`
//   coordinates, a power of two: the first ones in even rounds, the last ones in odd rounds.
// Launch: one workgroup of 64 a row, in a grid folded at `fold` workgroups. A row is rotated where it is written.
// CPU twin: rotation.rs: the same operations in the same order.

struct Params {
    stride: u32,
    minus_stride: u32,
    dim: u32,
    width: u32,
    mixed: u32,
    rounds: u32,
    count: u32,
    unit_length: u32,
    subtract: u32,
    // 1 / sqrt(mixed), as f32 bits.
    scale: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> numbers: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> minus: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> signs: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = group.x + group.y * params.fold;
    if i >= params.count {
        return;
    }
    let to = i * params.width;
    let norm = select(1.0, bitcast<f32>(numbers[i].y), params.unit_length == 1u);
    for (var quad = thread; quad < params.width / 4u; quad += 64u) {
        var values = vec4<f32>();
        if quad * 4u < params.dim {
            values = unpack_quad(A_TYPE, rows[i * params.stride + unit_of(A_TYPE, quad)], quad) * norm;
            if params.subtract == 1u {
                values -= minus[i * params.minus_stride + quad];
            }
        }
        for (var c = 0u; c < 4u; c += 1u) {
            out[to + quad * 4u + c] = values[c];
        }
    }
    let scale = bitcast<f32>(params.scale);
    for (var round = 0u; round < params.rounds; round += 1u) {
        let first = select(params.dim - params.mixed, 0u, round % 2u == 0u);
        storageBarrier();
        for (var d = thread; d < params.mixed; d += 64u) {
            let bit = round * params.dim + first + d;
            let negative = ((signs[bit / 32u] >> (bit % 32u)) & 1u) == 1u;
            out[to + first + d] *= select(scale, -scale, negative);
        }
        for (var half = params.mixed / 2u; half > 0u; half /= 2u) {
            storageBarrier();
            for (var pair = thread; pair < params.mixed / 2u; pair += 64u) {
                let low = to + first + (pair / half) * 2u * half + pair % half;
                let a = out[low];
                let b = out[low + half];
                out[low] = a + b;
                out[low + half] = a - b;
            }
        }
    }
}
