// Sums of the points of each centroid: a stable sort by centroid, then sums in a fixed order.
//
// In: assignments (n), points (n, dim) at a pitch. Out: counts (nlist), sums (nlist, dim) f64. Atomics only count; no float
// is ever added in an order that depends on scheduling:
//   1. sort_count, sort_scan, sort_move: one pass of a stable radix sort, 8 bits of the centroid's number, so that the rows
//      of a centroid lie side by side and ascend.
//   2. kmeans_segments: each segment of at most 1,024 rows of one centroid is summed in row order, a thread a coordinate.
//   3. kmeans_combine: the segments of a centroid are added in order.
// Bound by reading the points once. CPU twin: kernels/src/cpu/quantise.rs, typed_step.
#include "elements.cuh"

namespace sort {

constexpr u32 THREADS = 256, WARPS = THREADS / WARP, DIGITS = 256;
/// Keys of a block: consecutive ones, and each warp takes consecutive ones of them.
constexpr u32 ROUNDS = 16, OF_WARP = WARP * ROUNDS, OF_BLOCK = WARPS * OF_WARP;

__device__ __forceinline__ u32 digit(u32 key, u32 shift) { return key >> shift & (DIGITS - 1); }

/// Keys of each digit in each warp's part, counted into counts[warp][digit].
__device__ void count(const u32* keys, u32 n, u32 shift, u32 (*counts)[DIGITS]) {
    for (u32 warp = 0; warp < WARPS; warp++) counts[warp][threadIdx.x] = 0;
    __syncthreads();
    const u32 first = blockIdx.x * OF_BLOCK + warp_id() * OF_WARP;
    for (u32 round = 0; round < ROUNDS && first + round * WARP < n; round++) {
        const u32 i = first + round * WARP + lane_id();
        if (i < n) atomicAdd(&counts[warp_id()][digit(keys[i], shift)], 1u);
    }
    __syncthreads();
}

}  // namespace sort

/// histogram (256, blocks): keys of each digit in each block's part. Blocks of 256 for 4,096 keys.
KILN_KERNEL(256, sort_count, (const u32* keys, u32 n, u32 shift, u32* histogram)) {
    __shared__ u32 counts[sort::WARPS][sort::DIGITS];
    sort::count(keys, n, shift, counts);
    u32 total = 0;
    for (u32 warp = 0; warp < sort::WARPS; warp++) total += counts[warp][threadIdx.x];
    histogram[threadIdx.x * gridDim.x + blockIdx.x] = total;
}

/// Exclusive prefix sums of x (n) within blocks of 1,024, in place; totals (blocks) of each block.
KILN_KERNEL(1024, sort_scan, (u32* x, u32 n, u32* totals)) {
    __shared__ u32 of_warps[32];
    const u32 i = blockIdx.x * 1024 + threadIdx.x;
    const u32 mine = i < n ? x[i] : 0;
    const u32 within = warp_scan(mine);
    if (lane_id() == WARP - 1) of_warps[warp_id()] = within;
    __syncthreads();
    if (warp_id() == 0) of_warps[lane_id()] = warp_scan(of_warps[lane_id()]);
    __syncthreads();
    const u32 before = warp_id() == 0 ? 0 : of_warps[warp_id() - 1];
    if (i < n) x[i] = before + within - mine;
    if (threadIdx.x == 1023) totals[blockIdx.x] = before + within;
}

/// Adds to x (n) what comes before each block of 1,024.
KILN_KERNEL(1024, sort_add, (u32* x, u32 n, const u32* before)) {
    const u32 i = blockIdx.x * 1024 + threadIdx.x;
    if (i < n) x[i] += before[blockIdx.x];
}

/// Moves keys and values (n) to where starts (256, blocks) says, equal digits in their order; where `values` is null they
/// are 0, 1, .. n - 1. Blocks of 256 for 4,096 keys.
KILN_KERNEL(256, sort_move,
            (const u32* keys, const u32* values, u32* keys_out, u32* values_out, u32 n, u32 shift, const u32* starts)) {
    __shared__ u32 next[sort::WARPS][sort::DIGITS];
    sort::count(keys, n, shift, next);
    u32 start = starts[threadIdx.x * gridDim.x + blockIdx.x];
    for (u32 warp = 0; warp < sort::WARPS; warp++) {
        const u32 counted = next[warp][threadIdx.x];
        next[warp][threadIdx.x] = start;
        start += counted;
    }
    __syncthreads();
    const u32 first = blockIdx.x * sort::OF_BLOCK + warp_id() * sort::OF_WARP;
    for (u32 round = 0; round < sort::ROUNDS && first + round * WARP < n; round++) {
        const u32 i = first + round * WARP + lane_id();
        const u32 key = i < n ? keys[i] : 0;
        // Lanes behind the end have a digit of their own.
        const u32 digit = i < n ? sort::digit(key, shift) : sort::DIGITS;
        const u32 equal = __match_any_sync(FULL, digit);
        const u32 before = __popc(equal & ((1u << lane_id()) - 1));
        u32 to = 0;
        if (i < n) to = next[warp_id()][digit] + before;
        __syncwarp();
        if (i < n && before == 0) next[warp_id()][digit] += __popc(equal);
        __syncwarp();
        if (i < n) {
            keys_out[to] = key;
            values_out[to] = values == nullptr ? i : values[i];
        }
    }
}

/// counts (nlist) += the keys (n) of each value. Blocks of 256, one thread a key.
KILN_KERNEL(256, kmeans_count, (const u32* keys, u32 n, u32* counts)) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(&counts[keys[i]], 1u);
}

/// partial (segments, dim): the sum of rows order[first[s] .. first[s + 1]), each times its factor (inverse norms, or null
/// for 1), in that order. Row numbers count from `row_first`. Grid (segments, dim / 256), blocks of 256: a thread a
/// coordinate.
#define SEGMENTS(T, suffix)                                                                                            \
    KILN_KERNEL(256, kmeans_segments_##suffix,                                                                         \
                (const u8* data, u64 pitch, const float* factors, const u32* order, const u32* first, double* partial, \
                 u64 row_first, u32 dim)) {                                                                            \
        const u32 column = blockIdx.y * blockDim.x + threadIdx.x;                                                      \
        if (column >= dim) return;                                                                                     \
        double sum = 0.0;                                                                                              \
        _Pragma("unroll 8") /* loads overlap, sums keep their order */                                                 \
        for (u32 i = first[blockIdx.x]; i < first[blockIdx.x + 1]; i++) {                                              \
            const u64 row = row_first + order[i];                                                                      \
            const float x = to_float(row_at<T>(data, pitch, row)[column]);                                             \
            sum = __dadd_rn(sum, factors == nullptr ? x : __fmul_rn(x, factors[row]));                                 \
        }                                                                                                              \
        partial[static_cast<u64>(blockIdx.x) * dim + column] = sum;                                                    \
    }
KILN_FOR_EACH_TYPE(SEGMENTS)
#undef SEGMENTS

/// sums (nlist, dim) += partial[first[c] .. first[c + 1]) in order. Grid (nlist, dim / 256), blocks of 256.
KILN_KERNEL(256, kmeans_combine, (const double* partial, const u32* first, double* sums, u32 dim)) {
    const u32 column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= dim) return;
    double* const sum = &sums[static_cast<u64>(blockIdx.x) * dim + column];
    double total = *sum;
    for (u32 s = first[blockIdx.x]; s < first[blockIdx.x + 1]; s++)
        total = __dadd_rn(total, partial[static_cast<u64>(s) * dim + column]);
    *sum = total;
}
