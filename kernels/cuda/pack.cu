// Nodes of a graph as they lie in pages of an index file: vector record, places, codes of the neighbours.
//
// In: rows at a pitch; of each node its row, its neighbours' positions and, for codes, rotated rows (rotate.cu). Out: pages,
// which are zero before. Layout: builder/FORMAT.md, `nodes`. Stages:
//   1. pack_records: a warp a node copies its row and its places.
//   2. pack_codes: sixteen threads a neighbour, a block for the sixteen of one block of codes.
// Sums run over sixteen lanes and then by halves, every operation is rounded by itself: the bytes are those of the CPU twin
// (kernels/src/nodes/pack.rs, kernels/src/edge_codes/encode.rs). Bound by reading rotated neighbours, twice.
#include "elements.cuh"

namespace pack {

/// Neighbours of one block of codes, and threads that share one.
constexpr u32 LANES = 16;

/// How nodes lie in pages, in words of four bytes, as the host describes it (kernels/src/cuda/pack.rs).
struct Layout {
    u32 node_words, nodes_a_page, page_words;
    /// Of the vector's coordinates, and of the whole record.
    u32 coordinate_words, record_words;
    u32 max_degree;
    /// 1 in the compact layout.
    u32 compact;
};

/// What neighbours are coded with.
struct Codes {
    u32 dim, padded, bits, metric;
    /// Of the best quantiser of a Gaussian, in standard deviations.
    float step;
    float additive_unit, multiplicative_unit;
};

__device__ __forceinline__ u32* node_at(u32* pages, const Layout& layout, u32 i) {
    const u64 page = static_cast<u64>(i / layout.nodes_a_page) * layout.page_words;
    return pages + page + static_cast<u64>(i % layout.nodes_a_page) * layout.node_words;
}

/// Sum over the sixteen lanes of a neighbour, by halves; every lane gets it.
__device__ __forceinline__ float sum(float x) {
#pragma unroll
    for (u32 bit = LANES / 2; bit > 0; bit /= 2) x = __fadd_rn(x, __shfl_xor_sync(FULL, x, bit));
    return x;
}

/// Whether `vote` holds in all lanes of the neighbour.
__device__ __forceinline__ bool all_lanes(bool vote) {
    const u32 own = 0xffffu << (lane_id() / LANES * LANES);
    return (__ballot_sync(FULL, vote) & own) == own;
}

/// A factor in its unit as f16: infinity stays, other values are kept finite.
__device__ __forceinline__ u16 rounded(float value) {
    if (value == infinity()) return 0x7c00;
    value = value < -65504.0f ? -65504.0f : value > 65504.0f ? 65504.0f : value;
    return __half_as_ushort(__float2half_rn(value));
}

/// Writes one plane of codes: `width` bits of each level, of coordinate d = lane + 16 i. Lanes that share a word put it
/// together; words of one bit take two rounds, the first of which is kept in `carry`.
struct Plane {
    u32* words;
    u32 width, shift, carry;

    __device__ __forceinline__ void put(u32 level, u32 d, bool present) {
        const u32 a_word = 32 / width, within = d % a_word;
        u32 value = (level >> shift & ((1u << width) - 1)) << (8 * (within % 4) + width * (within / 4));
        for (u32 bit = 1; bit < min(a_word, LANES); bit *= 2) value |= __shfl_xor_sync(FULL, value, bit);
        if (a_word > LANES && within < LANES) {
            carry = value;
            return;
        }
        if (a_word > LANES) value |= carry;
        if (present && within % min(a_word, LANES) == 0) words[d / a_word * LANES] = value;
    }
};

}  // namespace pack

/// Records and places of `count` nodes: node i has row rows[i] and the places positions[offsets[i] .. offsets[i + 1]).
/// `norms` (inverse norms, of all rows) is null where records have none. Blocks of 256, a warp a node.
KILN_KERNEL(256, pack_records,
            (const u8* data, u64 pitch, const float* norms, const u32* rows, const u32* offsets, const u32* positions,
             u32* pages, pack::Layout layout, u32 count)) {
    const u32 i = blockIdx.x * (blockDim.x / WARP) + warp_id();
    if (i >= count) return;
    u32* const node = pack::node_at(pages, layout, i);
    // The bytes behind a row are zero, as those behind its coordinates in a record are.
    const u32* const row = row_at<u32>(data, pitch, rows[i]);
    for (u32 word = lane_id(); word < layout.coordinate_words; word += WARP) node[word] = row[word];
    const u32 first = offsets[i], degree = offsets[i + 1] - first;
    u32* const places = node + layout.record_words + layout.compact;
    if (lane_id() == 0) {
        if (norms != nullptr) node[layout.coordinate_words] = __float_as_uint(norms[rows[i]]);
        if (layout.compact) places[-1] = degree;
    }
    for (u32 place = lane_id(); place < layout.max_degree; place += WARP) {
        if (place < degree) places[place] = positions[first + place];
        else if (!layout.compact) places[place] = FULL;
    }
}

/// Codes of the neighbours of all nodes. Rows of `rotated` (rows, padded): node i is node_rows[i], its neighbours are
/// neighbor_rows[offsets[i] .. offsets[i + 1]). Grid (nodes x max_degree / 16), blocks of 256.
KILN_KERNEL(256, pack_codes,
            (const float* rotated, const u32* node_rows, const u32* neighbor_rows, const u32* offsets, const float* center,
             u32* pages, pack::Layout layout, pack::Codes codes)) {
    using pack::LANES;
    const u32 blocks = layout.max_degree / LANES;
    const u32 i = blockIdx.x / blocks, block = blockIdx.x % blocks;
    const u32 neighbor = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const u32 place = block * LANES + neighbor, first = offsets[i], degree = offsets[i + 1] - first;
    const u32 factors_at = codes.padded * codes.bits / 2;
    u32* const words =
        pack::node_at(pages, layout, i) + layout.record_words + layout.max_degree + block * (factors_at + LANES);
    const bool present = place < degree;
    float additive = infinity(), multiplicative = 0.0f;
    // A block of places without neighbours has no codes.
    if (block * LANES < degree) {
        const float* const c = rotated + static_cast<u64>(node_rows[i]) * codes.padded;
        // Lanes of an empty place go along.
        const float* const x =
            present ? rotated + static_cast<u64>(neighbor_rows[first + place]) * codes.padded : c;
        float squares = 0.0f;
        bool zero_x = true, zero_c = true;
        for (u32 d = lane; d < codes.padded; d += LANES) {
            const float r = __fsub_rn(x[d], c[d]);
            squares = __fadd_rn(squares, __fmul_rn(r, r));
            zero_x = zero_x && x[d] == 0.0f;
            zero_c = zero_c && c[d] == 0.0f;
        }
        const float squared = pack::sum(squares);
        const float deviation = __fsqrt_rn(__fdiv_rn(squared, static_cast<float>(codes.dim)));
        const float inverse = deviation > 0.0f ? __fdiv_rn(1.0f, __fmul_rn(codes.step, deviation)) : 0.0f;
        const float top = static_cast<float>((1u << codes.bits) - 1), middle = top / 2.0f;
        const u32 whole = codes.dim / LANES * LANES;
        float with_difference = 0.0f, with_node = 0.0f, with_center = 0.0f, rest = 0.0f;
        // Three bits lie as two and one.
        pack::Plane low{words + neighbor, codes.bits == 3 ? 2 : codes.bits, 0, 0};
        pack::Plane high{words + neighbor + codes.padded, 1, 2, 0};
        for (u32 d = lane; d < codes.padded; d += LANES) {
            const float r = __fsub_rn(x[d], c[d]);
            float level = __fadd_rn(__fmul_rn(r, inverse), middle + 0.5f);
            level = level < 0.0f ? 0.0f : level > top + 0.5f ? top + 0.5f : level;
            level = fminf(floorf(level), top);
            const float centred = __fsub_rn(level, middle);
            with_difference = __fadd_rn(with_difference, __fmul_rn(centred, r));
            with_node = __fadd_rn(with_node, __fmul_rn(centred, c[d]));
            if (d < whole) with_center = __fadd_rn(with_center, __fmul_rn(centred, center[d]));
            else if (d < codes.dim) rest = __fmul_rn(centred, center[d]);
            low.put(static_cast<u32>(level), d, present);
            if (codes.bits == 3) high.put(static_cast<u32>(level), d, present);
        }
        with_difference = pack::sum(with_difference);
        with_node = pack::sum(with_node);
        // What fills no sixteen lanes is added up one after another.
        float rests = -0.0f;
        for (u32 other = 0; other < codes.dim - whole; other++)
            rests = __fadd_rn(rests, __shfl_sync(FULL, rest, other, LANES));
        with_center = __fadd_rn(pack::sum(with_center), rests);
        with_node = __fsub_rn(with_node, with_center);
        const bool copy_of_zero = pack::all_lanes(zero_x), at_zero = pack::all_lanes(zero_c);
        if (present) {
            const float g = with_difference > 0.0f ? __fdiv_rn(squared, with_difference) : 0.0f;
            if (codes.metric == L2) {
                additive = __fadd_rn(squared, __fmul_rn(__fmul_rn(2.0f, g), with_node));
                multiplicative = __fmul_rn(-2.0f, g);
            } else {
                additive = codes.metric == COSINE ? __fadd_rn(__fmul_rn(0.5f, squared), __fmul_rn(g, with_node)) : 0.0f;
                multiplicative = -g;
            }
            // A zero row is at distance 1 from everything, where half a squared distance says 1/2.
            if (codes.metric == COSINE) additive = __fadd_rn(additive, 0.5f * (copy_of_zero - at_zero));
        }
    }
    if (lane == 0) {
        u16* const factors = reinterpret_cast<u16*>(words + factors_at);
        factors[neighbor] = pack::rounded(__fdiv_rn(additive, codes.additive_unit));
        factors[LANES + neighbor] = pack::rounded(__fdiv_rn(multiplicative, codes.multiplicative_unit));
    }
}
