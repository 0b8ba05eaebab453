// Elements of rows: the four types as f32, rows at a pitch, and a macro that makes one kernel a type.
#pragma once

#include "common.cuh"

template <class T>
__device__ __forceinline__ float to_float(T x) { return static_cast<float>(x); }
template <>
__device__ __forceinline__ float to_float<__half>(__half x) { return __half2float(x); }

/// Row `i` of a matrix whose rows start every `pitch` bytes (a multiple of 16; the bytes behind a row are zero).
template <class T>
__device__ __forceinline__ const T* row_at(const u8* rows, u64 pitch, u64 i) {
    return reinterpret_cast<const T*>(rows + i * pitch);
}

/// KILN_FOR_EACH_TYPE(MACRO): MACRO(element type, suffix of the kernel's name) for f32, f16, u8 and i8.
#define KILN_FOR_EACH_TYPE(macro) macro(float, f32) macro(__half, f16) macro(u8, u8) macro(i8, i8)

/// KILN_FOR_EACH_PAIR(MACRO): MACRO(query type, base type, suffix): queries of the base's own type, or f32.
#define KILN_FOR_EACH_PAIR(macro)                                                                             \
    macro(float, float, f32_f32) macro(__half, __half, f16_f16) macro(u8, u8, u8_u8) macro(i8, i8, i8_i8) \
    macro(float, __half, f32_f16) macro(float, u8, f32_u8) macro(float, i8, f32_i8)
