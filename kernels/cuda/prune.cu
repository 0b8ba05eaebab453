// Robust prune (DiskANN, NeurIPS 2019, algorithm 2) of many points at once.
//
// In: points and their candidates (row numbers, any order, duplicates and the point itself allowed). Out: per point the
// kept candidates, nearest first, `(points, max_degree)` u32 padded by PAD_ID, and their number. CPU twin:
// `plain::robust_prune`; first at alpha 1, then, while there is room, at the full alpha.
//
// prune_u8, prune_i8   bytes under L2, exactly as the twin
// prune_float          all else: candidates are taken relative to the point (and scaled or lifted as the graph geometry
//                      wants) before they are split into bf16, so that errors are relative to the distances at hand, and
//                      squares come from the same product's diagonal, so that copies are at exactly 0
// prune_long           lists that do not fit: the definition itself, row by row
//
// A block of 128 threads (4 warps) prunes one point. It scores candidates by the row kernel (a warp a row), sorts them by
// (distance, row number), drops duplicates, and then multiplies all with all, 64 x 64 a tile, upper triangle only. Of a
// pair's distance only two bits stay: whether the nearer one occludes the farther, at alpha 1 and at the full alpha. The
// sequential part of the algorithm is then one warp's walk over bit masks in registers: about R steps of a shared load.
//
// Launch: one block a point; `width` candidates at most, a multiple of 64 up to 1,024 (prune_long: any); dynamic shared
// memory: 24 * width + width^2 / 4 bytes and four stages (20 KiB; 40 by bf16). FLOPs: about width^2 * dim; bytes:
// 2 * width rows of dim, from the L2.
#include "geometry.cuh"
#include "selection.cuh"

namespace kiln {

constexpr int PRUNE_TILE = 64;
constexpr int PRUNE_THREADS = 128;

struct PruneArguments {
    RowSet base;            // ids: null
    const u32* points;      // row numbers
    const u32* which;       // positions of the points of this launch; null: all in order
    const u64* begins;      // (points) where a point's candidates begin
    const u32* counts;      // (points)
    const u32* candidates;  // row numbers
    u32* kept;              // (points, max_degree)
    u32* degrees;           // (points)
    u64* scratch;           // prune_long: (candidates, 2) keys
    u32 mode;               // MODE_L2, MODE_GRAPH_INNER or MODE_GRAPH_COSINE
    u32 width;              // candidates at most, a multiple of PRUNE_TILE
    u32 max_degree;
    float alpha;
};

/// A block's view of shared memory: all of `width` candidates.
struct PruneShared {
    Key* keys;      // sorted, distinct
    Key* unsorted;
    u32* ids;       // sorted row numbers, for the loaders
    void* squares;  // of the rows as multiplied: i32 or f32
    u32* masks[2];  // (width, width / 32): row i's bits j > i that it occludes, at alpha 1 and at alpha
    char* stages;

    __device__ __forceinline__ PruneShared(char* shared, u32 width) {
        keys = reinterpret_cast<Key*>(shared);
        unsorted = keys + width;
        ids = reinterpret_cast<u32*>(unsorted + width);
        squares = ids + width;
        stages = reinterpret_cast<char*>(ids + 2 * width);
        masks[0] = nullptr;
        masks[1] = nullptr;
    }
};

/// Sorted distinct keys of `count` candidates without the point itself, into `keys`; their number. By one block.
__device__ inline u32 sort_candidates(const PruneArguments& a, u32 point, const u32* candidates, u32 count, Key* unsorted,
                                      Key* keys) {
    for (u32 i = warp_id(); i < count; i += blockDim.x / WARP) {
        const u32 id = candidates[i];
        const float distance = row_distance(a.mode, a.base, point, a.base, id);
        if (lane_id() == 0) unsorted[i] = id == point ? EMPTY : order_key(distance, id);
    }
    __syncthreads();
    // Of equal keys the first counts; a key's place is the number of smaller ones that count.
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        bool first = true;
        for (u32 j = 0; j < i && first; j++) first = unsorted[j] != unsorted[i];
        keys[i] = first ? unsorted[i] : EMPTY;
    }
    __syncthreads();
    u32 counted = 0;
    for (u32 first = 0; first < count; first += blockDim.x) {
        const u32 i = first + threadIdx.x;
        const Key own = i < count ? keys[i] : EMPTY;
        counted += __syncthreads_count(own != EMPTY);
    }
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        const Key own = keys[i];
        if (own == EMPTY) continue;
        u32 rank = 0;
        for (u32 j = 0; j < count; j++) rank += keys[j] < own;
        unsorted[rank] = own;
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < counted; i += blockDim.x) keys[i] = unsorted[i];
    __syncthreads();
    return counted;
}

/// Takes coordinates relative to the point, in the space of the graph geometry.
struct RelativeToPoint {
    const RowSet* base;
    u32 point, mode;

    __device__ __forceinline__ void operator()(u32 number, u32 first, float values[8]) const {
        float own[8];
        load_8(base->row(point), base->type, first, base->dim, own);
        const bool scaled = mode == MODE_GRAPH_COSINE;
        const float aux = base->aux != nullptr ? base->aux[number] : 1.0f, own_aux = base->aux != nullptr ? base->aux[point] : 1.0f;
#pragma unroll
        for (int i = 0; i < 8; i++)
            values[i] = scaled ? __fsub_rn(__fmul_rn(values[i], aux), __fmul_rn(own[i], own_aux)) : __fsub_rn(values[i], own[i]);
        if (mode == MODE_GRAPH_INNER) {
#pragma unroll
            for (u32 i = 0; i < 8; i++)
                if (first + i == base->dim) values[i] = __fsub_rn(aux, own_aux);
        }
    }
};

template <class Form>
struct PruneTile {
    using Acc = typename Form::Acc;
    using Product = TileProduct<Form, PRUNE_TILE, PRUNE_TILE, 2, 2>;
    using Loader = typename ChooseLoader<Form, PRUNE_TILE, PRUNE_THREADS, RelativeToPoint>::Type;
    static constexpr u32 STAGE = operand_bytes<Form>(PRUNE_TILE);

    Product product;
    Loader load_a, load_b;
    RowSet sorted;
    u32 steps;

    /// Multiplies candidates `row..row + 64` by `column..column + 64` of `count`.
    __device__ __forceinline__ void run(u32 row, u32 column, u32 count, char* stages) {
        load_a.aim(sorted, row, count - row);
        load_b.aim(sorted, column, count - column);
        product.clear();
        const auto start = [&](u32 step) {
            load_a.start(sorted, stages + step % 2 * STAGE, step);
            load_b.start(sorted, stages + (2 + step % 2) * STAGE, step);
            cp_async_commit();
        };
        const auto finish = [&](u32 step) {
            load_a.finish(stages + step % 2 * STAGE);
            load_b.finish(stages + (2 + step % 2) * STAGE);
            cp_async_wait<0>();
            __syncthreads();
        };
        start(0);
        finish(0);
        for (u32 step = 0; step < steps; step++) {
            if (step + 1 < steps) start(step + 1);
            product.add(stages + step % 2 * STAGE, stages + (2 + step % 2) * STAGE);
            if (step + 1 < steps) finish(step + 1);
        }
        __syncthreads();
    }
};

/// Sets the map of loaders that have one.
__device__ __forceinline__ void set_map(DirectLoader<PRUNE_TILE, PRUNE_THREADS>&, const RelativeToPoint&) {}
__device__ __forceinline__ void set_map(ConvertingLoader<PRUNE_TILE, PRUNE_THREADS, RelativeToPoint>& loader,
                                        const RelativeToPoint& map) {
    loader.map = map;
}

/// Distance of two candidates from their product, exact for bytes.
__device__ __forceinline__ double pair_distance(const PruneArguments&, i32 dot, i32 a, i32 b, u32, u32) {
    return static_cast<double>(static_cast<i32>(static_cast<u32>(a) + static_cast<u32>(b) - 2u * static_cast<u32>(dot)));
}
__device__ __forceinline__ double pair_distance(const PruneArguments& arguments, float dot, float a, float b, u32 id_a, u32 id_b) {
    const float l2 = fmaxf(a + b - 2.0f * dot, 0.0f);
    if (arguments.mode != MODE_GRAPH_COSINE) return l2;
    // Of unit rows, half the squared L2; a row without direction is at 1 from everything.
    const bool directed = arguments.base.aux[id_a] > 0.0f && arguments.base.aux[id_b] > 0.0f;
    return directed ? 0.5f * l2 : 1.0f;
}

/// Bits of the pairs of all candidates into `shared.masks`.
template <class Form>
__device__ __forceinline__ void fill_masks(const PruneArguments& a, u32 point, const PruneShared& shared, u32 count) {
    using Tile = PruneTile<Form>;
    using Product = typename Tile::Product;
    using Acc = typename Form::Acc;
    Acc* const squares = static_cast<Acc*>(shared.squares);
    const u32 words = a.width / 32, blocks = (count + PRUNE_TILE - 1) / PRUNE_TILE;
    Tile tile;
    tile.sorted = a.base;
    tile.sorted.ids = shared.ids;
    const RelativeToPoint map{&a.base, point, a.mode};
    set_map(tile.load_a, map);
    set_map(tile.load_b, map);
    const u32 flat_dim = a.base.dim + (a.mode == MODE_GRAPH_INNER ? 1 : 0);
    tile.steps = Form::CONVERTS ? (2 * flat_dim + STAGE_BYTES - 1) / STAGE_BYTES : steps_of<Form>(a.base);

    // Diagonal blocks first: their diagonals are the squares that all blocks need.
    for (u32 distance = 0; distance < blocks; distance++) {
        for (u32 row_block = 0; row_block + distance < blocks; row_block++) {
            const u32 row_first = row_block * PRUNE_TILE, column_first = (row_block + distance) * PRUNE_TILE;
            tile.run(row_first, column_first, count, shared.stages);
            if (distance == 0) {
#pragma unroll
                for (int m = 0; m < Product::M_TILES; m++)
#pragma unroll
                    for (int n = 0; n < Product::N_TILES; n++)
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            if (Product::row_of(m, e) == Product::column_of(n, e))
                                squares[row_first + Product::row_of(m, e)] = tile.product.acc[m][n][e];
                __syncthreads();
            }
            // A warp's 32 columns are one word of each of its rows; four lanes share a row.
#pragma unroll
            for (int m = 0; m < Product::M_TILES; m++) {
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    const u32 i = row_first + Product::row_of(m, part * 2);
                    u32 bits[2] = {0, 0};
#pragma unroll
                    for (int n = 0; n < Product::N_TILES; n++) {
#pragma unroll
                        for (int side = 0; side < 2; side++) {
                            const u32 j = column_first + Product::column_of(n, side);
                            if (i >= j || j >= count) continue;
                            const double between = pair_distance(a, tile.product.acc[m][n][part * 2 + side], squares[i],
                                                                 squares[j], shared.ids[i], shared.ids[j]);
                            const double to_point = key_distance(shared.keys[j]);
                            const u32 bit = 1u << (j % 32);
                            if (between <= 0.0 || between < to_point) bits[0] |= bit;
                            if (between <= 0.0 || a.alpha * between < to_point) bits[1] |= bit;
                        }
                    }
#pragma unroll
                    for (int which = 0; which < 2; which++) {
                        bits[which] |= __shfl_xor_sync(FULL, bits[which], 1);
                        bits[which] |= __shfl_xor_sync(FULL, bits[which], 2);
                        if (lane_id() % 4 == 0) shared.masks[which][i * words + (column_first + Product::column_of(0, 0)) / 32] = bits[which];
                    }
                }
            }
        }
    }
    __syncthreads();
}

/// The algorithm, by one warp: lane w holds the candidates 32 w to 32 w + 31 as bits. Returns this lane's kept ones.
__device__ __forceinline__ u32 choose(const PruneArguments& a, const PruneShared& shared, u32 count) {
    const u32 words = a.width / 32, lane = lane_id();
    const u32 valid = lane * 32 >= count ? 0 : count - lane * 32 >= 32 ? FULL : (1u << (count - lane * 32)) - 1;
    u32 occluded[2] = {0, 0}, kept = 0, degree = 0;
#pragma unroll
    for (int round = 0; round < 2; round++) {
        if (round == 1 && a.alpha <= 1.0f) break;
        while (degree < a.max_degree) {
            const u32 open = valid & ~occluded[round] & ~kept;
            const u32 lanes = __ballot_sync(FULL, open != 0);
            if (lanes == 0) break;
            const u32 word = __ffs(lanes) - 1, next = word * 32 + __shfl_sync(FULL, __ffs(open) - 1, word);
            if (lane == word) kept |= 1u << (next % 32);
            degree++;
            // Words before the tile of the diagonal were never written.
            if (lane < words && lane >= next / PRUNE_TILE * (PRUNE_TILE / 32)) {
                occluded[0] |= shared.masks[0][next * words + lane];
                occluded[1] |= shared.masks[1][next * words + lane];
            }
        }
    }
    return kept;
}

template <class Form>
__device__ __forceinline__ void prune(const PruneArguments& a, char* memory) {
    PruneShared shared(memory, a.width);
    shared.masks[0] = reinterpret_cast<u32*>(shared.stages + 4 * PruneTile<Form>::STAGE);
    shared.masks[1] = shared.masks[0] + static_cast<size_t>(a.width) * (a.width / 32);
    const u32 position = a.which != nullptr ? a.which[blockIdx.x] : blockIdx.x;
    const u32 point = a.points[position];
    const u32 count =
        sort_candidates(a, point, a.candidates + a.begins[position], a.counts[position], shared.unsorted, shared.keys);
    for (u32 i = threadIdx.x; i < count; i += PRUNE_THREADS) shared.ids[i] = key_id(shared.keys[i]);
    __syncthreads();
    fill_masks<Form>(a, point, shared, count);
    if (warp_id() != 0) return;
    const u32 kept = choose(a, shared, count);
    const u32 end = warp_scan(static_cast<u32>(__popc(kept))), degree = __shfl_sync(FULL, end, 31);
    u32* const out = a.kept + static_cast<u64>(position) * a.max_degree;
    u32 place = end - __popc(kept);
    for (u32 left = kept; left != 0; left &= left - 1) out[place++] = shared.ids[lane_id() * 32 + __ffs(left) - 1];
    for (u32 i = degree + lane_id(); i < a.max_degree; i += WARP) out[i] = PAD_ID;
    if (lane_id() == 0) a.degrees[position] = degree;
}

}  // namespace kiln

KILN_KERNEL(128, prune_u8, (kiln::PruneArguments arguments)) {
    KILN_DYNAMIC_SHARED(char, shared);
    kiln::prune<kiln::ByteForm<false>>(arguments, shared);
}

KILN_KERNEL(128, prune_i8, (kiln::PruneArguments arguments)) {
    KILN_DYNAMIC_SHARED(char, shared);
    kiln::prune<kiln::ByteForm<true>>(arguments, shared);
}

KILN_KERNEL(128, prune_float, (kiln::PruneArguments arguments)) {
    KILN_DYNAMIC_SHARED(char, shared);
    kiln::prune<kiln::FloatForm>(arguments, shared);
}

// By the definition: each candidate against those kept so far, by row kernels. Positions of kept candidates lie where the
// result goes, in the order in which they were taken, until the end.
KILN_KERNEL(128, prune_long, (kiln::PruneArguments a)) {
    using namespace kiln;
    const u32 position = a.which != nullptr ? a.which[blockIdx.x] : blockIdx.x;
    const u32 point = a.points[position];
    const u64 begin = a.begins[position];
    Key* const keys = a.scratch + 2 * begin;
    Key* const unsorted = keys + a.counts[position];
    const u32 count = sort_candidates(a, point, a.candidates + begin, a.counts[position], unsorted, keys);
    u32* const kept = a.kept + static_cast<u64>(position) * a.max_degree;
    u32 degree = 0;
    for (u32 round = 0; round < 2; round++) {
        if (round == 1 && a.alpha <= 1.0f) break;
        const double alpha = round == 0 ? 1.0 : static_cast<double>(a.alpha);
        for (u32 i = 0; i < count && degree < a.max_degree; i++) {
            bool out = false;
            for (u32 k = warp_id(); k < degree && !out; k += PRUNE_THREADS / WARP) {
                if (kept[k] == i) out = true;
                if (kept[k] >= i) continue;
                const double between = row_distance(a.mode, a.base, key_id(keys[kept[k]]), a.base, key_id(keys[i]));
                out = between <= 0.0 || alpha * between < key_distance(keys[i]);
            }
            if (__syncthreads_or(out)) continue;
            if (threadIdx.x == 0) kept[degree] = i;
            degree++;
            __syncthreads();
        }
    }
    // Nearest first; the sorted positions pass through the unsorted keys, which are done with.
    __syncthreads();
    for (u32 i = threadIdx.x; i < degree; i += PRUNE_THREADS) {
        u32 rank = 0;
        for (u32 j = 0; j < degree; j++) rank += kept[j] < kept[i];
        unsorted[rank] = key_id(keys[kept[i]]);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < a.max_degree; i += PRUNE_THREADS) kept[i] = i < degree ? static_cast<u32>(unsorted[i]) : PAD_ID;
    if (threadIdx.x == 0) a.degrees[position] = degree;
}
