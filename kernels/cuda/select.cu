// The nearest rows of many rows: a dense product on tensor cores with the selection fused into it. Behind `nearest`,
// `leaf_neighbors` and `nearest_leaders`; distances never go to device memory.
//
// In: two sets of rows, and items of work: up to 128 rows of the one against a run of the other. Out: per item and row a
// sorted list of k keys (distance bits above row number), padded by EMPTY. Items are whole blocks: `nearest` cuts the
// base into runs where there are few queries, a leaf is as many items as it has 128s of rows.
//
// select_u8, select_i8   exact: the keys' distances are those of `row_distance`
// select_f16             f32 sums of exact products
// select_float           any other pair of types, as three bf16 products
//
// Launch: one block of 256 threads (8 warps, 64 x 32 of a 128 x 128 tile each) an item; dynamic shared memory as the
// host's `select_shared_bytes`: the stages of `product.cuh`, queues, and the lists where they fit. FLOPs: 2 * rows * base
// rows * dim (three times that by bf16). Bytes: the item's rows once (or once a tile where k is long) and its run once, from
// the L2; 8 k a row out. CPU twins: `plain::ranked`, `plain::leaf_neighbors`.
#include "product.cuh"
#include "selection.cuh"

namespace kiln {

/// One block's work.
struct SelectItem {
    u32 row_first, row_count;    // positions in the rows; at most SWEEP_M
    u32 base_first, base_count;  // positions in the base
    u64 list;                    // where the first row's list lies, in lists
};

struct SelectArguments {
    RowSet rows, base;
    const SelectItem* items;
    Key* lists;        // (lists, k)
    u32 k;
    u32 mode;          // Mode
    u32 exclude_self;  // a row is not its own neighbour
    u32 a_stages;      // all steps of k, or 2
    u32 lists_shared;  // whether the lists are worked on in shared memory
};

/// Up to which dimension |b|^2 - 2 ab of bytes fits an i32.
constexpr u32 QUICK_DIM = 8192;

/// |b|^2 - 2 ab below which a row of squared norm `norm` can take a column, by its threshold. Never too low: what a
/// distance's rounding may hide is added, so that the exact test decides whatever the threshold was at the time.
__device__ __forceinline__ i32 quick_limit(Key threshold, i32 norm) {
    const float distance = key_distance(threshold);
    // Rounding to f32 moves a number below 2^31 by 64 at most.
    const i32 most = threshold != EMPTY && distance < 2.0e9f ? static_cast<i32>(distance) + 128 : 0x7fffffff;
    return most - norm;
}
__device__ __forceinline__ float quick_limit(Key threshold, float norm) {
    const float distance = key_distance(threshold);
    // Every number involved is below 3 (threshold + norm) where a column can enter; four roundings, a margin of five.
    return threshold != EMPTY ? distance - norm + (fabsf(distance) + norm) * 1e-6f : infinity();
}
__device__ __forceinline__ bool quickly_out(i32 dot, i32 norm, i32 limit) { return norm - 2 * dot > limit; }
__device__ __forceinline__ bool quickly_out(float dot, float norm, float limit) {
    const float part = __fmaf_rn(-2.0f, dot, norm);
    // Where something overflowed nothing is known.
    return part > limit && part < infinity();
}

template <class Form>
__device__ __forceinline__ void select_nearest(const SelectArguments& arguments, char* shared) {
    using Sweep = ProductSweep<Form>;
    using Product = typename Sweep::Product;
    using Acc = typename Form::Acc;
    const SelectItem item = arguments.items[blockIdx.x];
    const u32 k = arguments.k;
    Sweep sweep(arguments.rows, arguments.base, item.row_first, item.row_count, item.base_first, item.base_count,
                arguments.a_stages, shared);
    Key* const out = arguments.lists + item.list * k;
    Selection<SWEEP_M> selection;
    selection.place(shared + Sweep::shared_bytes(arguments.a_stages), arguments.lists_shared ? nullptr : out, k);
    selection.reset(item.row_count);

    // The lifted coordinate only adds to squared L2.
    const bool squared = arguments.mode == MODE_L2 || arguments.mode == MODE_GRAPH_INNER;
    const bool quick = squared && arguments.base.dim <= QUICK_DIM;
    sweep.run([&](const ColumnTerms<Acc>& column) {
        // Which of this thread's rows may take any of its columns: two instructions a pair, and mostly none. Other modes
        // look at every pair in full.
        u32 live = 0;
        if (quick) {
#pragma unroll
            for (int part = 0; part < 2 * Product::M_TILES; part++) {
                const u32 row = Product::row_of(part / 2, part % 2 * 2);
                const Acc limit = quick_limit(selection.thresholds[row], sweep.own->terms[row].norm);
                bool any = false;
#pragma unroll
                for (int n = 0; n < 2 * Product::N_TILES; n++) {
                    const Acc dot = sweep.product.acc[part / 2][n / 2][part % 2 * 2 + n % 2];
                    any |= !quickly_out(dot, column.terms[Product::column_of(n / 2, n % 2)].norm, limit);
                }
                if (any) live |= 1u << part;
            }
        } else {
            live = FULL;
        }
        // Offers what lies below the thresholds; where a queue was full, merges queues and offers again what is left.
        u64 todo = ~0ull;
        for (;;) {
            u64 left = 0;
            if (live != 0) {
#pragma unroll
                for (int part = 0; part < 2 * Product::M_TILES; part++) {
                    if ((live >> part & 1) == 0) continue;
                    const u32 row = Product::row_of(part / 2, part % 2 * 2), row_number = sweep.own->numbers[row];
                    const RowTerms<Acc> terms = sweep.own->terms[row];
                    const u32 threshold = static_cast<u32>(selection.thresholds[row] >> 32);
#pragma unroll
                    for (int n = 0; n < 2 * Product::N_TILES; n++) {
                        const u64 bit = 1ull << (part * 2 * Product::N_TILES + n);
                        const u32 at = Product::column_of(n / 2, n % 2), number = column.numbers[at];
                        const Acc dot = sweep.product.acc[part / 2][n / 2][part % 2 * 2 + n % 2];
                        const u32 bits = selection_bits(distance_of(arguments.mode, dot, terms, column.terms[at]));
                        const bool wanted = bits <= threshold && (todo & bit) != 0 && row_number != PAD_ID &&
                                            number != PAD_ID && !(arguments.exclude_self && number == row_number);
                        if (wanted && !selection.offer(row, make_key(bits, number))) left |= bit;
                    }
                }
            }
            if (!__syncthreads_or(left != 0)) break;
            selection.flush(item.row_count, QUEUE / 2);
            todo = left;
            __syncthreads();
        }
    });
    __syncthreads();
    selection.flush(item.row_count, 1);
    __syncthreads();
    if (arguments.lists_shared)
        for (u64 i = threadIdx.x; i < static_cast<u64>(item.row_count) * k; i += SWEEP_THREADS) out[i] = selection.lists[i];
}

}  // namespace kiln

KILN_KERNEL(256, select_u8, (kiln::SelectArguments arguments)) {
    KILN_DYNAMIC_SHARED(char, shared);
    kiln::select_nearest<kiln::ByteForm<false>>(arguments, shared);
}

KILN_KERNEL(256, select_i8, (kiln::SelectArguments arguments)) {
    KILN_DYNAMIC_SHARED(char, shared);
    kiln::select_nearest<kiln::ByteForm<true>>(arguments, shared);
}

KILN_KERNEL(256, select_f16, (kiln::SelectArguments arguments)) {
    KILN_DYNAMIC_SHARED(char, shared);
    kiln::select_nearest<kiln::HalfForm>(arguments, shared);
}

KILN_KERNEL(256, select_float, (kiln::SelectArguments arguments)) {
    KILN_DYNAMIC_SHARED(char, shared);
    kiln::select_nearest<kiln::FloatForm>(arguments, shared);
}
