// Purpose: RaBitQ codes of rotated residuals: the best of 24 scales, factors by signs and by all bits, bit planes.
//
// Shapes: residuals and centroids (count, width) f32, a centroid a row, see hadamard.wgsl; center (width) f32; out (count,
//   row_words) u32, a row's codes as codec/rabitq/rows.rs draws them.
// Launch: one workgroup of 32 a row, in a grid folded at `fold` workgroups; a thread a scale, then two for the factors, then
//   a thread a word of planes. Sums of 64 terms are summed again, in f32; what is small beside them (the error's sine) is
//   summed by itself.
// CPU twin: codec/rabitq/code.rs.

struct Params {
    dim: u32,
    width: u32,
    bits: u32,
    row_words: u32,
    count: u32,
    inner_product: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> residuals: array<f32>;
@group(0) @binding(2) var<storage, read> centroids: array<f32>;
@group(0) @binding(3) var<storage, read> center: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<u32>;

const THREADS = 32u;
const SCALES = 24u;
const CHUNK = 64u;
const EPSILON_0 = 1.9;

var<workgroup> largests: array<f32, 32>;
var<workgroup> cosines: array<f32, 32>;

// A coordinate's code is this and a half, with its sign.
fn magnitude(x: f32, scale: f32, top: f32) -> f32 {
    return floor(min(abs(x) * scale, top));
}

// <v, r> and |v|^2 of the code at a scale.
fn products(first: u32, scale: f32, top: f32) -> vec2<f32> {
    var sums = vec2<f32>();
    for (var chunk = 0u; chunk < params.dim; chunk += CHUNK) {
        var some = vec2<f32>();
        for (var d = chunk; d < min(chunk + CHUNK, params.dim); d += 1u) {
            let x = residuals[first + d];
            let v = magnitude(x, scale, top) + 0.5;
            some += vec2<f32>(v * abs(x), v * v);
        }
        sums += some;
    }
    return sums;
}

// add, mul, err of the code at a scale; all rows but zero have a `largest`.
fn factors(first: u32, scale: f32, top: f32, largest: f32) -> vec3<f32> {
    var rescale = 0.0;
    var square = 0.0;
    var at_center = 0.0;
    let vr = products(first, scale, top).x;
    for (var chunk = 0u; chunk < params.dim; chunk += CHUNK) {
        var some = vec2<f32>();
        for (var d = chunk; d < min(chunk + CHUNK, params.dim); d += 1u) {
            let x = residuals[first + d];
            some += vec2<f32>(x * x, x * center[d]);
        }
        square += some.x;
        at_center += some.y;
    }
    if largest > 0.0 {
        rescale = square / vr;
    }
    // <v, centroid - center>, and |rescale v - r|^2: what of r the code misses.
    var product = 0.0;
    var missed = 0.0;
    for (var chunk = 0u; chunk < params.dim; chunk += CHUNK) {
        var some = vec2<f32>();
        for (var d = chunk; d < min(chunk + CHUNK, params.dim); d += 1u) {
            let x = residuals[first + d];
            let size = magnitude(x, scale, top) + 0.5;
            let v = select(-size, size, x >= 0.0);
            let miss = rescale * v - x;
            some += vec2<f32>(v * (centroids[first + d] - center[d]), miss * miss);
        }
        product += some.x;
        missed += some.y;
    }
    var err = 0.0;
    if largest > 0.0 {
        err = EPSILON_0 * sqrt(missed) / sqrt(f32(max(params.dim, 2u) - 1u));
    }
    if params.inner_product == 1u {
        return vec3<f32>(-at_center, -rescale, err);
    }
    let mul = -2.0 * rescale;
    return vec3<f32>(square - mul * product, mul, 2.0 * err);
}

// Sixteen coordinates of a plane; planes follow one another, `words` of sixteen coordinates each.
fn plane_word(number: u32, first: u32, scale: f32, top: f32) -> u32 {
    let words = (params.dim + 15u) / 16u;
    let plane = number / words;
    if plane >= params.bits {
        return 0u;
    }
    let half = 1u << (params.bits - 1u);
    let begin = (number % words) * 16u;
    var bits = 0u;
    for (var d = begin; d < min(begin + 16u, params.dim); d += 1u) {
        let x = residuals[first + d];
        let size = u32(magnitude(x, scale, top));
        let code = select(half - 1u - size, half + size, x >= 0.0);
        bits |= ((code >> plane) & 1u) << (d - begin);
    }
    return bits;
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = group.x + group.y * params.fold;
    if i >= params.count {
        return;
    }
    let first = i * params.width;
    var own = 0.0;
    for (var d = thread; d < params.dim; d += THREADS) {
        own = max(own, abs(residuals[first + d]));
    }
    largests[thread] = own;
    workgroupBarrier();
    var largest = 0.0;
    for (var other = 0u; other < THREADS; other += 1u) {
        largest = max(largest, largests[other]);
    }
    let levels = f32(1u << (params.bits - 1u));
    let many = params.bits > 1u && largest > 0.0;
    var cosine = 0.0;
    if many && thread < SCALES {
        let scale = levels / largest * (0.95 + 2.0 * f32(thread) / f32(SCALES));
        let both = products(first, scale, levels - 1.0);
        cosine = both.x / sqrt(both.y);
    }
    cosines[thread] = cosine;
    workgroupBarrier();
    var scale = 0.0;
    var top = 0.0;
    if many {
        var best = 0u;
        for (var other = 1u; other < SCALES; other += 1u) {
            if cosines[other] > cosines[best] {
                best = other;
            }
        }
        scale = levels / largest * (0.95 + 2.0 * f32(best) / f32(SCALES));
        top = levels - 1.0;
    }
    let row = i * params.row_words;
    if thread == 0u {
        let signs = factors(first, 0.0, 0.0, largest);
        out[row] = bitcast<u32>(signs.x);
        // Look-ups sum +-1, twice the +-1/2 of one-bit codes.
        out[row + 1u] = bitcast<u32>(0.5 * signs.y);
        out[row + 2u] = bitcast<u32>(signs.z);
    }
    if thread == 1u && params.bits > 1u {
        let all_bits = factors(first, scale, top, largest);
        out[row + 3u] = bitcast<u32>(all_bits.x);
        out[row + 4u] = bitcast<u32>(all_bits.y);
        out[row + 5u] = bitcast<u32>(all_bits.z);
    }
    let planes_at = select(6u, 3u, params.bits == 1u);
    for (var word = thread; word < params.row_words - planes_at; word += THREADS) {
        let low = plane_word(2u * word, first, scale, top);
        out[row + planes_at + word] = low | (plane_word(2u * word + 1u, first, scale, top) << 16u);
    }
}
