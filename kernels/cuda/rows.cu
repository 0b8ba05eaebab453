// Rows when they arrive: widening to f32, squared and inverse norms, and the lifted coordinate of inner product.
//
// In: rows (n, dim) of a type, a pitch in bytes apart. Out: f32 numbers a row. All sums are made in f64 in the order of
// the CPU twin (kernels/src/distance/geometry.rs: squared_norm, inverse_norm, GraphAux), so the results are equal to its
// bit by bit. Bound by reading the rows once.
#include "elements.cuh"

namespace rows {

/// Threads that share a row: as many as the twin keeps sums side by side.
constexpr u32 SUMS = 8;

/// out (n, dim) f32, contiguous or at a pitch; one thread an element.
template <class T>
__device__ void widen(const u8* in, u64 pitch, u8* out, u64 out_pitch, u64 n, u32 dim) {
    const u64 cells = n * dim, step = static_cast<u64>(gridDim.x) * blockDim.x;
    for (u64 cell = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; cell < cells; cell += step) {
        const u64 row = cell / dim;
        const u32 column = static_cast<u32>(cell % dim);
        reinterpret_cast<float*>(out + row * out_pitch)[column] = to_float(row_at<T>(in, pitch, row)[column]);
    }
}

/// squared (n) f64, SUMS threads a row.
template <class T>
__device__ void norms(const u8* in, u64 pitch, double* squared, u64 n, u32 dim) {
    const u32 place = threadIdx.x % SUMS;
    const u64 row = (static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x) / SUMS;
    const T* x = row_at<T>(in, pitch, row < n ? row : 0);
    const u32 whole = dim / SUMS * SUMS;
    double sum = 0.0;
    if (row < n) {
        for (u32 i = place; i < whole; i += SUMS) {
            const double value = to_float(x[i]);
            sum = __dadd_rn(sum, __dmul_rn(value, value));
        }
    }
    // The sums side by side, one after another; every lane does the same.
    double total = 0.0;
    for (u32 other = 0; other < SUMS; other++) total = __dadd_rn(total, __shfl_sync(FULL, sum, other, SUMS));
    if (place != 0 || row >= n) return;
    double rest = 0.0;
    for (u32 i = whole; i < dim; i++) {
        const double value = to_float(x[i]);
        rest = __dadd_rn(rest, __dmul_rn(value, value));
    }
    squared[row] = __dadd_rn(total, rest);
}

}  // namespace rows

// Blocks of 256, any number of them.
#define WIDEN(T, suffix)                                                                                         \
    KILN_KERNEL(256, rows_widen_##suffix, (const u8* in, u64 pitch, u8* out, u64 out_pitch, u64 n, u32 dim)) { \
        rows::widen<T>(in, pitch, out, out_pitch, n, dim);                                                     \
    }
KILN_FOR_EACH_TYPE(WIDEN)
#undef WIDEN

// Blocks of 256: 32 rows each.
#define NORMS(T, suffix)                                                                                 \
    KILN_KERNEL(256, rows_norms_##suffix, (const u8* in, u64 pitch, double* squared, u64 n, u32 dim)) { \
        rows::norms<T>(in, pitch, squared, n, dim);                                                     \
    }
KILN_FOR_EACH_TYPE(NORMS)
#undef NORMS

/// largest (1) = max of squared (n), as the bits of an f64: those of non-negative numbers are ordered as they are. It must
/// be zero before. Blocks of 256, one thread a row.
KILN_KERNEL(256, rows_largest, (const double* squared, u64* largest, u64 n)) {
    const u64 row = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
    const u64 bits = row < n ? static_cast<u64>(__double_as_longlong(squared[row])) : 0;
    const u64 most = warp_max(bits);
    if (lane_id() == 0 && most > 0) atomicMax(largest, most);
}

/// What is kept of the squared norms, beside each other (n): narrow, as f32; whole, as integers (of integer rows: exact);
/// and by the metric aux = 1 / norm (0 where that is no number) or the lifted coordinate sqrt(largest - squared). `whole`
/// and `aux` may be null. Blocks of 256, one thread a row.
KILN_KERNEL(256, rows_numbers,
            (const double* squared, const u64* largest, float* narrow, i32* whole, float* aux, u32 metric, u64 n)) {
    const u64 row = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= n) return;
    const double square = squared[row];
    narrow[row] = static_cast<float>(square);
    if (whole != nullptr) whole[row] = static_cast<i32>(square);
    if (aux == nullptr) return;
    if (metric == COSINE) {
        const double norm = sqrt(square);
        const float inverse = static_cast<float>(1.0 / norm);
        aux[row] = norm > 0.0 && inverse < infinity() ? inverse : 0.0f;
    } else if (metric == INNER_PRODUCT) {
        const double below = __longlong_as_double(static_cast<i64>(*largest)) - square;
        aux[row] = static_cast<float>(sqrt(below > 0.0 ? below : 0.0));
    }
}
