// The emulator's half of tensor.cuh: one lane of the warp computes the whole product from the fragments of all 32.
// Sums of floats are made in f64 and rounded once, so they do not depend on an order.
#pragma once

namespace kiln_emulate {

/// Where the fragments of a lane lie in its operands.
constexpr unsigned A = 0, B = 4, D = 6;

inline float bf16_value(uint32_t pair, unsigned i) { return __bfloat162float({static_cast<uint16_t>(pair >> (16 * i))}); }
inline float f16_value(uint32_t pair, unsigned i) { return __half2float({static_cast<uint16_t>(pair >> (16 * i))}); }
inline int s8_value(uint32_t four, unsigned i) { return static_cast<int8_t>(four >> (8 * i)); }
inline int u8_value(uint32_t four, unsigned i) { return static_cast<uint8_t>(four >> (8 * i)); }

inline void all_lanes(const char* name, uint32_t mask) {
    if (mask != 0xffffffffu) fail("%s by lanes %08x only", name, mask);
}

/// (16, K) times (K, 8); a register holds `EACH` values of consecutive k.
template <class Value, class Sum, unsigned K, unsigned EACH, Value (*value)(uint32_t, unsigned)>
void product(Lanes& lanes, uint32_t mask) {
    all_lanes("mma", mask);
    Value a[16][K], b[8][K];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const unsigned g = lane / 4, t = lane % 4;
        const uint32_t* in = lanes.slot[lane].in;
        for (unsigned i = 0; i < EACH; i++) {
            const unsigned k = EACH * t + i;
            a[g][k] = value(in[A], i);
            a[g + 8][k] = value(in[A + 1], i);
            a[g][k + K / 2] = value(in[A + 2], i);
            a[g + 8][k + K / 2] = value(in[A + 3], i);
            b[g][k] = value(in[B], i);
            b[g][k + K / 2] = value(in[B + 1], i);
        }
    }
    using Wide = std::conditional_t<std::is_floating_point_v<Sum>, double, uint32_t>;
    for (unsigned lane = 0; lane < WARP; lane++) {
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            Wide sum = static_cast<Wide>(bits<Sum>(lanes.slot[lane].in[D + i]));
            for (unsigned k = 0; k < K; k++) sum += static_cast<Wide>(a[row][k]) * static_cast<Wide>(b[column][k]);
            lanes.slot[lane].out[i] = bits<uint32_t>(static_cast<Sum>(sum));
        }
    }
}

template <class Sum>
void multiply(WarpOperation operation, Sum (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    Slot& slot = *current->slot;
    std::memcpy(slot.in + A, a, sizeof a);
    std::memcpy(slot.in + B, b, sizeof b);
    std::memcpy(slot.in + D, d, sizeof d);
    meet(operation, "mma", 0xffffffffu);
    std::memcpy(d, slot.out, sizeof d);
}

template <unsigned MATRICES, bool TRANSPOSED>
void load_matrices(Lanes& lanes, uint32_t mask) {
    all_lanes("ldmatrix", mask);
    for (unsigned m = 0; m < MATRICES; m++) {
        uint16_t matrix[8][8];
        for (unsigned row = 0; row < 8; row++) {
            const void* address = lanes.slot[8 * m + row].pointer;
            if (reinterpret_cast<uintptr_t>(address) % 16 != 0)
                fail("ldmatrix: lane %u gives %p, which 16 does not divide", 8 * m + row, address);
            std::memcpy(matrix[row], address, 16);
        }
        for (unsigned lane = 0; lane < WARP; lane++) {
            const unsigned g = lane / 4, t = lane % 4;
            const uint32_t low = TRANSPOSED ? matrix[2 * t][g] : matrix[g][2 * t];
            const uint32_t high = TRANSPOSED ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
            lanes.slot[lane].out[m] = low | high << 16;
        }
    }
}

template <unsigned MATRICES, bool TRANSPOSED>
void load(unsigned (&r)[MATRICES], const void* row) {
    current->slot->pointer = row;
    meet(&load_matrices<MATRICES, TRANSPOSED>, "ldmatrix", 0xffffffffu);
    std::memcpy(r, current->slot->out, sizeof r);
}

}  // namespace kiln_emulate

inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    kiln_emulate::multiply(&kiln_emulate::product<float, float, 16, 2, kiln_emulate::bf16_value>, d, a, b);
}
inline void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    kiln_emulate::multiply(&kiln_emulate::product<float, float, 16, 2, kiln_emulate::f16_value>, d, a, b);
}
inline void mma_s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    kiln_emulate::multiply(&kiln_emulate::product<int, int, 32, 4, kiln_emulate::s8_value>, d, a, b);
}
inline void mma_u8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    kiln_emulate::multiply(&kiln_emulate::product<int, int, 32, 4, kiln_emulate::u8_value>, d, a, b);
}

inline void ldmatrix_x4(unsigned (&r)[4], const void* row) { kiln_emulate::load<4, false>(r, row); }
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) { kiln_emulate::load<4, true>(r, row); }
inline void ldmatrix_x2(unsigned (&r)[2], const void* row) { kiln_emulate::load<2, false>(r, row); }
inline void ldmatrix_x2_trans(unsigned (&r)[2], const void* row) { kiln_emulate::load<2, true>(r, row); }

inline void cp_async_16(void* shared, const void* global, bool valid = true) {
    kiln_emulate::copy_later(shared, global, valid ? 16 : 0);
}
inline void cp_async_commit() { kiln_emulate::commit_copies(); }
template <unsigned PENDING>
void cp_async_wait() {
    kiln_emulate::wait_copies(PENDING);
}
