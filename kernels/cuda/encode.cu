// Product quantisation: rows as quantisers see them, rotated where there is a rotation, then the nearest centroid of each
// sub-space.
//
// In: rows at a pitch. Out: chosen (n, m) bytes, two to a byte where codes have 4 bits. Stages, over a batch of rows:
//   1. encode_prepare: f32, times the inverse norm (cosine), minus the row's centroid (residuals): (batch, dim).
//   2. encode_rotate: a product with the (dim, dim) rotation.
//   3. encode_narrow, encode_wide: nearest of 16 or 256 centroids; encode_pack for 4 bits.
// Without a rotation every operation and its order is that of the CPU twin (kernels/src/cpu/quantise.rs, typed_encode and
// nearest_centroid), so the codes are equal. Bound by arithmetic: 3 operations a coordinate and centroid.
#include "elements.cuh"

/// out (batch, dim) from rows row_first .. row_first + batch. `factors` (inverse norms, of all rows) and `centroids`
/// (nlist, dim) with `assignments` (batch) may be null. Blocks of 256, any number.
#define PREPARE(T, suffix)                                                                                             \
    KILN_KERNEL(256, encode_prepare_##suffix,                                                                          \
                (const u8* data, u64 pitch, const float* factors, const float* centroids, const u32* assignments,      \
                 float* out, u64 row_first, u64 batch, u32 dim)) {                                                     \
        const u64 cells = batch * dim, step = static_cast<u64>(gridDim.x) * blockDim.x;                                \
        for (u64 cell = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; cell < cells; cell += step) {         \
            const u64 i = cell / dim;                                                                                  \
            const u32 column = static_cast<u32>(cell % dim);                                                           \
            float x = to_float(row_at<T>(data, pitch, row_first + i)[column]);                                         \
            if (factors != nullptr) x = __fmul_rn(x, factors[row_first + i]);                                          \
            if (centroids != nullptr) x = __fsub_rn(x, centroids[static_cast<u64>(assignments[i]) * dim + column]);    \
            out[cell] = x;                                                                                             \
        }                                                                                                              \
    }
KILN_FOR_EACH_TYPE(PREPARE)
#undef PREPARE

/// out (batch, dim) = x (batch, dim) * rotation (dim, dim)^T. Tiles of 64 x 64, 16 coordinates at a time; a thread has
/// 4 x 4 sums. Grid (batch / 64, dim / 64), blocks of 256.
KILN_KERNEL(256, encode_rotate, (const float* x, const float* rotation, float* out, u64 batch, u32 dim)) {
    constexpr u32 TILE = 64, STEP = 16;
    // One more, so that a column's writes fall into different banks.
    __shared__ float rows[STEP][TILE + 1], columns[STEP][TILE + 1];
    const u64 first_row = static_cast<u64>(blockIdx.x) * TILE;
    const u32 first_column = blockIdx.y * TILE;
    const u32 across = threadIdx.x % 16, down = threadIdx.x / 16;
    float sums[4][4] = {};
    for (u32 first = 0; first < dim; first += STEP) {
        for (u32 i = threadIdx.x; i < TILE * STEP; i += 256) {
            const u32 row = i / STEP, k = i % STEP;
            const bool inside = first + k < dim;
            rows[k][row] = inside && first_row + row < batch ? x[(first_row + row) * dim + first + k] : 0.0f;
            columns[k][row] =
                inside && first_column + row < dim ? rotation[static_cast<u64>(first_column + row) * dim + first + k] : 0.0f;
        }
        __syncthreads();
        for (u32 k = 0; k < STEP; k++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 4; j++)
                    sums[i][j] = __fmaf_rn(rows[k][down + 16 * i], columns[k][across + 16 * j], sums[i][j]);
        }
        __syncthreads();
    }
    for (u32 i = 0; i < 4; i++) {
        for (u32 j = 0; j < 4; j++) {
            const u64 row = first_row + down + 16 * i;
            const u32 column = first_column + across + 16 * j;
            if (row < batch && column < dim) out[row * dim + column] = sums[i][j];
        }
    }
}

namespace encode {

/// Where sub-space `s` of `m` starts: the first dim % m are one coordinate wider.
__device__ __forceinline__ u32 start(u32 dim, u32 m, u32 s) { return s * (dim / m) + min(s, dim % m); }

/// Sub-spaces of up to W coordinates: a thread a row, whose sub-vector stays in registers, and all centroids in shared
/// memory, where every thread reads the same one.
template <u32 W>
__device__ void narrow(const float* x, const float* centroids, u8* chosen, u64 batch, u32 dim, u32 m, u32 count) {
    __shared__ float4 shared[256 * W / 4];
    float* const table = reinterpret_cast<float*>(shared);
    const u32 s = blockIdx.y, first = start(dim, m, s), width = start(dim, m, s + 1) - first;
    // Centroids lie sub-space by sub-space, (count, width) each: `first * count` values come before.
    const float* const mine = centroids + static_cast<u64>(first) * count;
    for (u32 i = threadIdx.x; i < count * W; i += blockDim.x)
        table[i] = i % W < width ? mine[i / W * width + i % W] : 0.0f;
    __syncthreads();
    const u64 step = static_cast<u64>(gridDim.x) * blockDim.x;
    for (u64 row = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; row < batch; row += step) {
        float values[W];
#pragma unroll
        for (u32 i = 0; i < W; i++) values[i] = i < width ? x[row * dim + first + i] : 0.0f;
        float best = infinity();
        u32 nearest = 0;
        for (u32 c = 0; c < count; c++) {
            float score = 0.0f;
#pragma unroll
            for (u32 i = 0; i < W; i += 4) {
                const float4 part = shared[(c * W + i) / 4];
                const float d[4] = {__fsub_rn(values[i], part.x), __fsub_rn(values[i + 1], part.y),
                                    __fsub_rn(values[i + 2], part.z), __fsub_rn(values[i + 3], part.w)};
#pragma unroll
                for (u32 j = 0; j < 4; j++) score = __fadd_rn(score, __fmul_rn(d[j], d[j]));
            }
            if (score < best) {
                best = score;
                nearest = c;
            }
        }
        chosen[row * m + s] = static_cast<u8>(nearest);
    }
}

}  // namespace encode

/// chosen (batch, m): the nearest of `count` centroids (at most 256) in sub-spaces of at most W coordinates. Grid (any,
/// m), blocks of 256.
#define NARROW(W)                                                                                                   \
    KILN_KERNEL(256, encode_narrow_##W,                                                                             \
                (const float* x, const float* centroids, u8* chosen, u64 batch, u32 dim, u32 m, u32 count)) {       \
        encode::narrow<W>(x, centroids, chosen, batch, dim, m, count);                                              \
    }
NARROW(4)
NARROW(8)
NARROW(16)
#undef NARROW

/// The same for sub-spaces of any width: a block a row and sub-space, a thread a centroid. Grid (batch, m), blocks of 256.
KILN_KERNEL(256, encode_wide,
            (const float* x, const float* centroids, u8* chosen, u64 batch, u32 dim, u32 m, u32 count)) {
    __shared__ u64 best[256 / WARP];
    if (blockIdx.x >= batch) return;
    const u32 s = blockIdx.y, first = encode::start(dim, m, s), width = encode::start(dim, m, s + 1) - first;
    const float* const row = x + static_cast<u64>(blockIdx.x) * dim + first;
    u64 key = ~0ull;
    if (threadIdx.x < count) {
        const float* const centroid = centroids + static_cast<u64>(first) * count + static_cast<u64>(threadIdx.x) * width;
        float score = 0.0f;
        for (u32 i = 0; i < width; i++) {
            const float d = __fsub_rn(row[i], centroid[i]);
            score = __fadd_rn(score, __fmul_rn(d, d));
        }
        key = order_key(score, threadIdx.x);
    }
    key = warp_min(key);
    if (lane_id() == 0) best[warp_id()] = key;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (u32 warp = 1; warp < 256 / WARP; warp++) key = min(key, best[warp]);
    chosen[static_cast<u64>(blockIdx.x) * m + s] = static_cast<u8>(key_id(key));
}

/// codes (batch, (m + 1) / 2): two of chosen (batch, m) a byte, the even sub-space in the low half. Blocks of 256, one
/// thread a byte.
KILN_KERNEL(256, encode_pack, (const u8* chosen, u8* codes, u64 batch, u32 m)) {
    const u32 width = (m + 1) / 2;
    const u64 at = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= batch * width) return;
    const u64 row = at / width;
    const u32 even = static_cast<u32>(at % width) * 2;
    const u32 high = even + 1 < m ? chosen[row * m + even + 1] : 0;
    codes[at] = static_cast<u8>(chosen[row * m + even] | high << 4);
}
