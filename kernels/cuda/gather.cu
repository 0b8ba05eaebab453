// Distances of given pairs of rows.
//
// In: queries (n, dim) and base rows (m, dim), each at its pitch; pairs (count) of a query and a base row. Out: ordering
// distances (count) by the metric. A group of lanes takes a pair, 16 bytes of the base row a lane and step, so that a row
// of 128 bytes is one load of eight lanes; the group's size follows from the pitch alone, and so does the order of sums.
// Bytes are summed exactly: L2 as |q|^2 + |b|^2 - 2 q.b in integers, where the sum that matters stays below 2^32.
// Bound by reading the base rows. CPU twin: kernels/src/cpu/mod.rs, GatherTask.
#include "elements.cuh"

namespace gather {

/// E elements of type T in 16 bytes.
template <class T>
struct Piece {
    static constexpr u32 E = 16 / sizeof(T);
    T x[E];
};

template <class T>
__device__ __forceinline__ Piece<T> load(const T* row, u32 piece) {
    const uint4 words = __ldg(reinterpret_cast<const uint4*>(row) + piece);
    Piece<T> loaded;
    memcpy(&loaded, &words, sizeof words);
    return loaded;
}

template <class T>
struct IsBytes {
    static constexpr bool value = false;
};
template <>
struct IsBytes<u8> {
    static constexpr bool value = true;
};
template <>
struct IsBytes<i8> {
    static constexpr bool value = true;
};

__device__ __forceinline__ u32 dot4(u32 a, u32 b, u32 sum, u8) { return __dp4a(a, b, sum); }
__device__ __forceinline__ u32 dot4(u32 a, u32 b, u32 sum, i8) {
    return static_cast<u32>(__dp4a(static_cast<i32>(a), static_cast<i32>(b), static_cast<i32>(sum)));
}

/// Sums over a group of `lanes` lanes, all of them the same in every lane.
template <class S>
__device__ __forceinline__ S group_sum(S sum, u32 lanes) {
    for (u32 bit = lanes / 2; bit > 0; bit /= 2) sum += __shfl_xor_sync(FULL, sum, bit);
    return sum;
}

/// q.b of two rows of bytes, modulo 2^32.
template <class T>
__device__ u32 integer_dot(const T* query, const T* row, u32 pieces, u32 lanes, u32 place) {
    u32 sum = 0;
    for (u32 piece = place; piece < pieces; piece += lanes) {
        const uint4 a = __ldg(reinterpret_cast<const uint4*>(query) + piece);
        const uint4 b = __ldg(reinterpret_cast<const uint4*>(row) + piece);
        sum = dot4(a.x, b.x, sum, T());
        sum = dot4(a.y, b.y, sum, T());
        sum = dot4(a.z, b.z, sum, T());
        sum = dot4(a.w, b.w, sum, T());
    }
    return group_sum(sum, lanes);
}

/// Squared L2 or dot product in f32.
template <bool L2_SUM, class A, class B>
__device__ float float_sum(const A* query, const B* row, u32 dim, u32 pieces, u32 lanes, u32 place) {
    constexpr u32 E = Piece<B>::E, QUERY_E = Piece<A>::E;
    float sum = 0.0f;
    for (u32 piece = place; piece < pieces; piece += lanes) {
        const Piece<B> b = load(row, piece);
#pragma unroll
        for (u32 first = 0; first < E; first += QUERY_E) {
            // A wider query ends earlier than the padding of the base row, which is zero.
            if (piece * E + first >= dim) break;
            const Piece<A> a = load(query, (piece * E + first) / QUERY_E);
#pragma unroll
            for (u32 i = 0; i < QUERY_E; i++) {
                const float x = to_float(a.x[i]), y = to_float(b.x[first + i]);
                const float factor = L2_SUM ? x - y : x, other = L2_SUM ? factor : y;
                sum = __fmaf_rn(factor, other, sum);
            }
        }
    }
    return group_sum(sum, lanes);
}

struct Rows {
    const u8* data;
    u64 pitch;
    const float* inverse_norms;   // (n) under cosine
    const i32* integer_norms;     // (n) of bytes
};

template <class A, class B>
__device__ float distance(const Rows& queries, const Rows& base, u32 query, u32 row, u32 dim, u32 metric, u32 lanes, u32 place) {
    const A* q = row_at<A>(queries.data, queries.pitch, query);
    const B* b = row_at<B>(base.data, base.pitch, row);
    const u32 pieces = (dim + Piece<B>::E - 1) / Piece<B>::E;
    float dot;
    if constexpr (IsBytes<A>::value && IsBytes<B>::value) {
        const u32 exact = integer_dot(q, b, pieces, lanes, place);
        if (metric == L2) {
            const u32 squares = static_cast<u32>(queries.integer_norms[query]) + static_cast<u32>(base.integer_norms[row]);
            return static_cast<float>(squares - 2 * exact);
        }
        dot = static_cast<float>(static_cast<i32>(exact));
    } else {
        if (metric == L2) return float_sum<true>(q, b, dim, pieces, lanes, place);
        dot = float_sum<false>(q, b, dim, pieces, lanes, place);
    }
    if (metric == INNER_PRODUCT) return -dot;
    return __fsub_rn(1.0f, __fmul_rn(__fmul_rn(dot, queries.inverse_norms[query]), base.inverse_norms[row]));
}

}  // namespace gather

/// Blocks of 256; `lanes` (a power of two up to 32) share a pair, so a block takes 256 / lanes pairs.
#define GATHER(A, B, suffix)                                                                                           \
    KILN_KERNEL(256, gather_##suffix,                                                                                  \
                (gather::Rows queries, gather::Rows base, const u32* query_of, const u32* row_of, float* distances,    \
                 u64 count, u32 dim, u32 metric, u32 lanes)) {                                                         \
        const u64 pair = (static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x) / lanes;                            \
        const u32 place = threadIdx.x % lanes;                                                                         \
        /* All lanes compute, for the sums are of whole groups. */                                                     \
        const u64 taken = pair < count ? pair : count - 1;                                                             \
        const float d = gather::distance<A, B>(queries, base, query_of[taken], row_of[taken], dim, metric, lanes, place); \
        if (place == 0 && pair < count) distances[pair] = d;                                                           \
    }
KILN_FOR_EACH_PAIR(GATHER)
#undef GATHER
