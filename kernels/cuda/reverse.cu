// Reverse edges: between pruned lists and the finished graph nothing returns to the host but the graph itself.
//
// In: pruned lists `(n, R)` u32, of which `kept` (n) edges come first, then candidates that were not kept, padded by
// PAD_ID. Out: each row's edges `(rows, R)` padded by PAD_ID, and their number. CPU twin: kernels/src/reverse.rs, equal
// list by list as far as robust prune is.
//
// reverse_count      how many rows name each row
// scan_sums, scan_bases, scan_offsets
//                    where each row's list of those begins
// reverse_place      the transposed graph, each list in any order
// reverse_sort       lists up to SORTED in ascending order, in shared memory; longer ones are noted
// reverse_sort_step  one step of a bitonic sort of the longer ones, where they lie
// reverse_union      a row's own edges and (of very many every so many-th) those that name it; the crowded are sorted into
//                    classes of like length, for prune.cu
// reverse_fill       what robust prune kept of the crowded, the unions of others, both filled up to R
//
// What the order of atomics decides (places in unsorted lists and in classes) decides nothing of the result. Bound by
// scattered reads and writes of 4 bytes: about four an edge.
#include "common.cuh"

namespace kiln {

/// Counts of one block's share of a scan.
constexpr u32 SCAN_SHARE = 1024;
constexpr u32 SCAN_THREADS = 256;

/// Longest list that one warp sorts in shared memory.
constexpr u32 SORTED = 1024;

/// Candidates of a tile of pairs in prune.cu: lists of a class differ by less.
constexpr u32 CLASS = 64;

struct PrunedLists {
    const u32* edges;  // (n, max_degree)
    const u32* kept;   // (n)
    u64 n;
    u32 max_degree;
    u32 padding;
};

/// Exclusive prefix sum over a block of SCAN_THREADS; `total` is the sum of all.
__device__ inline u64 block_scan(u64 own, u64* warps, u64* total) {
    const u64 end = warp_scan(own);
    if (lane_id() == WARP - 1) warps[warp_id()] = end;
    __syncthreads();
    u64 before = 0, all = 0;
    for (u32 warp = 0; warp < SCAN_THREADS / WARP; warp++) {
        if (warp < warp_id()) before += warps[warp];
        all += warps[warp];
    }
    __syncthreads();
    *total = all;
    return before + end - own;
}

}  // namespace kiln

// Adds to `counts` (n), zero before, how often each row is named by kept edges. One thread a place of the lists.
KILN_KERNEL(256, reverse_count, (kiln::PrunedLists lists, u32* counts)) {
    const u64 place = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x, row = place / lists.max_degree;
    if (row >= lists.n || place % lists.max_degree >= lists.kept[row]) return;
    atomicAdd(&counts[lists.edges[place]], 1u);
}

// sums[b]: the sum of the b-th SCAN_SHARE of `counts`. One block a share.
KILN_KERNEL(256, scan_sums, (const u32* counts, u64 n, u64* sums)) {
    using namespace kiln;
    __shared__ u64 warps[SCAN_THREADS / WARP];
    u64 own = 0, total;
    for (u32 i = threadIdx.x; i < SCAN_SHARE; i += SCAN_THREADS) {
        const u64 at = static_cast<u64>(blockIdx.x) * SCAN_SHARE + i;
        if (at < n) own += counts[at];
    }
    block_scan(own, warps, &total);
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

// Makes `sums` (shares) the sum of those before. One block.
KILN_KERNEL(256, scan_bases, (u64* sums, u32 shares)) {
    using namespace kiln;
    __shared__ u64 warps[SCAN_THREADS / WARP];
    u64 base = 0;
    for (u32 first = 0; first < shares; first += SCAN_THREADS) {
        const u32 i = first + threadIdx.x;
        u64 total;
        const u64 before = block_scan(i < shares ? sums[i] : 0, warps, &total);
        if (i < shares) sums[i] = base + before;
        base += total;
    }
}

// offsets (n + 1): the sum of the counts before each, and of all. One block a share of SCAN_SHARE counts.
KILN_KERNEL(256, scan_offsets, (const u32* counts, u64 n, const u64* bases, u64* offsets)) {
    using namespace kiln;
    constexpr u32 EACH = SCAN_SHARE / SCAN_THREADS;
    __shared__ u64 warps[SCAN_THREADS / WARP];
    const u64 first = static_cast<u64>(blockIdx.x) * SCAN_SHARE + threadIdx.x * EACH;
    u64 own = 0, total;
    for (u32 i = 0; i < EACH; i++) own += first + i < n ? counts[first + i] : 0;
    u64 offset = bases[blockIdx.x] + block_scan(own, warps, &total);
    for (u32 i = 0; i < EACH; i++) {
        if (first + i < n) {
            offsets[first + i] = offset;
            offset += counts[first + i];
            if (first + i == n - 1) offsets[n] = offset;
        }
    }
}

// Writes each kept edge's source into the list of its target; `counts` falls to zero. One thread a place of the lists.
KILN_KERNEL(256, reverse_place, (kiln::PrunedLists lists, const u64* offsets, u32* counts, u32* items)) {
    const u64 place = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x, row = place / lists.max_degree;
    if (row >= lists.n || place % lists.max_degree >= lists.kept[row]) return;
    const u32 to = lists.edges[place];
    items[offsets[to] + atomicAdd(&counts[to], FULL) - 1] = static_cast<u32>(row);
}

// Sorts lists up to SORTED; longer ones are noted in `long_rows`: counters[0] of them, the longest counters[1] long. One
// warp (of 4) a list. Dynamic shared memory: 4 * SORTED u32.
KILN_KERNEL(128, reverse_sort, (const u64* offsets, u64 n, u32* items, u32* long_rows, u32* counters)) {
    using namespace kiln;
    KILN_DYNAMIC_SHARED(u32, shared);
    const u64 row = static_cast<u64>(blockIdx.x) * (blockDim.x / WARP) + warp_id();
    if (row >= n) return;
    u32* const list = items + offsets[row];
    const u64 length = offsets[row + 1] - offsets[row];
    if (length > SORTED) {
        if (lane_id() == 0) {
            long_rows[atomicAdd(&counters[0], 1u)] = static_cast<u32>(row);
            atomicMax(&counters[1], static_cast<u32>(length));
        }
        return;
    }
    u32* const own = shared + warp_id() * SORTED;
    for (u32 i = lane_id(); i < length; i += WARP) own[i] = list[i];
    __syncwarp();
    for (u32 i = lane_id(); i < length; i += WARP) {
        const u32 item = own[i];
        u32 rank = 0;
        for (u32 j = 0; j < length; j++) rank += own[j] < item || (own[j] == item && j < i);
        list[rank] = item;
    }
}

// One step of a bitonic sort, as in select.wgsl: entries past the end count as largest and never move, so that any number
// can be sorted. Blocks (x, y): y a list of `long_rows`, x any number of blocks that share its pairs.
KILN_KERNEL(256, reverse_sort_step, (const u64* offsets, u32* items, const u32* long_rows, u32 span, u32 flip)) {
    const u32 row = long_rows[blockIdx.y], half = span / 2;
    u32* const list = items + offsets[row];
    const u64 length = offsets[row + 1] - offsets[row];
    for (u64 at = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; at < length;
         at += static_cast<u64>(gridDim.x) * blockDim.x) {
        const u64 low = at / half * span + at % half, high = flip ? at / half * span + span - 1 - at % half : low + half;
        if (high >= length) continue;
        const u32 a = list[low], b = list[high];
        if (b < a) {
            list[low] = b;
            list[high] = a;
        }
    }
}

// Candidates of rows `first..first + count` for prune.cu, `width` places a row. A union of more than max_degree is crowded:
// its position joins class (length - 1) / CLASS of `which` (classes, count); class_counts (classes) are zero before.
// One warp (of 4) a row.
KILN_KERNEL(128, reverse_union, (kiln::PrunedLists lists, const u64* offsets, const u32* items, u32 first, u32 count,
                                 u32 width, u32 named_by, u32* points, u64* begins, u32* counts, u32* candidates,
                                 u32* which, u32* class_counts)) {
    using namespace kiln;
    const u32 i = blockIdx.x * (blockDim.x / WARP) + warp_id(), lane = lane_id();
    if (i >= count) return;
    const u64 row = static_cast<u64>(first) + i, begin = offsets[row], length = offsets[row + 1] - begin;
    const u32* const own = lists.edges + row * lists.max_degree;
    const u32 kept = lists.kept[row];
    u32* const out = candidates + static_cast<u64>(i) * width;
    for (u32 j = lane; j < kept; j += WARP) out[j] = own[j];
    u32 used = kept;
    const u64 step = length > named_by ? (length + named_by - 1) / named_by : 1, sampled = (length + step - 1) / step;
    for (u64 at = 0; at < sampled; at += WARP) {
        const u32 id = at + lane < sampled ? items[begin + (at + lane) * step] : PAD_ID;
        bool wanted = id != PAD_ID;
        for (u32 j = 0; j < kept && wanted; j++) wanted = own[j] != id;
        const u32 votes = __ballot_sync(FULL, wanted);
        if (wanted) out[used + __popc(votes & ((1u << lane) - 1))] = id;
        used += __popc(votes);
    }
    if (lane != 0) return;
    points[i] = static_cast<u32>(row);
    begins[i] = static_cast<u64>(i) * width;
    counts[i] = used;
    if (used > lists.max_degree) {
        const u32 of = (used - 1) / CLASS;
        which[static_cast<u64>(of) * count + atomicAdd(&class_counts[of], 1u)] = i;
    }
}

// Edges `(count, max_degree)` of rows `first..first + count`: what lies there of the crowded (`degrees` says how many), the
// union of others, then candidates that were not kept and the rest of the union while there is room, each id once.
// One warp (of 4) a row.
KILN_KERNEL(128, reverse_fill, (kiln::PrunedLists lists, u32 first, u32 count, u32 width, const u32* counts,
                                const u32* candidates, u32* edges, u32* degrees)) {
    using namespace kiln;
    const u32 i = blockIdx.x * (blockDim.x / WARP) + warp_id(), lane = lane_id(), r = lists.max_degree;
    if (i >= count) return;
    const u64 row = static_cast<u64>(first) + i;
    const u32* const all = candidates + static_cast<u64>(i) * width;
    const u32* const own = lists.edges + row * r;
    u32* const out = edges + static_cast<u64>(i) * r;
    const u32 named = counts[i], kept = lists.kept[row];
    u32 used = named;
    if (named > r) {
        used = degrees[i];
    } else {
        for (u32 j = lane; j < named; j += WARP) out[j] = all[j];
    }
    __syncwarp();
    const u32 others = r - kept, filling = others + named;
    for (u32 at = 0; at < filling && used < r; at += WARP) {
        const u32 j = at + lane;
        const u32 id = j >= filling ? PAD_ID : j < others ? own[kept + j] : all[j - others];
        // Of copies in this round the first counts.
        const u32 alike = __match_any_sync(FULL, id);
        bool wanted = id != PAD_ID && (alike & ((1u << lane) - 1)) == 0;
        for (u32 held = 0; held < used && wanted; held++) wanted = out[held] != id;
        const u32 votes = __ballot_sync(FULL, wanted), place = used + __popc(votes & ((1u << lane) - 1));
        if (wanted && place < r) out[place] = id;
        used = min(used + static_cast<u32>(__popc(votes)), r);
        __syncwarp();
    }
    for (u32 j = used + lane; j < r; j += WARP) out[j] = PAD_ID;
    if (lane == 0) degrees[i] = used;
}
