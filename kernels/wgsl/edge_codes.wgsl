// Purpose: codes of the neighbours of nodes, into pages that hold zeros in their place (pack.wgsl).
//
// Shapes: rotated (rows, padded) f32, see hadamard.wgsl; node_rows (nodes) and neighbor_rows (offsets[nodes]) name rows of
//   it, offsets (nodes + 1) say which neighbours are a node's; center (padded) f32, zeros behind `dim`; pages u32. The
//   codes of a node's sixteen neighbours begin at word codes_at of the node, block_words a block.
// Launch: one thread a place, workgroups of 64 (four blocks), in a grid folded at `fold` workgroups; 256 bytes of workgroup
//   memory. Sixteen sums side by side, then by halves, as the twin has them. Roots and quotients may differ in their last
//   bits: a level may fall on the other side of a border that a coordinate lies on.
// CPU twin: edge_codes/encode.rs.

struct Params {
    dim: u32,
    padded: u32,
    bits: u32,
    metric: u32,
    node_words: u32,
    nodes_a_page: u32,
    page_words: u32,
    codes_at: u32,
    block_words: u32,
    max_degree: u32,
    nodes: u32,
    // The quantiser's step and the units of the two factors, as f32 bits.
    step: u32,
    additive_unit: u32,
    multiplicative_unit: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rotated: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> node_rows: array<u32>;
@group(0) @binding(3) var<storage, read> neighbor_rows: array<u32>;
@group(0) @binding(4) var<storage, read> offsets: array<u32>;
@group(0) @binding(5) var<storage, read> center: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> pages: array<u32>;

const LANES = 16u;
const L2 = 0u;
const COSINE = 2u;
const HALF_INFINITY = 0x7c00u;

// Both factors of each place, as f16.
var<workgroup> factors: array<u32, 64>;

// Sixteen sums, four by four.
struct Sums {
    fours: array<vec4<f32>, 4>,
}

fn by_halves(sums: Sums) -> f32 {
    let eight = array<vec4<f32>, 2>(sums.fours[0] + sums.fours[2], sums.fours[1] + sums.fours[3]);
    let four = eight[0] + eight[1];
    let two = four.xy + four.zw;
    return two.x + two.y;
}

// An f32 rounded to f16, ties to even; what is too large becomes the largest.
fn half_bits(x: f32) -> u32 {
    let value = clamp(x, -65504.0, 65504.0);
    let sign = (bitcast<u32>(value) >> 16u) & 0x8000u;
    let magnitude = bitcast<u32>(value) & 0x7fffffffu;
    if magnitude < 0x38800000u {
        // Below 2^-14 the last place is 2^-24, which is also that of the numbers from 1/2 on.
        return sign | (bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u);
    }
    return sign | (((magnitude + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u) - (112u << 10u));
}

// `width` bits of four levels, in the place of part `part` of a word.
fn part_of(levels: vec4<u32>, shift: u32, width: u32, part: u32) -> u32 {
    let bits = (levels >> vec4<u32>(shift)) & vec4<u32>((1u << width) - 1u);
    return (bits.x | (bits.y << 8u) | (bits.z << 16u) | (bits.w << 24u)) << (width * part);
}

// Writes the codes of one neighbour from word `at` on; its factors.
fn encode(node: u32, neighbor: u32, at: u32) -> vec2<f32> {
    let quads = params.padded / 4u;
    let c_at = node * quads;
    let x_at = neighbor * quads;
    var squares = Sums();
    var zero_c = true;
    var zero_x = true;
    for (var quad = 0u; quad < quads; quad += 1u) {
        let x = rotated[x_at + quad];
        let c = rotated[c_at + quad];
        let r = x - c;
        squares.fours[quad % 4u] += r * r;
        zero_x = zero_x && all(x == vec4<f32>());
        zero_c = zero_c && all(c == vec4<f32>());
    }
    let squared = by_halves(squares);
    let deviation = sqrt(squared / f32(params.dim));
    var inverse = 0.0;
    if deviation > 0.0 {
        inverse = 1.0 / (bitcast<f32>(params.step) * deviation);
    }
    let top = f32((1u << params.bits) - 1u);
    let middle = top / 2.0;
    // Three bits lie as two and one.
    let low_width = select(params.bits, 2u, params.bits == 3u);
    let high_at = at + params.padded;
    var low_word = 0u;
    var high_word = 0u;
    var with_difference = Sums();
    var with_node = Sums();
    var with_center = Sums();
    for (var quad = 0u; quad < quads; quad += 1u) {
        let c = rotated[c_at + quad];
        let r = rotated[x_at + quad] - c;
        let level = min(floor(clamp(r * inverse + (middle + 0.5), vec4<f32>(), vec4<f32>(top + 0.5))), vec4<f32>(top));
        let centred = level - middle;
        with_difference.fours[quad % 4u] += centred * r;
        with_node.fours[quad % 4u] += centred * c;
        with_center.fours[quad % 4u] += centred * center[quad];
        let levels = vec4<u32>(level);
        let parts = 8u / low_width;
        low_word |= part_of(levels, 0u, low_width, quad % parts);
        if quad % parts == parts - 1u {
            pages[at + (quad / parts) * LANES] = low_word;
            low_word = 0u;
        }
        if params.bits == 3u {
            high_word |= part_of(levels, 2u, 1u, quad % 8u);
            if quad % 8u == 7u {
                pages[high_at + (quad / 8u) * LANES] = high_word;
                high_word = 0u;
            }
        }
    }
    let along = by_halves(with_difference);
    var g = 0.0;
    if along > 0.0 {
        g = squared / along;
    }
    let across = by_halves(with_node) - by_halves(with_center);
    if params.metric == L2 {
        return vec2<f32>(squared + 2.0 * g * across, -2.0 * g);
    }
    if params.metric == COSINE {
        // A zero row is at distance 1 from everything, where half a squared distance says 1/2.
        let correction = 0.5 * (select(0.0, 1.0, zero_x) - select(0.0, 1.0, zero_c));
        return vec2<f32>(0.5 * squared + g * across + correction, -g);
    }
    return vec2<f32>(0.0, -g);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let number = (group.x + group.y * params.fold) * 64u + thread;
    let node = number / params.max_degree;
    let place = number % params.max_degree;
    let exists = node < params.nodes;
    let page = (node / params.nodes_a_page) * params.page_words + (node % params.nodes_a_page) * params.node_words;
    let block = page + params.codes_at + (place / LANES) * params.block_words;
    let lane = place % LANES;
    var packed = HALF_INFINITY;
    if exists {
        let neighbor = offsets[node] + place;
        if neighbor < offsets[node + 1u] {
            let both = encode(node_rows[node], neighbor_rows[neighbor], block + lane);
            let additive = half_bits(both.x / bitcast<f32>(params.additive_unit));
            packed = additive | (half_bits(both.y / bitcast<f32>(params.multiplicative_unit)) << 16u);
        }
    }
    factors[thread] = packed;
    workgroupBarrier();
    // A word holds the factors of two neighbours.
    if exists && thread % 2u == 0u {
        let other = factors[thread + 1u];
        let at = block + params.block_words - LANES + lane / 2u;
        pages[at] = (packed & 0xffffu) | (other << 16u);
        pages[at + LANES / 2u] = (packed >> 16u) | (other & 0xffff0000u);
    }
}
