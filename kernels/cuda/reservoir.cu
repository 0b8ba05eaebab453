// Bounded reservoirs on the device: each row's nearest distinct candidates, whatever the order in which they arrive, and
// their way to pruned edges. Between the product of a leaf and the edges nothing returns to the host.
//
// A reservoir is `keep` places, sorted by (key, row number): ids `(n, keep)` u32 padded by PAD_ID, keys `(n, keep)` u16
// padded by 0xffff. The key is the distance in 16 bits, five of exponent and eleven of mantissa below a largest distance
// (`lowest` = its bits >> 12, less 65,535). The order is total, so what is kept depends on no order of arrival. CPU
// twin: kernels/src/reservoir.rs, which keeps the same candidates unsorted.
//
// offer_link       a batch of leaves' results is grouped by row without sorting: each member position is pushed on
//                  its row's chain
// offer_merge      one warp a row walks the chain and merges
// offer_candidates a row's candidates for pruning: its reservoir, then a few far rows
// prune_edges      kept edges first, then the nearest candidates not kept
//
// Bytes: 6 * keep a row read and written once a batch that names it; 12 k a member.
#include "selection.cuh"

namespace kiln {

struct Reservoirs {
    u32* ids;     // (n, keep)
    u16* keys;    // (n, keep)
    u32* heads;   // (n) first position of the row's chain, PAD_ID between batches
    u32 keep;
    u32 lowest;
};

/// A distance in 16 bits, monotone; below 0 there is none.
__device__ __forceinline__ u32 distance_key(float distance, u32 lowest) {
    const u32 bits = __float_as_uint(distance) >> 12;
    return bits <= lowest ? 0 : min(bits - lowest, 0xffffu);
}

/// Merges `count` <= 32 keys of `queue`, copies among them, into `list` `(keep)`, which holds none of them. By one warp.
__device__ inline void merge_with_copies(Key* list, u32 keep, Key* queue, u32 count) {
    const u32 lane = lane_id();
    const Key own = lane < count ? queue[lane] : EMPTY;
    bool copy = lane >= count;
    for (u32 i = 0; i < count; i++) copy |= i < lane && queue[i] == own;
    const u32 distinct = __ballot_sync(FULL, !copy);
    if (!copy) queue[__popc(distinct & ((1u << lane) - 1))] = own;
    __syncwarp();
    merge_queue(list, keep, queue, __popc(distinct));
}

}  // namespace kiln

// Empties reservoirs `places` = n * keep, n rows. One thread a place.
KILN_KERNEL(256, reservoir_clear, (kiln::Reservoirs r, u64 places, u32 rows)) {
    const u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < places) {
        r.ids[i] = PAD_ID;
        r.keys[i] = 0xffff;
    }
    if (i < rows) r.heads[i] = PAD_ID;
}

// Pushes each of `count` member positions on the chain of its row. One thread a position.
KILN_KERNEL(256, offer_link, (kiln::Reservoirs r, const u32* members, u32 count, u32* next)) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) next[i] = atomicExch(&r.heads[members[i]], i);
}

// One warp (of 4 a block at most) a position, of which the one at the end of its chain does the row's work. Dynamic shared memory:
// 8 * (keep + 32) bytes a warp. `ids`, `distances`: (count, k), padded by PAD_ID.
KILN_KERNEL(128, offer_merge, (kiln::Reservoirs r, const u32* members, u32 count, const u32* next, const u32* ids,
                               const float* distances, u32 k)) {
    using namespace kiln;
    KILN_DYNAMIC_SHARED(Key, shared);
    const u32 position = blockIdx.x * (blockDim.x / WARP) + warp_id(), lane = lane_id();
    if (position >= count || next[position] != PAD_ID) return;
    const u32 row = members[position];
    Key* const list = shared + static_cast<size_t>(warp_id()) * (r.keep + QUEUE);
    Key* const queue = list + r.keep;
    u32* const row_ids = r.ids + static_cast<u64>(row) * r.keep;
    u16* const row_keys = r.keys + static_cast<u64>(row) * r.keep;
    for (u32 i = lane; i < r.keep; i += WARP) {
        const u32 id = row_ids[i];
        list[i] = id == PAD_ID ? EMPTY : make_key(row_keys[i], id);
    }
    __syncwarp();
    u32 queued = 0;
    for (u32 at = r.heads[row]; at != PAD_ID; at = next[at]) {
        for (u32 first = 0; first < k; first += WARP) {
            Key own = EMPTY;
            if (first + lane < k) {
                const u64 place = static_cast<u64>(at) * k + first + lane;
                if (ids[place] != PAD_ID) own = make_key(distance_key(distances[place], r.lowest), ids[place]);
            }
            // Twice at most: where the queue has no room it is merged, and the list is another one.
            for (;;) {
                bool wanted = own < list[r.keep - 1];
                if (wanted) wanted = list[lower_bound(list, r.keep, own)] != own;
                const u32 votes = __ballot_sync(FULL, wanted), offered = __popc(votes);
                if (queued + offered <= QUEUE) {
                    if (wanted) queue[queued + __popc(votes & ((1u << lane) - 1))] = own;
                    queued += offered;
                    __syncwarp();
                    break;
                }
                merge_with_copies(list, r.keep, queue, queued);
                queued = 0;
            }
        }
    }
    if (queued > 0) merge_with_copies(list, r.keep, queue, queued);
    for (u32 i = lane; i < r.keep; i += WARP) {
        const Key key = list[i];
        row_ids[i] = key_id(key);
        row_keys[i] = key == EMPTY ? 0xffff : static_cast<u16>(key >> 32);
    }
    if (lane == 0) r.heads[row] = PAD_ID;
}

// Rows that a row has for candidates beside its nearest, drawn by SplitMix64's finalizer (Steele et al., OOPSLA 2014).
__device__ __forceinline__ u32 far_row(u64 seed, u32 row, u32 i, u64 n) {
    u64 z = seed ^ ((static_cast<u64>(row) << 32 | i) * 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return static_cast<u32>((z ^ (z >> 31)) % n);
}

// Candidates of rows `first..first + count` for `prune.cu`: `width` = keep + far places a row. One warp (of 4) a row.
KILN_KERNEL(128, offer_candidates, (kiln::Reservoirs r, u32 first, u32 count, u64 n, u64 seed, u32 far, u32* points,
                                    u64* begins, u32* counts, u32* candidates)) {
    using namespace kiln;
    const u32 i = blockIdx.x * (blockDim.x / WARP) + warp_id(), lane = lane_id();
    if (i >= count) return;
    const u32 row = first + i, width = r.keep + far;
    const u32* const ids = r.ids + static_cast<u64>(row) * r.keep;
    u32* const out = candidates + static_cast<u64>(i) * width;
    u32 used = 0;
    for (u32 at = lane; at < r.keep; at += WARP) {
        out[at] = ids[at];
        used += ids[at] != PAD_ID;
    }
    used = warp_sum(used);
    __syncwarp();
    for (u32 j = 0; j < far; j++) {
        const u32 id = far_row(seed, row, j, n);
        bool known = id == row;
        for (u32 at = lane; at < used; at += WARP) known |= out[at] == id;
        if (__any_sync(FULL, known)) continue;
        if (lane == 0) out[used] = id;
        used++;
        __syncwarp();
    }
    if (lane == 0) {
        points[i] = row;
        begins[i] = static_cast<u64>(i) * width;
        counts[i] = used;
    }
}

// Edges `(points, max_degree)`: the kept ones as they are, then candidates that were not kept, in their order, padded by
// PAD_ID. One warp (of 4) a point; `kept` is completed in place, behind what is looked at.
KILN_KERNEL(128, prune_edges, (u32 count, u32 max_degree, const u64* begins, const u32* counts, const u32* candidates,
                               const u32* degrees, u32* kept)) {
    const u32 i = blockIdx.x * (blockDim.x / WARP) + warp_id(), lane = lane_id();
    if (i >= count) return;
    u32* const out = kept + static_cast<u64>(i) * max_degree;
    const u32* const list = candidates + begins[i];
    const u32 degree = degrees[i];
    u32 used = degree;
    for (u32 first = 0; first < counts[i] && used < max_degree; first += WARP) {
        const u32 id = first + lane < counts[i] ? list[first + lane] : PAD_ID;
        bool wanted = id != PAD_ID;
        for (u32 j = 0; j < degree && wanted; j++) wanted = out[j] != id;
        const u32 votes = __ballot_sync(FULL, wanted), place = used + __popc(votes & ((1u << lane) - 1));
        if (wanted && place < max_degree) out[place] = id;
        used += __popc(votes);
        __syncwarp();
    }
}
