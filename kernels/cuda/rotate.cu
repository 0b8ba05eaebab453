// Rows as codes of few bits see them: f32, rotated by rounds of random signs and fast Hadamard transforms.
//
// In: rows at a pitch, of which some are named. Out: (count, width) f32, zeros behind the dimension. Every operation and its
// order is that of the CPU twin (kernels/src/rotation.rs), so the numbers are equal to its bit by bit. Bound by shared
// memory: log2(dim) passes a round; rows read once.
#include "elements.cuh"

namespace rotation {

/// How a rotation mixes `dim` coordinates, as the host describes it (kernels/src/cuda/rotate.rs).
struct Rounds {
    /// A bit a sign, set where it is negative, by round and coordinate.
    const u8* signs;
    u32 dim;
    /// Coordinates that one transform mixes, a power of two: the first ones in even rounds, the last ones in odd rounds.
    u32 mixed;
    u32 rounds;
    /// 1 / sqrt(mixed).
    float scale;
};

/// Rotates x (dim), which lies in shared or global memory, by all threads of the block.
__device__ inline void rotate(float* x, const Rounds& how) {
    for (u32 round = 0; round < how.rounds; round++) {
        const u32 first = round % 2 == 0 ? 0 : how.dim - how.mixed;
        float* const part = x + first;
        __syncthreads();
        for (u32 i = threadIdx.x; i < how.mixed; i += blockDim.x) {
            const u64 bit = static_cast<u64>(round) * how.dim + first + i;
            const bool negative = how.signs[bit / 8] >> (bit % 8) & 1;
            part[i] = __fmul_rn(part[i], negative ? -how.scale : how.scale);
        }
        for (u32 half = how.mixed / 2; half > 0; half /= 2) {
            __syncthreads();
            for (u32 pair = threadIdx.x; pair < how.mixed / 2; pair += blockDim.x) {
                const u32 low = (pair & ~(half - 1)) * 2 + (pair & (half - 1));
                const float a = part[low], b = part[low + half];
                part[low] = __fadd_rn(a, b);
                part[low + half] = __fsub_rn(a, b);
            }
        }
    }
    __syncthreads();
}

}  // namespace rotation

/// out (count, width): rows `ids` (or the first ones where it is null), times `factors` of their numbers (inverse norms, may
/// be null), less centroids[assignments[i]] (dim) (may be null), rotated. Where `shared` is 1 the block has dim floats of
/// dynamic shared memory; rows too long for that are rotated where they are written. One block a row, of at most 256.
#define ROTATE(T, suffix)                                                                                               \
    KILN_KERNEL(256, rotate_##suffix,                                                                                   \
                (const u8* data, u64 pitch, const float* factors, const u32* ids, const float* centroids,               \
                 const u32* assignments, rotation::Rounds how, float* out, u32 width, u32 shared)) {                    \
        KILN_DYNAMIC_SHARED(float, memory);                                                                             \
        const u64 row = ids == nullptr ? blockIdx.x : ids[blockIdx.x];                                                  \
        const T* from = row_at<T>(data, pitch, row);                                                                    \
        const float* centroid =                                                                                         \
            centroids == nullptr ? nullptr : centroids + static_cast<u64>(assignments[blockIdx.x]) * how.dim;           \
        float* const to = out + static_cast<u64>(blockIdx.x) * width;                                                   \
        float* const x = shared ? memory : to;                                                                          \
        for (u32 i = threadIdx.x; i < how.dim; i += blockDim.x) {                                                       \
            float value = to_float(from[i]);                                                                            \
            if (factors != nullptr) value = __fmul_rn(value, factors[row]);                                             \
            if (centroid != nullptr) value = __fsub_rn(value, centroid[i]);                                             \
            x[i] = value;                                                                                               \
        }                                                                                                               \
        rotation::rotate(x, how);                                                                                       \
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) {                                                         \
            if (i >= how.dim) to[i] = 0.0f;                                                                             \
            else if (shared) to[i] = x[i];                                                                              \
        }                                                                                                               \
    }
KILN_FOR_EACH_TYPE(ROTATE)
#undef ROTATE
