// Distances from dot products, and exact distances of two rows.
//
// The same expressions, in the same order, serve products and single rows: where the product is exact (bytes), what a
// tile selects by is bit for bit what a row kernel would return, and nothing has to be scored again. CPU twins:
// `distance::QueryGeometry` and `distance::GraphGeometry`.
#pragma once

#include "tile.cuh"

namespace kiln {

/// How a distance is made of a dot product and what is kept beside the rows.
enum Mode : u32 {
    MODE_L2 = 0,             // |a|^2 + |b|^2 - 2 ab
    MODE_INNER_PRODUCT = 1,  // -ab
    MODE_COSINE = 2,         // 1 - ab / |a| / |b|
    MODE_GRAPH_INNER = 3,    // squared L2 of rows lifted by one coordinate, `aux`
    MODE_GRAPH_COSINE = 4,   // 1 - ab / (|a| |b|), at least 0
    MODE_SCALED_L2 = 5,      // squared L2 of a scaled by `aux` to unit length, and b: k-means under cosine
};

/// What one row brings to a distance.
template <class Acc>
struct RowTerms {
    Acc norm;
    float aux;
};

/// The terms of row `number`, or zeros where the row does not exist.
template <class Acc>
__device__ __forceinline__ RowTerms<Acc> row_terms(const RowSet& set, u32 number) {
    RowTerms<Acc> terms{0, 1.0f};
    if (number != PAD_ID) {
        if (set.norms != nullptr) terms.norm = static_cast<const Acc*>(set.norms)[number];
        if (set.aux != nullptr) terms.aux = set.aux[number];
    }
    return terms;
}

/// Everything of a distance that follows the squared L2 and the dot product of the rows.
__device__ __forceinline__ float finish_distance(u32 mode, float l2, float dot, float aux_a, float aux_b) {
    if (mode == MODE_L2 || mode == MODE_SCALED_L2) return l2;
    if (mode == MODE_INNER_PRODUCT) return -dot;
    if (mode == MODE_COSINE) return __fsub_rn(1.0f, __fmul_rn(__fmul_rn(dot, aux_a), aux_b));
    if (mode == MODE_GRAPH_COSINE) return fmaxf(__fsub_rn(1.0f, __fmul_rn(dot, __fmul_rn(aux_a, aux_b))), 0.0f);
    const float lift = __fsub_rn(aux_a, aux_b);
    return __fadd_rn(l2, __fmul_rn(lift, lift));
}

/// Bytes: exact, rounded once. Sums wrap, their result fits.
__device__ __forceinline__ float distance_of(u32 mode, i32 dot, RowTerms<i32> a, RowTerms<i32> b) {
    const u32 l2 = static_cast<u32>(a.norm) + static_cast<u32>(b.norm) - 2u * static_cast<u32>(dot);
    return finish_distance(mode, static_cast<float>(static_cast<i32>(l2)), static_cast<float>(dot), a.aux, b.aux);
}

/// Floats: as near as the product is.
__device__ __forceinline__ float distance_of(u32 mode, float dot, RowTerms<float> a, RowTerms<float> b) {
    if (mode == MODE_SCALED_L2) {
        // A row without direction is 0.
        const float square = a.aux > 0.0f ? 1.0f : 0.0f;
        return __fmaf_rn(-2.0f * a.aux, dot, square + b.norm);
    }
    return finish_distance(mode, __fmaf_rn(-2.0f, dot, a.norm + b.norm), dot, a.aux, b.aux);
}

/// Squared L2 and dot product of two rows.
struct RowSums {
    float l2, dot;
};

__device__ __forceinline__ float load_1(const char* row, u32 type, u32 i) {
    if (type == TYPE_F32) return reinterpret_cast<const float*>(row)[i];
    if (type == TYPE_F16) return half_bits_to_float(reinterpret_cast<const unsigned short*>(row)[i]);
    if (type == TYPE_U8) return static_cast<float>(reinterpret_cast<const unsigned char*>(row)[i]);
    return static_cast<float>(reinterpret_cast<const signed char*>(row)[i]);
}

/// Two rows of bytes, exactly. The pad is zero and adds nothing.
template <class Word>
__device__ __forceinline__ RowSums byte_sums(const char* a, const char* b, u32 dim) {
    Word squares = 0, dot = 0;
    for (u32 i = lane_id(); i < (dim + 3) / 4; i += WARP) {
        const Word x = reinterpret_cast<const Word*>(a)[i], y = reinterpret_cast<const Word*>(b)[i];
        squares = __dp4a(x, x, __dp4a(y, y, squares));
        dot = __dp4a(x, y, dot);
    }
    const u32 all_squares = warp_sum(static_cast<u32>(squares)), all_dot = warp_sum(static_cast<u32>(dot));
    return {static_cast<float>(static_cast<i32>(all_squares - 2u * all_dot)), static_cast<float>(static_cast<i32>(all_dot))};
}

/// Squared L2 and dot product of two rows by one whole warp, in every lane; `scale` multiplies the coordinates of `a`.
/// Each lane sums every 32nd coordinate (pairs of halves), then lanes are added in the order of a tree: always the same.
__device__ inline RowSums row_sums(const char* a, u32 type_a, float scale, const char* b, u32 type_b, u32 dim) {
    if (type_a == TYPE_U8 && type_b == TYPE_U8) return byte_sums<u32>(a, b, dim);
    if (type_a == TYPE_I8 && type_b == TYPE_I8) return byte_sums<i32>(a, b, dim);
    float l2 = 0.0f, dot = 0.0f;
    if (type_a == TYPE_F16 && type_b == TYPE_F16) {
        for (u32 i = lane_id(); i < (dim + 1) / 2; i += WARP) {
            const u32 x = reinterpret_cast<const u32*>(a)[i], y = reinterpret_cast<const u32*>(b)[i];
#pragma unroll
            for (int part = 0; part < 32; part += 16) {
                const float p = half_bits_to_float(x >> part & 0xffffu) * scale, q = half_bits_to_float(y >> part & 0xffffu);
                const float difference = __fsub_rn(p, q);
                l2 = __fmaf_rn(difference, difference, l2);
                dot = __fmaf_rn(p, q, dot);
            }
        }
    } else {
        for (u32 i = lane_id(); i < dim; i += WARP) {
            const float p = __fmul_rn(load_1(a, type_a, i), scale), q = load_1(b, type_b, i);
            const float difference = __fsub_rn(p, q);
            l2 = __fmaf_rn(difference, difference, l2);
            dot = __fmaf_rn(p, q, dot);
        }
    }
    return {warp_sum(l2), warp_sum(dot)};
}

/// Exact distance of two rows by one whole warp, in every lane.
__device__ inline float row_distance(u32 mode, const RowSet& a, u32 number_a, const RowSet& b, u32 number_b) {
    const float aux_a = a.aux != nullptr ? a.aux[number_a] : 1.0f, aux_b = b.aux != nullptr ? b.aux[number_b] : 1.0f;
    const float scale = mode == MODE_SCALED_L2 ? aux_a : 1.0f;
    const RowSums sums = row_sums(a.row(number_a), a.type, scale, b.row(number_b), b.type, a.dim);
    return finish_distance(mode, sums.l2, sums.dot, aux_a, aux_b);
}

}  // namespace kiln
