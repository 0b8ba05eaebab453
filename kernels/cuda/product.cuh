// The sweep of one block over a run of the base: tile after tile of products, each handed to an epilogue.
//
// In: up to 128 rows and a run of base rows (see `RowSet`). Out: per tile of 128 x 128, dot products in registers and the
// terms of its columns in shared memory. Where all of k of the rows fits shared memory it stays there; the base
// streams through two stages. One sequence of stages runs over all tiles, so that the first copy of a tile overlaps with
// the last product and the epilogue of the one before.
#pragma once

#include "geometry.cuh"

namespace kiln {

constexpr int SWEEP_M = 128;
constexpr int SWEEP_N = 128;
constexpr int SWEEP_THREADS = 256;

/// What the rows or columns of a tile bring.
template <class Acc>
struct ColumnTerms {
    RowTerms<Acc> terms[128];
    u32 numbers[128];  // PAD_ID: there is none
};

template <class Form>
struct ProductSweep {
    using Acc = typename Form::Acc;
    using Product = TileProduct<Form, SWEEP_M, SWEEP_N, 2, 4>;
    using Loader = typename ChooseLoader<Form, SWEEP_M, SWEEP_THREADS, AsTheyAre>::Type;
    static constexpr u32 A_BYTES = operand_bytes<Form>(SWEEP_M), B_BYTES = operand_bytes<Form>(SWEEP_N);

    const RowSet &rows, &base;
    u32 row_first, row_count, base_first, base_count, steps;
    bool a_stays;
    char *a_stages, *b_stages;
    ColumnTerms<Acc>* columns;  // 2
    ColumnTerms<Acc>* own;      // the rows'
    Product product;
    Loader load_a, load_b;

    /// Dynamic shared memory of a sweep with so many stages of A.
    static __device__ __forceinline__ u32 shared_bytes(u32 a_stages) {
        return a_stages * A_BYTES + 2 * B_BYTES + 3 * sizeof(ColumnTerms<Acc>);
    }

    /// `stages` of A: all steps of k, or 2. The caller synchronises before it reads `own`.
    __device__ __forceinline__ ProductSweep(const RowSet& rows, const RowSet& base, u32 row_first, u32 row_count,
                                            u32 base_first, u32 base_count, u32 stages, char* shared)
        : rows(rows), base(base), row_first(row_first), row_count(row_count), base_first(base_first),
          base_count(base_count), steps(steps_of<Form>(base)), a_stays(stages >= steps), a_stages(shared),
          b_stages(shared + stages * A_BYTES), columns(reinterpret_cast<ColumnTerms<Acc>*>(b_stages + 2 * B_BYTES)),
          own(columns + 2) {
        if (threadIdx.x < SWEEP_M) fetch_terms(rows, *own, row_first, row_count, threadIdx.x);
        load_a.aim(rows, row_first, row_count);
    }

    /// Runs `epilogue(terms of the columns)` once a tile, the products in `product.acc`; all threads together.
    template <class Epilogue>
    __device__ __forceinline__ void run(Epilogue&& epilogue) {
        const u32 tiles = (base_count + SWEEP_N - 1) / SWEEP_N;
        if (tiles > 0) {
            start(0, 0);
            finish(0, 0);
        }
        __syncthreads();
        for (u32 tile = 0; tile < tiles; tile++) {
            ColumnTerms<Acc>& column = columns[tile % 2];
            product.clear();
            for (u32 step = 0; step < steps; step++) {
                const bool last_step = step + 1 == steps, more = !last_step || tile + 1 < tiles;
                const u32 next_tile = tile + last_step, next_step = last_step ? 0 : step + 1;
                if (more) start(next_tile, next_step);
                if (step == 0 && threadIdx.x < SWEEP_N)
                    fetch_terms(base, column, base_first, base_count, tile * SWEEP_N + threadIdx.x);
                product.add(a_stages + (a_stays ? step : stage_of(tile, step)) * A_BYTES,
                            b_stages + stage_of(tile, step) * B_BYTES);
                if (more) finish(next_tile, next_step);
                __syncthreads();
            }
            epilogue(column);
        }
    }

private:
    __device__ __forceinline__ u32 stage_of(u32 tile, u32 step) const { return (tile * steps + step) % 2; }

    __device__ __forceinline__ void fetch_terms(const RowSet& set, ColumnTerms<Acc>& terms, u32 first, u32 count, u32 at) {
        const u32 number = at < count ? set.row_number(first + at) : PAD_ID;
        terms.numbers[threadIdx.x] = number;
        terms.terms[threadIdx.x] = row_terms<Acc>(set, number);
    }

    /// Sends a stage on its way.
    __device__ __forceinline__ void start(u32 tile, u32 step) {
        const u32 stage = stage_of(tile, step);
        if (step == 0) load_b.aim(base, base_first + tile * SWEEP_N, base_count - tile * SWEEP_N);
        if (tile == 0 || !a_stays) load_a.start(rows, a_stages + (a_stays ? step : stage) * A_BYTES, step);
        load_b.start(base, b_stages + stage * B_BYTES, step);
        cp_async_commit();
    }

    /// Sees it arrive.
    __device__ __forceinline__ void finish(u32 tile, u32 step) {
        const u32 stage = stage_of(tile, step);
        if (tile == 0 || !a_stays) load_a.finish(a_stages + (a_stays ? step : stage) * A_BYTES);
        load_b.finish(b_stages + stage * B_BYTES);
        cp_async_wait<0>();
    }
};

}  // namespace kiln
