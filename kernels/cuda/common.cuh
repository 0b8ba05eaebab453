// What every kernel file starts with: integer names, how a kernel is declared, warp reductions, the total order.
// Compiled by NVRTC for a device, and by a C++ compiler with emulate/cuda_emulation.h for tests on the CPU.
#pragma once

#ifndef KILN_EMULATE
#include <cuda_bf16.h>
#include <cuda_fp16.h>

/// KILN_KERNEL(threads, name, (parameters)) { body }: `threads` is the largest block that may be launched.
#define KILN_KERNEL(threads, name, parameters) extern "C" __global__ void __launch_bounds__(threads) name parameters

/// KILN_DYNAMIC_SHARED(type, name): `type* name`, 16-byte aligned, of the bytes that the launch asks for.
#define KILN_DYNAMIC_SHARED(type, name)             \
    extern __shared__ uint4 kiln_dynamic_shared[]; \
    type* const name = reinterpret_cast<type*>(kiln_dynamic_shared)
#endif

using u8 = unsigned char;
using i8 = signed char;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

constexpr u32 WARP = 32;
constexpr u32 FULL = 0xffffffffu;
/// The id that pads an answer when fewer than k rows exist; as a row number it names none.
constexpr u32 PAD_ID = 0xffffffffu;

/// How rows are compared, as the host numbers them.
enum Metric : u32 { L2 = 0, INNER_PRODUCT = 1, COSINE = 2 };

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

__device__ __forceinline__ u32 lane_id() { return threadIdx.x % WARP; }
__device__ __forceinline__ u32 warp_id() { return threadIdx.x / WARP; }

// --- The total order (distance, id) ----------------------------------------------------------------------------------

/// An f32 as a number whose unsigned order is the total order of floats (-0 before +0).
__device__ __forceinline__ u32 order_bits(float x) {
    const u32 bits = __float_as_uint(x);
    return bits ^ (static_cast<u32>(static_cast<i32>(bits) >> 31) | 0x80000000u);
}
__device__ __forceinline__ float from_order_bits(u32 bits) {
    return __uint_as_float(bits ^ (bits & 0x80000000u ? 0x80000000u : FULL));
}
/// (distance, id) as one number in that order.
__device__ __forceinline__ u64 order_key(float distance, u32 id) {
    return static_cast<u64>(order_bits(distance)) << 32 | id;
}
__device__ __forceinline__ float key_distance(u64 key) { return from_order_bits(static_cast<u32>(key >> 32)); }
__device__ __forceinline__ u32 key_id(u64 key) { return static_cast<u32>(key); }

// --- Whole-warp reductions: every lane gets the result; the order of sums is fixed -----------------------------------

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (u32 bit = WARP / 2; bit > 0; bit /= 2) x += __shfl_xor_sync(FULL, x, bit);
    return x;
}
template <class T>
__device__ __forceinline__ T warp_min(T x) {
#pragma unroll
    for (u32 bit = WARP / 2; bit > 0; bit /= 2) {
        const T other = __shfl_xor_sync(FULL, x, bit);
        x = other < x ? other : x;
    }
    return x;
}
template <class T>
__device__ __forceinline__ T warp_max(T x) {
#pragma unroll
    for (u32 bit = WARP / 2; bit > 0; bit /= 2) {
        const T other = __shfl_xor_sync(FULL, x, bit);
        x = other > x ? other : x;
    }
    return x;
}
/// Inclusive prefix sum over the lanes.
template <class T>
__device__ __forceinline__ T warp_scan(T x) {
#pragma unroll
    for (u32 by = 1; by < WARP; by *= 2) {
        const T below = __shfl_up_sync(FULL, x, by);
        if (lane_id() >= by) x += below;
    }
    return x;
}
