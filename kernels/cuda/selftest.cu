// Tiny kernels by which a backend proves that the device, the driver and the embedded code work together, and by which
// the emulator's tests look at it. Not part of any stage.
#include "tensor.cuh"

/// out (n) = a * x (n) + i.  One thread an element, blocks of 256.
KILN_KERNEL(256, selftest_saxpy, (const float* x, float* out, float a, u32 n)) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = __fmaf_rn(a, x[i], static_cast<float>(i));
}

/// One tensor-core product a warp, through shared memory: c (16, 8) = a (16, 32) * b (8, 32)^T, signed bytes.
/// One block of 32 threads.
KILN_KERNEL(32, selftest_product, (const u32* a, const u32* b, i32* c)) {
    __shared__ uint4 tile_a[16 * 2], tile_b[8 * 2];
    cp_async_16(&tile_a[lane_id()], &a[4 * lane_id()]);
    if (lane_id() < 16) cp_async_16(&tile_b[lane_id()], &b[4 * lane_id()]);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    u32 fragment_a[4], fragment_b[2];
    ldmatrix_x4(fragment_a, &tile_a[lane_id() % 16 * 2 + lane_id() / 16]);
    ldmatrix_x2(fragment_b, &tile_b[lane_id() % 8 * 2 + lane_id() / 8 % 2]);
    i32 sums[4] = {0, 0, 0, 0};
    mma_s8(sums, fragment_a, fragment_b);
    const u32 g = lane_id() / 4, t = lane_id() % 4;
    for (u32 i = 0; i < 4; i++) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
}
