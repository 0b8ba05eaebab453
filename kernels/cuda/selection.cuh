// The k smallest of a stream of keys, for many rows at once: the selection that products are fused with.
//
// A key is a distance's order-preserving bits above a row number: equal distances rank by number, all keys differ, and so
// the k smallest are one set in one order whatever the order of arrival. Every row has a sorted list of k keys, a queue
// of 32 in shared memory and a threshold, its k-th key. Threads drop keys below the threshold into the queue; where
// one is full the block stops and a warp a row merges queues into lists. As thresholds fall soon, that is rare.
#pragma once

#include "tensor.cuh"

namespace kiln {

using Key = u64;

constexpr Key EMPTY = ~0ull;
constexpr u32 QUEUE = 32;

/// `order_bits` of a distance from a product. What is not finite comes first: where a product
/// overflowed nothing is known, and what is kept first is scored exactly later.
__device__ __forceinline__ u32 selection_bits(float distance) {
    const u32 bits = __float_as_uint(distance);
    if ((bits & 0x7f800000u) == 0x7f800000u) return 0;
    return order_bits(distance);
}

__device__ __forceinline__ Key make_key(u32 bits, u32 id) { return static_cast<Key>(bits) << 32 | id; }

/// Keys of sorted `list` `(count)` below `key`.
__device__ __forceinline__ u32 lower_bound(const Key* list, u32 count, Key key) {
    u32 first = 0;
    while (count > 0) {
        const u32 half = count / 2;
        if (list[first + half] < key) {
            first += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return first;
}

/// Merges `count` <= 32 distinct keys of `queue` into the sorted `list` `(k)`, which holds none of them; the largest fall
/// out. By one whole warp; the queue is left sorted.
__device__ inline void merge_queue(Key* list, u32 k, Key* queue, u32 count) {
    const u32 lane = lane_id();
    const Key own = lane < count ? queue[lane] : EMPTY;
    u32 rank = 0;
    for (u32 i = 0; i < count; i++) rank += queue[i] < own;
    const u32 place = lane < count ? rank + lower_bound(list, k, own) : k;
    __syncwarp();
    if (lane < count) queue[rank] = own;
    __syncwarp();
    // From the end, so that what moves never lands on what has not been read.
    for (u32 chunk = (k + 31) / 32; chunk-- > 0;) {
        const u32 i = chunk * 32 + lane;
        const Key key = i < k ? list[i] : EMPTY;
        const u32 shift = key == EMPTY ? 0 : lower_bound(queue, count, key);
        if (!__any_sync(FULL, shift > 0 || key == EMPTY)) break;
        __syncwarp();
        if (shift > 0 && i + shift < k) list[i + shift] = key;
        __syncwarp();
    }
    if (place < k) list[place] = own;
    __syncwarp();
}

/// Queues and thresholds of `ROWS` rows in shared memory, and where their lists lie (shared or device memory).
template <int ROWS>
struct Selection {
    Key* queues;        // (ROWS, QUEUE)
    Key* thresholds;    // (ROWS)
    u32* counts;   // (ROWS)
    Key* lists;         // (ROWS, k), sorted
    u32 k;

    static constexpr u32 SHARED_BYTES = ROWS * (QUEUE * sizeof(Key) + sizeof(Key) + sizeof(u32));

    /// Lays the selection out in `shared`, with the lists behind where `own_lists` is null.
    __device__ __forceinline__ void place(char* shared, Key* own_lists, u32 list_keys) {
        queues = reinterpret_cast<Key*>(shared);
        thresholds = queues + ROWS * QUEUE;
        counts = reinterpret_cast<u32*>(thresholds + ROWS);
        lists = own_lists != nullptr ? own_lists : reinterpret_cast<Key*>(counts + ROWS);
        k = list_keys;
    }

    /// Empties `rows` rows; the caller synchronises.
    __device__ __forceinline__ void reset(u32 rows) {
        for (u32 i = threadIdx.x; i < ROWS; i += blockDim.x) {
            counts[i] = 0;
            thresholds[i] = EMPTY;
        }
        for (u64 i = threadIdx.x; i < static_cast<u64>(rows) * k; i += blockDim.x) lists[i] = EMPTY;
    }

    /// Offers a key; false where the queue is full.
    __device__ __forceinline__ bool offer(u32 row, Key key) {
        if (key >= thresholds[row]) return true;
        const u32 slot = atomicAdd(&counts[row], 1u);
        if (slot < QUEUE) queues[row * QUEUE + slot] = key;
        return slot < QUEUE;
    }

    /// Merges queues of at least `least` keys (at least 1). By all warps between two barriers of the block.
    __device__ __forceinline__ void flush(u32 rows, u32 least) {
        for (u32 row = warp_id(); row < rows; row += blockDim.x / WARP) {
            const u32 count = counts[row] < QUEUE ? counts[row] : QUEUE;
            if (count < least) continue;
            merge_queue(lists + static_cast<u64>(row) * k, k, queues + row * QUEUE, count);
            if (lane_id() == 0) {
                counts[row] = 0;
                thresholds[row] = lists[static_cast<u64>(row) * k + k - 1];
            }
        }
    }
};

}  // namespace kiln
