// The nearest of few rows for each of many: a dense product with the minimum fused into it. Behind `kmeans_step`.
//
// In: points of any type and centroids `(nlist, dim)` f32. Out: per point the nearest centroid (ties to the lower
// number) u32 and its exact squared L2 f32. Products (three bf16 ones) choose, the row kernel scores the chosen.
//
// Launch: one block of 256 threads a 128 points; dynamic shared memory as the host's `argmin_shared_bytes`: A's stages,
// two of B, the terms of both, a key a point. FLOPs: 6 * points * nlist * dim in bf16. Bytes: the points once,
// the centroids once a block from the L2. CPU twin: `plain::kmeans_step`.
#include "geometry.cuh"
#include "product.cuh"
#include "selection.cuh"

namespace kiln {

struct ArgminArguments {
    RowSet rows, base;
    u32 row_first, row_count;  // of this launch
    u32 base_count;
    u32 mode;                  // MODE_L2, or MODE_SCALED_L2 under cosine
    u32 a_stages;
    u32* nearest;              // (row_count)
    float* distances;          // (row_count)
};

}  // namespace kiln

KILN_KERNEL(256, argmin_float, (kiln::ArgminArguments arguments)) {
    using namespace kiln;
    KILN_DYNAMIC_SHARED(char, shared);
    using Sweep = ProductSweep<FloatForm>;
    const u32 first = blockIdx.x * SWEEP_M;
    const u32 count = min(static_cast<u32>(SWEEP_M), arguments.row_count - first);
    Sweep sweep(arguments.rows, arguments.base, arguments.row_first + first, count, 0, arguments.base_count,
                arguments.a_stages, shared);
    Key* const best = reinterpret_cast<Key*>(shared + Sweep::shared_bytes(arguments.a_stages));
    if (threadIdx.x < SWEEP_M) best[threadIdx.x] = EMPTY;
    sweep.run([&](const ColumnTerms<float>& column) {
#pragma unroll
        for (int m = 0; m < Sweep::Product::M_TILES; m++) {
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const u32 row = Sweep::Product::row_of(m, part * 2);
                const RowTerms<float> terms = sweep.own->terms[row];
                Key least = EMPTY;
#pragma unroll
                for (int n = 0; n < Sweep::Product::N_TILES; n++) {
#pragma unroll
                    for (int side = 0; side < 2; side++) {
                        const u32 at = Sweep::Product::column_of(n, side);
                        const float distance = distance_of(arguments.mode, sweep.product.acc[m][n][part * 2 + side],
                                                           terms, column.terms[at]);
                        const Key key = make_key(selection_bits(distance), column.numbers[at]);
                        if (column.numbers[at] != PAD_ID && key < least) least = key;
                    }
                }
                // The four lanes of a row.
#pragma unroll
                for (int step = 1; step < 4; step *= 2) {
                    const Key other = __shfl_xor_sync(FULL, least, step);
                    least = other < least ? other : least;
                }
                if (lane_id() % 4 == 0 && least < best[row]) atomicMin(&best[row], least);
            }
        }
    });
    __syncthreads();
    for (u32 i = warp_id(); i < count; i += SWEEP_THREADS / WARP) {
        const u32 nearest = key_id(best[i]);
        const float distance =
            row_distance(arguments.mode, arguments.rows, sweep.own->numbers[i], arguments.base, nearest);
        if (lane_id() == 0) {
            arguments.nearest[first + i] = nearest;
            arguments.distances[first + i] = distance;
        }
    }
}
