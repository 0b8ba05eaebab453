// RaBitQ codes of rotated residuals: the best of 24 scales, bit planes, and factors by signs and by all bits.
//
// In: residuals (batch, dim) and centroids (nlist, dim), rotated (rotate.cu). Out: a row's codes as
// kernels/src/codec/rabitq/rows.rs draws them. A warp a row, a lane a scale: each sums the whole row in the order of the CPU
// twin (kernels/src/codec/rabitq/code.rs), so that the bytes are equal. Bound by arithmetic: some 200 operations a coordinate.
#include "elements.cuh"

namespace rabitq {

/// Scales that are tried, lanes 0 and on; the next lane codes by signs.
constexpr u32 SCALES = 24, SIGNS = 24;

/// Coordinates summed in f32 before f64 takes over.
constexpr u32 CHUNK = 64;

/// EPSILON_0 of the twin.
constexpr float EPSILON_0 = 1.9f;

__device__ __forceinline__ float magnitude(float x, float scale, float top) {
    return truncf(fminf(__fmul_rn(fabsf(x), scale), top));
}

}  // namespace rabitq

/// out (batch, row_bytes), which is zero before: signs and, where there are more bits, all of them. `assignments` (batch)
/// names a residual's centroid. Blocks of 256, a warp a row.
KILN_KERNEL(256, rabitq_rows,
            (const float* residuals, const float* centroids, const u32* assignments, const float* center, u8* out,
             u32 batch, u32 dim, u32 bits, u32 row_bytes, u32 metric)) {
    const u32 i = blockIdx.x * (blockDim.x / WARP) + warp_id(), lane = lane_id();
    if (i >= batch) return;
    const float* const r = residuals + static_cast<u64>(i) * dim;
    const float* const centroid = centroids + static_cast<u64>(assignments[i]) * dim;
    u8* const row = out + static_cast<u64>(i) * row_bytes;

    float largest = 0.0f;
    for (u32 d = lane; d < dim; d += WARP) largest = fmaxf(largest, fabsf(r[d]));
    largest = warp_max(largest);
    const bool zero = largest == 0.0f;

    // <v, r> and |v|^2 of the code at the lane's scale.
    const float levels = static_cast<float>(1u << (bits - 1));
    const bool by_scale = lane < rabitq::SCALES && bits > 1 && !zero;
    const float part = __fdiv_rn(__fmul_rn(2.0f, static_cast<float>(lane)), static_cast<float>(rabitq::SCALES));
    const float scale = by_scale ? __fmul_rn(__fdiv_rn(levels, largest), __fadd_rn(0.95f, part)) : 0.0f;
    const float top = by_scale ? levels - 1.0f : 0.0f;
    double vr = 0.0, vv = 0.0;
    for (u32 first = 0; first < dim; first += rabitq::CHUNK) {
        float some_vr = 0.0f, some_vv = 0.0f;
        for (u32 d = first; d < min(first + rabitq::CHUNK, dim); d++) {
            const float v = __fadd_rn(rabitq::magnitude(r[d], scale, top), 0.5f);
            some_vr = __fadd_rn(some_vr, __fmul_rn(v, fabsf(r[d])));
            some_vv = __fadd_rn(some_vv, __fmul_rn(v, v));
        }
        vr = __dadd_rn(vr, some_vr);
        vv = __dadd_rn(vv, some_vv);
    }
    // The best scale, the first of several. Cosines are not negative: their bits are ordered as they are.
    const u64 cosine = by_scale ? static_cast<u64>(__double_as_longlong(vr / sqrt(vv))) : 0;
    const u64 best = warp_max(cosine);
    const u32 chosen = __ffs(__ballot_sync(FULL, by_scale && cosine == best));
    // Lane 0 goes on with all bits, the others with the signs.
    const u32 from = lane == 0 && chosen > 0 ? chosen - 1 : rabitq::SIGNS;
    const float own_scale = __shfl_sync(FULL, scale, from), own_top = __shfl_sync(FULL, top, from);
    vr = __shfl_sync(FULL, vr, from);
    vv = __shfl_sync(FULL, vv, from);

    // |r|^2 in even lanes, <r, center> in odd ones; <v, centroid - center> of the lane's code. One after another, in f64.
    double sum = -0.0, product = -0.0;
    for (u32 d = 0; d < dim; d++) {
        const float m = center[d];
        sum = __dadd_rn(sum, __dmul_rn(r[d], lane % 2 == 0 ? r[d] : m));
        const double v = static_cast<double>(rabitq::magnitude(r[d], own_scale, own_top)) + 0.5;
        product = __dadd_rn(product, __dmul_rn(r[d] >= 0.0f ? v : -v, __fsub_rn(centroid[d], m)));
    }
    const double rr = __shfl_sync(FULL, sum, 0), at_center = __shfl_sync(FULL, sum, 1);
    if (lane < 2) {
        float rescale = 0.0f, error = 0.0f;
        if (!zero) {
            double cosine_squared = __dmul_rn(vr, vr) / __dmul_rn(vv, rr);
            cosine_squared = cosine_squared < 1.0 ? cosine_squared : 1.0;
            const double freedom = static_cast<double>(max(dim, 2u)) - 1.0;
            const double spread = sqrt((1.0 - cosine_squared) / cosine_squared) / sqrt(freedom);
            rescale = static_cast<float>(rr / vr);
            error = static_cast<float>(__dmul_rn(__dmul_rn(rabitq::EPSILON_0, sqrt(rr)), spread));
        }
        float add, mul, err;
        if (metric == INNER_PRODUCT) {
            add = static_cast<float>(-at_center);
            mul = -rescale;
            err = error;
        } else {
            mul = __fmul_rn(-2.0f, rescale);
            add = static_cast<float>(__dadd_rn(rr, -__dmul_rn(mul, product)));
            err = __fmul_rn(2.0f, error);
        }
        // Look-ups sum +-1, twice the +-1/2 of one-bit codes.
        if (lane == 1) mul = __fmul_rn(0.5f, mul);
        float* const factors = reinterpret_cast<float*>(row) + (lane == 0 ? 3 : 0);
        if (lane == 1 || bits > 1) {
            factors[0] = add;
            factors[1] = mul;
            factors[2] = err;
        }
    }

    // Planes, the lowest bit first, in words of sixteen coordinates.
    const float code_scale = __shfl_sync(FULL, own_scale, 0), code_top = __shfl_sync(FULL, own_top, 0);
    const u32 words = (dim + 15) / 16;
    u16* const planes = reinterpret_cast<u16*>(row + (bits > 1 ? 24 : 12));
    for (u32 first = 0; first < dim; first += WARP) {
        const u32 d = first + lane;
        const float x = d < dim ? r[d] : 0.0f;
        const u32 size = static_cast<u32>(rabitq::magnitude(x, code_scale, code_top)), half = 1u << (bits - 1);
        const u32 code = d < dim ? (x >= 0.0f ? half + size : half - 1 - size) : 0;
        for (u32 plane = 0; plane < bits; plane++) {
            const u32 set = __ballot_sync(FULL, code >> plane & 1);
            const u32 word = first / 16 + lane;
            if (lane < 2 && word < words) planes[plane * words + word] = static_cast<u16>(set >> (16 * lane));
        }
    }
}
