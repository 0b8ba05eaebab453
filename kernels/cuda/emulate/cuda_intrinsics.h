// Intrinsic functions of CUDA for the CPU: barriers, warp operations, atomics, bit and number conversions, halves.
// Included by cuda_emulation.h; the names and meanings are those of the CUDA C++ programming guide.
#pragma once

// --- Barriers --------------------------------------------------------------------------------------------------------

inline void __syncthreads() { kiln_emulate::barrier("__syncthreads", false); }
inline int __syncthreads_count(int predicate) { return kiln_emulate::barrier("__syncthreads_count", predicate != 0); }
inline int __syncthreads_or(int predicate) { return kiln_emulate::barrier("__syncthreads_or", predicate != 0) > 0; }
inline int __syncthreads_and(int predicate) { return kiln_emulate::barrier("__syncthreads_and", predicate == 0) == 0; }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() {}

// --- Warp operations -------------------------------------------------------------------------------------------------

namespace kiln_emulate {

inline void nothing(Lanes&, uint32_t) {}

/// Each lane's `in[0..words]` goes to the lanes that name it in `in[OPERAND - 1]`.
template <unsigned WORDS>
void exchange(Lanes& lanes, uint32_t mask) {
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        const unsigned from = lanes.slot[lane].in[OPERAND - 1];
        if (!(mask >> from & 1)) fail("a shuffle of lane %u reads lane %u, which mask %08x does not name", lane, from, mask);
        for (unsigned word = 0; word < WORDS; word++) lanes.slot[lane].out[word] = lanes.slot[from].in[word];
    }
}

template <class T>
T shuffle(const char* name, uint32_t mask, T value, unsigned from) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    std::memcpy(current->slot->in, &value, sizeof(T));
    current->slot->in[OPERAND - 1] = from;
    meet(&exchange<sizeof(T) / 4>, name, mask);
    std::memcpy(&value, current->slot->out, sizeof(T));
    return value;
}

inline void ballot(Lanes& lanes, uint32_t mask) {
    uint32_t votes = 0;
    for (unsigned lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1 && lanes.slot[lane].in[0]) votes |= 1u << lane;
    for (unsigned lane = 0; lane < WARP; lane++) lanes.slot[lane].out[0] = mask >> lane & 1 ? votes : lanes.slot[lane].out[0];
}

inline void match(Lanes& lanes, uint32_t mask) {
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        uint32_t equal = 0;
        for (unsigned other = 0; other < WARP; other++)
            if (mask >> other & 1 && std::memcmp(lanes.slot[lane].in, lanes.slot[other].in, 8) == 0) equal |= 1u << other;
        lanes.slot[lane].out[0] = equal;
    }
}

enum class Reduction { ADD, MIN, MAX, AND, OR, XOR };

template <class T, Reduction R>
void reduce(Lanes& lanes, uint32_t mask) {
    T result{};
    bool first = true;
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        const T value = static_cast<T>(lanes.slot[lane].in[0]);
        if (first) result = value;
        else if (R == Reduction::ADD) result = static_cast<T>(static_cast<uint32_t>(result) + static_cast<uint32_t>(value));
        else if (R == Reduction::MIN) result = value < result ? value : result;
        else if (R == Reduction::MAX) result = value > result ? value : result;
        else if (R == Reduction::AND) result &= value;
        else if (R == Reduction::OR) result |= value;
        else result ^= value;
        first = false;
    }
    for (unsigned lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1) lanes.slot[lane].out[0] = static_cast<uint32_t>(result);
}

template <class T, Reduction R>
T reduced(const char* name, uint32_t mask, T value) {
    current->slot->in[0] = static_cast<uint32_t>(value);
    meet(&reduce<T, R>, name, mask);
    return static_cast<T>(current->slot->out[0]);
}

}  // namespace kiln_emulate

inline void __syncwarp(unsigned mask = 0xffffffffu) { kiln_emulate::meet(&kiln_emulate::nothing, "__syncwarp", mask); }

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    const unsigned lane = kiln_emulate::current->lane;
    const unsigned first = lane & ~static_cast<unsigned>(width - 1);
    return kiln_emulate::shuffle("__shfl_sync", mask, value, first + (static_cast<unsigned>(from) & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const unsigned lane = kiln_emulate::current->lane, other = lane ^ static_cast<unsigned>(bits);
    const unsigned end = (lane & ~static_cast<unsigned>(width - 1)) + width;
    return kiln_emulate::shuffle("__shfl_xor_sync", mask, value, other < end ? other : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = kiln_emulate::current->lane;
    const unsigned end = (lane & ~static_cast<unsigned>(width - 1)) + width;
    return kiln_emulate::shuffle("__shfl_down_sync", mask, value, lane + by < end ? lane + by : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = kiln_emulate::current->lane;
    const unsigned first = lane & ~static_cast<unsigned>(width - 1);
    return kiln_emulate::shuffle("__shfl_up_sync", mask, value, lane >= first + by ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    kiln_emulate::current->slot->in[0] = predicate != 0;
    kiln_emulate::meet(&kiln_emulate::ballot, "__ballot_sync", mask);
    return kiln_emulate::current->slot->out[0];
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "values of 4 or 8 bytes are matched");
    uint32_t* in = kiln_emulate::current->slot->in;
    in[0] = in[1] = 0;
    std::memcpy(in, &value, sizeof(T));
    kiln_emulate::meet(&kiln_emulate::match, "__match_any_sync", mask);
    return kiln_emulate::current->slot->out[0];
}
#define KILN_REDUCTION(name, type, reduction)                                                               \
    inline type name(unsigned mask, type value) {                                                           \
        return kiln_emulate::reduced<type, kiln_emulate::Reduction::reduction>(#name, mask, value);         \
    }
KILN_REDUCTION(__reduce_add_sync, unsigned, ADD)
KILN_REDUCTION(__reduce_add_sync, int, ADD)
KILN_REDUCTION(__reduce_min_sync, unsigned, MIN)
KILN_REDUCTION(__reduce_min_sync, int, MIN)
KILN_REDUCTION(__reduce_max_sync, unsigned, MAX)
KILN_REDUCTION(__reduce_max_sync, int, MAX)
KILN_REDUCTION(__reduce_and_sync, unsigned, AND)
KILN_REDUCTION(__reduce_or_sync, unsigned, OR)
KILN_REDUCTION(__reduce_xor_sync, unsigned, XOR)
#undef KILN_REDUCTION

// --- Atomics ---------------------------------------------------------------------------------------------------------
// Real atomics: two launches may run at once on two threads.

namespace kiln_emulate {
template <class T, class Change>
T atomically(T* at, Change change) {
    using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    static_assert(sizeof(T) == sizeof(Word), "atomics are of 4 or 8 bytes");
    Word* const word = reinterpret_cast<Word*>(at);
    Word seen = __atomic_load_n(word, __ATOMIC_RELAXED);
    for (;;) {
        T old;
        std::memcpy(&old, &seen, sizeof(T));
        const T changed = change(old);
        Word next;
        std::memcpy(&next, &changed, sizeof(T));
        if (__atomic_compare_exchange_n(word, &seen, next, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return old;
    }
}
}  // namespace kiln_emulate

#define KILN_ATOMICS(type)                                                                                             \
    inline type atomicAdd(type* at, type x) { return kiln_emulate::atomically(at, [=](type old) { return old + x; }); } \
    inline type atomicExch(type* at, type x) { return kiln_emulate::atomically(at, [=](type) { return x; }); }
#define KILN_INTEGER_ATOMICS(type)                                                                                      \
    inline type atomicMin(type* at, type x) {                                                                           \
        return kiln_emulate::atomically(at, [=](type old) { return x < old ? x : old; });                               \
    }                                                                                                                   \
    inline type atomicMax(type* at, type x) {                                                                           \
        return kiln_emulate::atomically(at, [=](type old) { return x > old ? x : old; });                               \
    }                                                                                                                   \
    inline type atomicAnd(type* at, type x) { return kiln_emulate::atomically(at, [=](type old) { return old & x; }); } \
    inline type atomicOr(type* at, type x) { return kiln_emulate::atomically(at, [=](type old) { return old | x; }); }  \
    inline type atomicCAS(type* at, type expected, type x) {                                                            \
        return kiln_emulate::atomically(at, [=](type old) { return old == expected ? x : old; });                       \
    }
KILN_ATOMICS(int)
KILN_ATOMICS(unsigned)
KILN_ATOMICS(unsigned long long)
KILN_ATOMICS(float)
KILN_ATOMICS(double)
KILN_INTEGER_ATOMICS(int)
KILN_INTEGER_ATOMICS(unsigned)
KILN_INTEGER_ATOMICS(unsigned long long)
#undef KILN_ATOMICS
#undef KILN_INTEGER_ATOMICS

// --- Bits, loads, numbers --------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline int __clz(unsigned x) { return x == 0 ? 32 : __builtin_clz(x); }
inline int __clzll(unsigned long long x) { return x == 0 ? 64 : __builtin_clzll(x); }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; bit++) reversed |= (x >> bit & 1) << (31 - bit);
    return reversed;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned choice = selector >> (4 * i) & 0xf;
        unsigned byte = bytes >> (8 * (choice & 7)) & 0xff;
        if (choice & 8) byte = byte & 0x80 ? 0xff : 0;  // replicates the sign
        result |= byte << (8 * i);
    }
    return result;
}
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<uint64_t>(x) * y >> 32; }

template <class T>
T __ldg(const T* at) { return *at; }
template <class T>
T __ldcs(const T* at) { return *at; }
template <class T>
T __ldcg(const T* at) { return *at; }
template <class T>
void __stcs(T* at, T value) { *at = value; }
template <class T>
void __stcg(T* at, T value) { *at = value; }

namespace kiln_emulate {
template <class To, class From>
To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}
template <class A, class B>
int dot_of_bytes(unsigned a, unsigned b, int sum) {
    for (int i = 0; i < 4; i++) sum += static_cast<A>(a >> (8 * i)) * static_cast<B>(b >> (8 * i));
    return sum;
}
}  // namespace kiln_emulate

inline int __dp4a(int a, int b, int sum) { return kiln_emulate::dot_of_bytes<int8_t, int8_t>(a, b, sum); }
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
    return kiln_emulate::dot_of_bytes<uint8_t, uint8_t>(a, b, static_cast<int>(sum));
}
inline unsigned __float_as_uint(float x) { return kiln_emulate::bits<unsigned>(x); }
inline int __float_as_int(float x) { return kiln_emulate::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return kiln_emulate::bits<float>(x); }
inline float __int_as_float(int x) { return kiln_emulate::bits<float>(x); }
inline long long __double_as_longlong(double x) { return kiln_emulate::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return kiln_emulate::bits<double>(x); }

// Compiled without contraction: what is not written as one rounding has two.
inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __fma_rn(double x, double y, double z) { return __builtin_fma(x, y, z); }
inline float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

#define KILN_MIN_MAX(type)                                          \
    inline type min(type x, type y) { return y < x ? y : x; }       \
    inline type max(type x, type y) { return x < y ? y : x; }
KILN_MIN_MAX(int)
KILN_MIN_MAX(unsigned)
KILN_MIN_MAX(long long)
KILN_MIN_MAX(unsigned long long)
#undef KILN_MIN_MAX
// A number beats NaN, as on the device.
inline float min(float x, float y) { return std::fmin(x, y); }
inline float max(float x, float y) { return std::fmax(x, y); }
inline double min(double x, double y) { return std::fmin(x, y); }
inline double max(double x, double y) { return std::fmax(x, y); }

// --- Halves ----------------------------------------------------------------------------------------------------------

/// IEEE binary16, as bits.
struct __half {
    uint16_t bits;
};
struct __half2 {
    __half x, y;
};
using half = __half;
using half2 = __half2;
/// The upper half of an f32.
struct __nv_bfloat16 {
    uint16_t bits;
};
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline float __half2float(__half h) {
#ifdef __FLT16_MANT_DIG__
    return static_cast<float>(kiln_emulate::bits<_Float16>(h.bits));
#else
    const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000) << 16, magnitude = h.bits & 0x7fff;
    if (magnitude >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    // A product by 2^112 moves the exponent, and makes numbers of the subnormal ones.
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f));
#endif
}
inline __half __float2half_rn(float x) {
#ifdef __FLT16_MANT_DIG__
    return {kiln_emulate::bits<uint16_t>(static_cast<_Float16>(x))};
#else
    const uint32_t sign = __float_as_uint(x) >> 16 & 0x8000;
    const float magnitude = std::fabs(x);
    if (std::isnan(x)) return {static_cast<uint16_t>(sign | 0x7e00)};
    if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
    // Adding a number whose last place is the half's last place rounds to it, ties to even.
    int exponent;
    std::frexp(magnitude, &exponent);
    const float unit = std::ldexp(1.0f, (exponent < -13 ? -13 : exponent) - 11);
    const float rounded = std::nearbyint(magnitude / unit) * unit;
    if (rounded < 0x1p-14f) return {static_cast<uint16_t>(sign | static_cast<uint32_t>(rounded * 0x1p24f))};
    return {static_cast<uint16_t>(sign | ((__float_as_uint(rounded) >> 13) - (112 << 10)))};
#endif
}
inline __half __float2half(float x) { return __float2half_rn(x); }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline uint16_t __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }

inline float __bfloat162float(__nv_bfloat16 b) { return __uint_as_float(static_cast<uint32_t>(b.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    const uint32_t word = __float_as_uint(x);
    if (std::isnan(x)) return {0x7fff};
    return {static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)}; }
inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(uint16_t bits) { return {bits}; }
