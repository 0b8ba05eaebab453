// CUDA for the CPU: what the kernels use of the language, so that the very same .cu files compile with a C++17
// compiler and run without a GPU. In: a kernel name, a grid, arguments as cuLaunchKernel takes them. Out: the same
// memory that the device would have written, or a report of what was wrong.
//
//     g++ -std=c++17 -shared -fPIC -DKILN_EMULATE -include emulate/cuda_emulation.h -x c++ all.cu emulate/emulation.cpp
//
// Blocks run one after another on the calling thread; the threads of a block are fibers, which change hands at
// barriers and warp operations only. Therefore:
//   - a barrier or warp operation that a named thread never reaches is an error that says who waits where, not a hang;
//   - shared memory and registers of cp.async are poisoned or late on purpose, so that what a kernel reads before it
//     was written (or before it waited) is visibly wrong;
//   - two blocks must not wait for one another: they don't run at the same time.
// What is not modelled: memory order between threads beyond barriers, bank conflicts, speed.
//
// `__shared__` is `static thread_local`, so the shared variables of all kernels are the library's TLS segment, which is
// poisoned before each block. Nothing else here may keep state in TLS, except `current`, which is restored.
#pragma once

#include <cmath>
#include <math.h>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define __restrict__ __restrict

struct uint2 { unsigned x, y; };
struct int2 { int x, y; };
struct float2 { float x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace kiln_emulate {

constexpr unsigned WARP = 32;
/// Words that one lane brings to a warp operation, and takes from it, at most.
constexpr unsigned OPERAND = 16;

/// What one lane brings to a warp operation and takes from it.
struct Slot {
    uint32_t in[OPERAND];
    uint32_t out[OPERAND];
    const void* pointer;
};

/// The 32 lanes of a warp, as an operation sees them.
struct Lanes {
    Slot slot[WARP];
};

/// Computes `out` of every lane in `mask` from the `in` of all of them.
using WarpOperation = void (*)(Lanes&, uint32_t mask);

/// What a thread may know of itself.
struct Thread {
    uint3 thread_index, block_index;
    dim3 block_dim, grid_dim;
    unsigned lane;
    Slot* slot;
};
extern __thread Thread* current;

/// Waits for the lanes of `mask`, runs the operation once, and goes on.
void meet(WarpOperation operation, const char* name, uint32_t mask);
/// Waits for every thread of the block; the number of threads whose `predicate` holds.
int barrier(const char* name, bool predicate);
/// Dynamic shared memory of the block.
void* dynamic_shared();
/// Queues a copy of `bytes` to shared memory, zero-filled to 16; it happens when its group is waited for.
void copy_later(void* shared, const void* global, unsigned bytes);
void commit_copies();
/// Makes all groups but the youngest `pending` happen.
void wait_copies(unsigned pending);
/// Ends the launch with an error.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

/// A kernel by name; its arguments arrive as an array of pointers to them.
struct Kernel {
    const char* name;
    unsigned max_threads;
    unsigned parameters;
    const unsigned* parameter_bytes;
    void (*call)(const Kernel&, void** arguments);
    void (*function)();
    const Kernel* next;
};
void enrol(Kernel& kernel);

template <class... Parameters>
struct Registration : Kernel {
    static constexpr unsigned bytes[sizeof...(Parameters) + 1] = {sizeof(Parameters)..., 0};

    Registration(const char* name, unsigned max_threads, void (*function)(Parameters...))
        : Kernel{name, max_threads, sizeof...(Parameters), bytes, &invoke, reinterpret_cast<void (*)()>(function), nullptr} {
        enrol(*this);
    }

    static void invoke(const Kernel& kernel, void** arguments) {
        apply(reinterpret_cast<void (*)(Parameters...)>(kernel.function), arguments,
              std::index_sequence_for<Parameters...>{});
    }

    template <size_t... I>
    static void apply(void (*function)(Parameters...), [[maybe_unused]] void** arguments, std::index_sequence<I...>) {
        function(*static_cast<std::remove_cv_t<Parameters>*>(arguments[I])...);
    }
};
template <class... Parameters>
Registration(const char*, unsigned, void (*)(Parameters...)) -> Registration<Parameters...>;

}  // namespace kiln_emulate

#define threadIdx (kiln_emulate::current->thread_index)
#define blockIdx (kiln_emulate::current->block_index)
#define blockDim (kiln_emulate::current->block_dim)
#define gridDim (kiln_emulate::current->grid_dim)
#define warpSize 32

/// KILN_KERNEL(threads, name, (parameters)) { body }: `threads` is the largest block that may be launched.
#define KILN_KERNEL(threads, name, parameters)                                              \
    static void name parameters;                                                            \
    static kiln_emulate::Registration name##_registration{#name, threads, &name};           \
    static void name parameters

/// KILN_DYNAMIC_SHARED(type, name): `type* name`, 16-byte aligned, of the bytes that the launch asks for.
#define KILN_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(kiln_emulate::dynamic_shared())

#include "cuda_intrinsics.h"
