// Greedy search of a graph (DiskANN, NeurIPS 2019, algorithm 1), one block a query.
//
// In: base rows, edges `(n, R)` u32 and degrees (n), queries with the rows where each starts. Out: ids and distances
// `(queries, k)`, padded, and how many rows each walk expanded. CPU twin: kernels/src/graph_search.rs; where rows are
// integers (but under cosine) walks are the same step by step.
//
// A walk keeps the `list_size` nearest rows seen, sorted by (distance, id), and expands the nearest that it has not. What
// it has seen is remembered in a table that forgets: one place a hash, and who comes last stays. A row that was forgotten
// is scored again, at the same distance to the bit; then it is in the list, where it is found, or it was too far when it
// came first, and the list has only grown nearer since. So the table saves work and decides nothing.
//
// Launch: 128 threads a query. A step takes 128 neighbours at a time: a thread asks the table for one, a warp scores a
// row, a thread ranks one among the new, and all merge old and new into the other of two lists, where a key's place
// is its own rank plus its rank among the others. Dynamic shared memory: 2,576 bytes, 4 a place of the table, and 18
// a place of the list, unless lists lie in `lists` and `flags`. Bound by scattered reads of the rows scored.
#include "geometry.cuh"
#include "selection.cuh"

namespace kiln {

constexpr u32 WALK_THREADS = 128;

struct WalkArguments {
    RowSet base;           // ids: null
    RowSet queries;        // ids: null
    const u32* edges;      // (n, max_degree)
    const u32* degrees;    // (n)
    const u64* begins;     // (queries + 1) where each query's entries begin
    const u32* entries;    // row numbers
    u64* lists;            // (queries of the launch, 2, list_size) keys, or null: in shared memory
    u8* flags;             // (queries of the launch, 2, list_size), or null with `lists`
    u32* ids;              // (queries, k)
    float* distances;      // (queries, k)
    u32* expanded;         // (queries)
    u32 first_query;
    u32 max_degree;
    u32 list_size;         // at least 1
    u32 k;
    u32 mode;              // MODE_L2, MODE_INNER_PRODUCT or MODE_COSINE
    u32 places;            // of the table, a power of two
};

/// One block's walk. What is not a pointer is the same in every thread.
struct Walk {
    const WalkArguments& a;
    u32 query;
    Key* list;      // (list_size) sorted, the first `held` of them
    Key* spare;     // (list_size)
    u8* expanded;   // (list_size) whether a row of the list was expanded
    u8* spare_expanded;
    Key* found;     // (WALK_THREADS) new keys
    Key* sorted;    // (WALK_THREADS)
    u32* rows;      // (WALK_THREADS) new rows
    u32* count;     // (1) of them
    u32* table;     // (places)
    u32 held, next;

    __device__ __forceinline__ Walk(const WalkArguments& arguments, char* shared)
        : a(arguments), query(arguments.first_query + blockIdx.x), held(0), next(0) {
        found = reinterpret_cast<Key*>(shared);
        sorted = found + WALK_THREADS;
        char* const behind = reinterpret_cast<char*>(sorted + WALK_THREADS);
        rows = reinterpret_cast<u32*>(behind);
        count = rows + WALK_THREADS;
        table = count + 4;
        if (a.lists != nullptr) {
            list = a.lists + static_cast<u64>(blockIdx.x) * 2 * a.list_size;
            expanded = a.flags + static_cast<u64>(blockIdx.x) * 2 * a.list_size;
        } else {
            list = reinterpret_cast<Key*>(table + a.places);
            expanded = reinterpret_cast<u8*>(list + 2 * static_cast<u64>(a.list_size));
        }
        spare = list + a.list_size;
        spare_expanded = expanded + a.list_size;
    }

    /// Of these rows those that the table does not know, into `rows`; their number. Barriers before and behind.
    __device__ __forceinline__ u32 unknown(const u32* from, u32 many) {
        __syncthreads();
        if (threadIdx.x == 0) *count = 0;
        __syncthreads();
        const u32 id = threadIdx.x < many ? from[threadIdx.x] : PAD_ID;
        // Fibonacci hashing: neighbours in number scatter.
        bool wanted = id != PAD_ID;
        if (wanted) wanted = atomicExch(&table[(id * 0x9E3779B1u >> 7) & (a.places - 1)], id) != id;
        const u32 votes = __ballot_sync(FULL, wanted);
        u32 place = 0;
        if (lane_id() == 0 && votes != 0) place = atomicAdd(count, static_cast<u32>(__popc(votes)));
        place = __shfl_sync(FULL, place, 0) + __popc(votes & ((1u << lane_id()) - 1));
        if (wanted) rows[place] = id;
        __syncthreads();
        return *count;
    }

    /// Whether a key belongs into the list: near enough, not there, and the first of its kind among the new.
    __device__ __forceinline__ bool enters(Key key, u32 position) const {
        if (held == a.list_size && key >= list[held - 1]) return false;
        const u32 at = lower_bound(list, held, key);
        if (at < held && list[at] == key) return false;
        for (u32 i = 0; i < position; i++)
            if (found[i] == key) return false;
        return true;
    }

    /// Scores up to WALK_THREADS rows and takes the nearest into the list.
    __device__ __forceinline__ void admit(const u32* from, u32 many) {
        const u32 fresh = unknown(from, many), thread = threadIdx.x;
        for (u32 i = warp_id(); i < fresh; i += WALK_THREADS / WARP) {
            const float distance = row_distance(a.mode, a.queries, query, a.base, rows[i]);
            if (lane_id() == 0) found[i] = order_key(distance, rows[i]);
        }
        __syncthreads();
        Key own = thread < fresh ? found[thread] : EMPTY;
        if (own != EMPTY && !enters(own, thread)) own = EMPTY;
        __syncthreads();
        found[thread] = own;
        const u32 entering = __syncthreads_count(own != EMPTY);
        if (entering == 0) return;
        if (own != EMPTY) {
            u32 rank = 0;
            for (u32 i = 0; i < fresh; i++) rank += found[i] < own;
            sorted[rank] = own;
        }
        __syncthreads();
        const u32 kept = min(held + entering, a.list_size);
        if (thread < entering) {
            const u32 place = thread + lower_bound(list, held, sorted[thread]);
            if (place < kept) {
                spare[place] = sorted[thread];
                spare_expanded[place] = 0;
            }
        }
        for (u32 i = thread; i < held; i += WALK_THREADS) {
            const u32 place = i + lower_bound(sorted, entering, list[i]);
            if (place < kept) {
                spare[place] = list[i];
                spare_expanded[place] = expanded[i];
            }
        }
        next = min(next, lower_bound(list, held, sorted[0]));
        __syncthreads();
        Key* const other = list;
        list = spare;
        spare = other;
        u8* const others = expanded;
        expanded = spare_expanded;
        spare_expanded = others;
        held = kept;
    }

    __device__ __forceinline__ void admit_all(const u32* from, u64 many) {
        for (u64 first = 0; first < many; first += WALK_THREADS)
            admit(from + first, static_cast<u32>(many - first < WALK_THREADS ? many - first : WALK_THREADS));
    }

    /// The place of the nearest row that was not expanded, `held` or more where there is none. By each warp on its own.
    __device__ __forceinline__ u32 nearest() const {
        for (u32 at = next; at < held; at += WARP) {
            const u32 votes = __ballot_sync(FULL, at + lane_id() < held && expanded[at + lane_id()] == 0);
            if (votes != 0) return at + __ffs(votes) - 1;
        }
        return held;
    }

    __device__ __forceinline__ void run() {
        for (u32 i = threadIdx.x; i < a.places; i += WALK_THREADS) table[i] = PAD_ID;
        admit_all(a.entries + a.begins[query], a.begins[query + 1] - a.begins[query]);
        u32 steps = 0;
        for (;; steps++) {
            const u32 at = nearest();
            if (at >= held) break;
            const u32 row = key_id(list[at]);
            __syncthreads();
            if (threadIdx.x == 0) expanded[at] = 1;
            next = at + 1;
            admit_all(a.edges + static_cast<u64>(row) * a.max_degree, a.degrees[row]);
        }
        for (u32 i = threadIdx.x; i < a.k; i += WALK_THREADS) {
            const u64 place = static_cast<u64>(query) * a.k + i;
            a.ids[place] = i < held ? key_id(list[i]) : PAD_ID;
            a.distances[place] = i < held ? key_distance(list[i]) : infinity();
        }
        if (threadIdx.x == 0) a.expanded[query] = steps;
    }
};

}  // namespace kiln

KILN_KERNEL(128, graph_walk, (kiln::WalkArguments a)) {
    KILN_DYNAMIC_SHARED(char, shared);
    kiln::Walk(a, shared).run();
}
