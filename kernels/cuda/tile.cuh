// Dense products of two sets of rows on tensor cores, tile by tile: what selection, argmin and pruning are built on.
//
// In: rows in device memory, row-major with a pitch of whole 16-byte pieces (the pad is zero), by position or through a
// list of row numbers. Out: dot products in the registers of a block, `BM` x `BN` a tile, for the caller's epilogue.
//
// The k dimension is cut into slices of 32 bytes whatever the element: 32 bytes, or 16 halves. The fragments of
// m16n8k32 (bytes) and m16n8k16 (halves) then lie in the same places, so one engine serves four forms:
//
//   ByteForm<false|true>  u8 x u8 or i8 x i8 -> s32, exact (|sum| < 2^31 for dim <= 32,768)
//   HalfForm              f16 x f16 -> f32: exact products, f32 sums
//   FloatForm             any type, widened to f32 while it is staged and split into two bf16, x = hi + lo + 2^-18 x;
//                         hi*hi + hi*lo + lo*hi -> f32
//
// Stages of 64 bytes of k are double-buffered in shared memory: while tensor cores work on one, the next is on its way
// (cp.async, or registers where rows are converted). A staged row takes 80 bytes, an odd number of 16-byte banks, so that
// the eight rows of an ldmatrix fall into different banks.
#pragma once

#include "tensor.cuh"

namespace kiln {

/// Bytes of k in a stage and in a slice, and bytes that a staged row takes.
constexpr int STAGE_BYTES = 64;
constexpr int SLICE_BYTES = 32;
constexpr int STAGED_PITCH = 80;

/// Element types, in the order of `DType`.
enum ElementType : u32 { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_U8 = 2, TYPE_I8 = 3 };

/// Rows as the host describes them. `ids`: row numbers to go through, or null for the rows in their order.
struct RowSet {
    const char* data;
    u64 pitch;       // bytes
    const u32* ids;  // row numbers
    const void* norms;    // squared norms (n): i32 for bytes multiplied as bytes, else f32; null where unused
    const float* aux;     // per row (n): inverse norm (cosine) or lifted coordinate (inner product); null: all 1
    u32 type;        // ElementType
    u32 dim;

    __device__ __forceinline__ u32 row_number(u32 position) const {
        return ids != nullptr ? ids[position] : position;
    }
    __device__ __forceinline__ const char* row(u32 number) const { return data + number * pitch; }
};

__device__ __forceinline__ float half_bits_to_float(u32 bits) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

/// Eight consecutive coordinates from `first` (a multiple of 8) as f32; 0 beyond the dimension.
__device__ __forceinline__ void load_8(const char* row, u32 type, u32 first, u32 dim, float out[8]) {
    if (row == nullptr || first >= dim) {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = 0.0f;
    } else if (type == TYPE_F32) {
        // The pitch is whole pieces of four: the second may lie behind it.
        const float4 a = *reinterpret_cast<const float4*>(row + 4 * static_cast<size_t>(first));
        float4 b = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (first + 4 < dim) b = *reinterpret_cast<const float4*>(row + 4 * static_cast<size_t>(first + 4));
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
        out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    } else if (type == TYPE_F16) {
        const uint4 a = *reinterpret_cast<const uint4*>(row + 2 * static_cast<size_t>(first));
        const u32 words[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = half_bits_to_float(words[i / 2] >> (16 * (i % 2)) & 0xffffu);
    } else {
        const uint2 a = *reinterpret_cast<const uint2*>(row + first);
        const u32 words[2] = {a.x, a.y};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const u32 byte = words[i / 4] >> (8 * (i % 4)) & 0xffu;
            out[i] = type == TYPE_U8 ? static_cast<float>(byte) : static_cast<float>(static_cast<signed char>(byte));
        }
    }
}

/// Two f32 rounded to bf16 in one word, `low` in the low half.
__device__ __forceinline__ u32 pack_bf16x2(float low, float high) {
#ifdef KILN_EMULATE
    const auto rounded = [](float x) {
        const u32 bits = __float_as_uint(x);
        return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    };
    return rounded(high) << 16 | rounded(low);
#else
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#endif
}

/// Two f32 as rounded bf16 in one word (`low` in the low half), and what rounding left of each.
__device__ __forceinline__ u32 take_bf16x2(float& low, float& high) {
    const u32 packed = pack_bf16x2(low, high);
    low -= __uint_as_float(packed << 16);
    high -= __uint_as_float(packed & 0xffff0000u);
    return packed;
}

/// Bytes multiplied as they are.
template <bool SIGNED>
struct ByteForm {
    using Acc = i32;
    static constexpr int PLANES = 1;
    static constexpr bool CONVERTS = false;
    static constexpr bool INTEGER = true;
    static __device__ __forceinline__ void mma(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        if (SIGNED) mma_s8(d, a, b);
        else mma_u8(d, a, b);
    }
};

/// Halves multiplied as they are.
struct HalfForm {
    using Acc = float;
    static constexpr int PLANES = 1;
    static constexpr bool CONVERTS = false;
    static constexpr bool INTEGER = false;
    static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_f16(d, a, b); }
};

/// Anything as pairs of bf16.
struct FloatForm {
    using Acc = float;
    static constexpr int PLANES = 2;
    static constexpr bool CONVERTS = true;
    static constexpr bool INTEGER = false;
    static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_bf16(d, a, b); }
};

/// Bytes of one staged operand of `rows` rows.
template <class Form>
__host__ __device__ constexpr int operand_bytes(int rows) {
    return Form::PLANES * rows * STAGED_PITCH;
}

/// Brings rows into shared memory as they are, by cp.async.
template <int ROWS, int THREADS>
struct DirectLoader {
    static constexpr int PIECES = ROWS * 4 / THREADS;
    const char* rows[PIECES];
    bool inside[PIECES];

    /// Turns to the `count` rows from position `first`.
    __device__ __forceinline__ void aim(const RowSet& set, u32 first, u32 count) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const u32 row = (threadIdx.x + i * THREADS) / 4;
            inside[i] = row < count;
            rows[i] = inside[i] ? set.row(set.row_number(first + row)) : set.data;
        }
    }
    __device__ __forceinline__ void start(const RowSet& set, char* stage, u32 step) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const u32 place = threadIdx.x + i * THREADS;
            const u64 at = static_cast<u64>(step) * STAGE_BYTES + place % 4 * 16;
            const bool exists = inside[i] && at < set.pitch;
            cp_async_16(stage + place / 4 * STAGED_PITCH + place % 4 * 16, rows[i] + (exists ? at : 0), exists);
        }
    }
    __device__ __forceinline__ void finish(char*) {}
};

/// Brings rows into shared memory as two planes of bf16, by way of registers. `Map` may change coordinates on the way:
/// `map(row in the tile, row number, first coordinate, values[8])`.
template <int ROWS, int THREADS, class Map>
struct ConvertingLoader {
    static constexpr int PIECES = ROWS * 4 / THREADS;
    Map map;
    const char* rows[PIECES];
    u32 numbers[PIECES];
    float values[PIECES][8];

    __device__ __forceinline__ void aim(const RowSet& set, u32 first, u32 count) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const u32 row = (threadIdx.x + i * THREADS) / 4;
            numbers[i] = row < count ? set.row_number(first + row) : PAD_ID;
            rows[i] = row < count ? set.row(numbers[i]) : nullptr;
        }
    }
    __device__ __forceinline__ void start(const RowSet& set, char*, u32 step) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const u32 first = step * (STAGE_BYTES / 2) + (threadIdx.x + i * THREADS) % 4 * 8;
            load_8(rows[i], set.type, first, set.dim, values[i]);
            if (rows[i] != nullptr) map(numbers[i], first, values[i]);
        }
    }
    __device__ __forceinline__ void finish(char* stage) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const u32 place = threadIdx.x + i * THREADS;
            u32 planes[2][4];
#pragma unroll
            for (int pair = 0; pair < 4; pair++) {
                float low = values[i][2 * pair], high = values[i][2 * pair + 1];
                planes[0][pair] = take_bf16x2(low, high);
                planes[1][pair] = take_bf16x2(low, high);
            }
#pragma unroll
            for (int plane = 0; plane < 2; plane++) {
                char* const at = stage + (plane * ROWS + place / 4) * STAGED_PITCH + place % 4 * 16;
                *reinterpret_cast<uint4*>(at) =
                    make_uint4(planes[plane][0], planes[plane][1], planes[plane][2], planes[plane][3]);
            }
        }
    }
};

/// Leaves coordinates as they are.
struct AsTheyAre {
    __device__ __forceinline__ void operator()(u32, u32, float*) const {}
};

template <class Form, int ROWS, int THREADS, class Map>
struct ChooseLoader {
    using Type = DirectLoader<ROWS, THREADS>;
};
template <int ROWS, int THREADS, class Map>
struct ChooseLoader<FloatForm, ROWS, THREADS, Map> {
    using Type = ConvertingLoader<ROWS, THREADS, Map>;
};

/// The products of one `BM` x `BN` tile: `WARPS_M` x `WARPS_N` warps, each a part of it in registers.
template <class Form, int BM, int BN, int WARPS_M, int WARPS_N>
struct TileProduct {
    static constexpr int THREADS = WARPS_M * WARPS_N * 32;
    static constexpr int M_TILES = BM / WARPS_M / 16;
    static constexpr int N_TILES = BN / WARPS_N / 8;
    static_assert(N_TILES % 2 == 0, "an ldmatrix brings two columns of tiles");
    typename Form::Acc acc[M_TILES][N_TILES][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
#pragma unroll
            for (int n = 0; n < N_TILES; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) acc[m][n][e] = 0;
    }

    /// Row and column in the tile of `acc[m][n][e]`.
    static __device__ __forceinline__ int row_of(int m, int e) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        return warp / WARPS_N * (BM / WARPS_M) + m * 16 + e / 2 * 8 + lane / 4;
    }
    static __device__ __forceinline__ int column_of(int n, int e) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        return warp % WARPS_N * (BN / WARPS_N) + n * 8 + lane % 4 * 2 + e % 2;
    }

    /// Adds the products of one stage.
    __device__ __forceinline__ void add(const char* a_stage, const char* b_stage) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        // The four 8 x 16-byte matrices of A: rows 0-7 and 8-15, then their second 16 bytes; of B: columns 0-7, their
        // second 16 bytes, then columns 8-15.
        const char* a_at = a_stage + (warp / WARPS_N * (BM / WARPS_M) + lane % 16) * STAGED_PITCH + lane / 16 * 16;
        const char* b_at = b_stage + (warp % WARPS_N * (BN / WARPS_N) + lane / 16 * 8 + lane % 8) * STAGED_PITCH +
                           lane / 8 % 2 * 16;
#pragma unroll
        for (int slice = 0; slice < STAGE_BYTES / SLICE_BYTES; slice++) {
            u32 b[Form::PLANES][N_TILES][2];
#pragma unroll
            for (int plane = 0; plane < Form::PLANES; plane++) {
#pragma unroll
                for (int n = 0; n < N_TILES; n += 2) {
                    u32 both[4];
                    ldmatrix_x4(both, b_at + (plane * BN + n * 8) * STAGED_PITCH + slice * SLICE_BYTES);
                    b[plane][n][0] = both[0], b[plane][n][1] = both[1];
                    b[plane][n + 1][0] = both[2], b[plane][n + 1][1] = both[3];
                }
            }
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
                u32 a[4];
                ldmatrix_x4(a, a_at + m * 16 * STAGED_PITCH + slice * SLICE_BYTES);
#pragma unroll
                for (int n = 0; n < N_TILES; n++) {
                    Form::mma(acc[m][n], a, b[0][n]);
                    if (Form::PLANES == 2) Form::mma(acc[m][n], a, b[Form::PLANES - 1][n]);
                }
                if (Form::PLANES == 2) {
                    ldmatrix_x4(a, a_at + (BM + m * 16) * STAGED_PITCH + slice * SLICE_BYTES);
#pragma unroll
                    for (int n = 0; n < N_TILES; n++) Form::mma(acc[m][n], a, b[0][n]);
                }
            }
        }
    }
};

/// Stages that the rows of `set` take in form `Form`.
template <class Form>
__device__ __forceinline__ u32 steps_of(const RowSet& set) {
    const u64 bytes = Form::CONVERTS ? 2ull * set.dim : set.pitch;
    return static_cast<u32>((bytes + STAGE_BYTES - 1) / STAGE_BYTES);
}

}  // namespace kiln
