// What becomes of selected lists: runs of the base are merged, candidates scored exactly, answers cut and certified, and
// queries whose selection could not be certified answered by scanning.
//
// In: sorted lists of keys as `select.cu` writes them. Out: row numbers `(rows, k)` u32, padded by PAD_ID, and distances
// `(rows, k)` f32, padded by infinity, ascending by (distance, row number). All of this is a small part of a search:
// about `selected` gathered rows a query. CPU twin: `plain::ranked`.
#include "geometry.cuh"
#include "selection.cuh"

namespace kiln {

/// How far the distances of a selection may lie from the exact ones, and for what they are certified.
struct Certificate {
    u32 wanted;              // 0: nothing is certified
    float slack;             // relative error
    const float* row_norms;  // squared, (rows)
    const double* largest;   // squared norm of the base rows, (1)
};

struct ScoreArguments {
    RowSet rows, base;
    u64 row_first;        // position of the first list's row
    Key* lists;           // (count, selected)
    u32 selected, k;
    u32 mode;             // Mode
    Certificate certificate;
    u32* ids;             // (count, k)
    float* distances;     // (count, k)
    u32* uncertain;       // (count), where certified
};

/// Bound on |approximate - exact| for any base row. A dot product errs by at most slack * |a||b| (Cauchy-Schwarz over the
/// rounding errors of its terms and sums), so L2 by twice that and slack times the squares.
__device__ __forceinline__ float error_bound(u32 mode, const Certificate& certificate, u32 row) {
    const float norm = sqrtf(certificate.row_norms[row]), largest = static_cast<float>(sqrt(*certificate.largest));
    if (mode == MODE_COSINE) return certificate.slack;
    if (mode == MODE_INNER_PRODUCT) return certificate.slack * norm * largest;
    const float sum = norm + largest;
    return certificate.slack * sum * sum;
}

/// Writes the `k` smallest of `count` distinct keys, any order, EMPTY last where there are fewer. By one block.
__device__ __forceinline__ void write_ranked(const Key* keys, u32 count, u32 k, u32* ids, float* distances) {
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        const Key own = keys[i];
        u32 rank = 0;
        // Equal keys are EMPTY ones: their position parts them.
        for (u32 j = 0; j < count; j++) rank += keys[j] < own || (keys[j] == own && j < i);
        if (rank < k) {
            ids[rank] = own == EMPTY ? PAD_ID : key_id(own);
            distances[rank] = own == EMPTY ? infinity() : key_distance(own);
        }
    }
}

}  // namespace kiln

// One block of 128 a list: scores its rows exactly, a warp a row, ranks them, and says whether a row that is not in the
// list could belong into the answer. `selected` >= k.
KILN_KERNEL(128, score_lists, (kiln::ScoreArguments a)) {
    using namespace kiln;
    const u32 number = a.rows.row_number(static_cast<u32>(a.row_first) + blockIdx.x);
    Key* const keys = a.lists + static_cast<u64>(blockIdx.x) * a.selected;
    const Key last = keys[a.selected - 1];
    __syncthreads();
    for (u32 i = warp_id(); i < a.selected; i += blockDim.x / WARP) {
        const Key key = keys[i];
        if (key == EMPTY) continue;
        const float distance = row_distance(a.mode, a.rows, number, a.base, key_id(key));
        if (lane_id() == 0) keys[i] = order_key(distance, key_id(key));
    }
    __syncthreads();
    u32* const ids = a.ids + static_cast<u64>(blockIdx.x) * a.k;
    float* const distances = a.distances + static_cast<u64>(blockIdx.x) * a.k;
    write_ranked(keys, a.selected, a.k, ids, distances);
    if (a.certificate.wanted == 0) return;
    __syncthreads();
    if (threadIdx.x == 0) {
        // Every row outside lies at least at the list's last distance less the error. Where that is not a number, or the
        // k-th is not nearer, the answer is uncertain.
        const float outside = key_distance(last) - error_bound(a.mode, a.certificate, number);
        a.uncertain[blockIdx.x] = last != EMPTY && !(distances[a.k - 1] < outside);
    }
}

// Exact sorted lists `(count, k)` as they are. One thread a key.
KILN_KERNEL(256, unpack_lists, (const u64* lists, u64 keys, u32* ids, float* distances)) {
    const u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= keys) return;
    const u64 key = lists[i];
    ids[i] = key == kiln::EMPTY ? PAD_ID : key_id(key);
    distances[i] = key == kiln::EMPTY ? infinity() : key_distance(key);
}

// Merges the lists of `runs` runs of the base, `(runs, rows, k)`, into one a row, `(rows, k)`. Every key finds its own
// place: its place in its list and the smaller keys of the others. One thread a key; the output starts as EMPTY.
KILN_KERNEL(256, merge_runs, (const u64* lists, u32 runs, u64 rows, u32 k, u64* merged)) {
    using namespace kiln;
    const u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= runs * rows * k) return;
    const u64 row = i / k % rows;
    const u32 own = static_cast<u32>(i / k / rows);
    const Key key = lists[i];
    u32 rank = static_cast<u32>(i % k);
    for (u32 run = 0; run < runs && rank < k; run++)
        if (run != own) rank += lower_bound(lists + (run * rows + row) * k, k, key);
    if (key != EMPTY && rank < k) merged[row * k + rank] = key;
}

// The `k` nearest of all rows of the base by exact distances, for the rows at positions `which`: the answer where products
// cannot tell. One block of 256 a row: a warp a distance, then the selection of `selection.cuh` with one row. Reads
// the whole base once a block.
KILN_KERNEL(256, scan_exactly, (kiln::ScoreArguments a, const u32* which, u32 base_rows)) {
    using namespace kiln;
    KILN_DYNAMIC_SHARED(char, shared);
    const u32 position = which[blockIdx.x];
    const u32 number = a.rows.row_number(static_cast<u32>(a.row_first) + position);
    Selection<1> selection;
    selection.place(shared, a.lists + static_cast<u64>(blockIdx.x) * a.k, a.k);
    selection.reset(1);
    __syncthreads();
    for (u32 first = 0; first < base_rows; first += 256) {
        Key own = EMPTY;
        for (u32 i = 0; i < WARP; i++) {
            const u32 candidate = first + warp_id() * WARP + i;
            if (candidate >= base_rows) break;
            const float distance = row_distance(a.mode, a.rows, number, a.base, candidate);
            if (lane_id() == i) own = order_key(distance, candidate);
        }
        bool left = own != EMPTY;
        for (;;) {
            left = left && !selection.offer(0, own);
            if (!__syncthreads_or(left)) break;
            selection.flush(1, 1);
            __syncthreads();
        }
    }
    __syncthreads();
    selection.flush(1, 1);
    __syncthreads();
    write_ranked(selection.lists, a.k, a.k, a.ids + static_cast<u64>(position) * a.k,
                 a.distances + static_cast<u64>(position) * a.k);
}
