// Purpose: product quantisation: the nearest centroid of every sub-vector, packed.
//
// Shapes: columns (dim, count) f32; centroids f32, for each sub-space from sub_first on (ksub, width) row-major,
//   beginning at coordinate coordinate_first; codes (count, words) u32, little-endian: 4 codes of 8 bits or 8 codes of
//   4 bits a word, the first in the low bits. The first `wider` sub-spaces have width + 1 coordinates.
// Launch: one thread for a row's word; workgroups of 64 rows, `group.y` counts words from word_first.
// A sub-space's centroids are read by all threads of a workgroup at once. Ties go to the lower number.
// CPU twin: cpu/quantise.rs; plain::pq_encode.

struct Params {
    count: u32,
    words: u32,
    word_first: u32,
    word_count: u32,
    m: u32,
    bits: u32,
    width: u32,
    wider: u32,
    coordinate_first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> columns: array<f32>;
@group(0) @binding(2) var<storage, read> centroids: array<f32>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;

fn nearest_centroid(row: u32, sub: u32) -> u32 {
    let begin = sub * params.width + min(sub, params.wider);
    let width = params.width + select(0u, 1u, sub < params.wider);
    let ksub = 1u << params.bits;
    let base = (begin - params.coordinate_first) * ksub;
    var least = vec2<u32>(NO_ROW, 0u);
    for (var c = 0u; c < ksub; c += 1u) {
        var sum = 0.0;
        for (var first = 0u; first < width; first += 256u) {
            var part = 0.0;
            for (var d = first; d < min(first + 256u, width); d += 1u) {
                let difference = columns[(begin + d) * params.count + row] - centroids[base + c * width + d];
                part += difference * difference;
            }
            sum += part;
        }
        let key = key_of(sum);
        if key < least.x {
            least = vec2<u32>(key, c);
        }
    }
    return least.y;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let row = at.x;
    if row >= params.count || at.y >= params.word_count {
        return;
    }
    let word = params.word_first + at.y;
    let codes_a_word = 32u / params.bits;
    var packed = 0u;
    for (var i = 0u; i < codes_a_word; i += 1u) {
        let sub = word * codes_a_word + i;
        if sub < params.m {
            packed |= nearest_centroid(row, sub) << (i * params.bits);
        }
    }
    codes[row * params.words + word] = packed;
}
