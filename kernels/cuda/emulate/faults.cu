// Kernels that are wrong in ways which the emulator must report, for its own tests.
#include "../tensor.cuh"

/// Half of the threads return before a barrier.
KILN_KERNEL(64, fault_barrier, (u32* out)) {
    if (threadIdx.x < 32) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

/// A shuffle names lanes that do not take part.
KILN_KERNEL(32, fault_shuffle, (u32* out)) {
    if (lane_id() < 16) out[lane_id()] = __shfl_xor_sync(FULL, lane_id(), 1);
}

/// Reads of shared memory that nobody wrote give the poison.
KILN_KERNEL(32, fault_unwritten, (u32* out)) {
    __shared__ u32 fixed[32];
    KILN_DYNAMIC_SHARED(u32, dynamic);
    out[threadIdx.x] = fixed[threadIdx.x];
    out[32 + threadIdx.x] = dynamic[threadIdx.x];
    __syncthreads();
    fixed[threadIdx.x] = dynamic[threadIdx.x] = 7;  // not to be seen by the next block
}

/// Reads what cp.async brings before waiting for it.
KILN_KERNEL(32, fault_early_read, (const uint4* in, u32* out)) {
    __shared__ uint4 tile[32];
    cp_async_16(&tile[lane_id()], &in[lane_id()]);
    cp_async_commit();
    out[lane_id()] = tile[lane_id()].x;
    cp_async_wait<0>();
}

/// Writes one element past the end of a buffer of n.
KILN_KERNEL(32, fault_out_of_bounds, (u32* out, u32 n)) {
    for (u32 i = threadIdx.x; i <= n; i += blockDim.x) out[i] = i;
}
