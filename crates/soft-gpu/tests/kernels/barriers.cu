// The source of corpus/barriers_80.ptx and barriers_90.ptx: nvcc 13.0, -std=c++17 -arch=compute_80 (or 90) -ptx.

#include <cuda/barrier>
#include <cuda/pipeline>
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
namespace cg = cooperative_groups;
// Warps hand tiles to each other: two barriers, several phases.
extern "C" __global__ void hand_over(int *out)
{
    using barrier = cuda::barrier<cuda::thread_scope_block>;
    __shared__ barrier full, empty;
    __shared__ int tile[32];
    if (threadIdx.x == 0) { init(&full, 64); init(&empty, 64); }
    __syncthreads();
    int sum = 0;
    for (int round = 0; round < 5; round++) {
        if (threadIdx.x < 32) {
            if (round > 0) empty.arrive_and_wait();
            tile[threadIdx.x] = round * 100 + threadIdx.x;
            (void)full.arrive();
        } else {
            full.arrive_and_wait();
            sum += tile[63 - threadIdx.x];
            if (round < 4) (void)empty.arrive();
        }
    }
    if (threadIdx.x >= 32) out[threadIdx.x - 32] = sum;
}
// Copies that arrive at a barrier.
extern "C" __global__ void copies_arrive(int *out)
{
    __shared__ cuda::barrier<cuda::thread_scope_block> ready;
    __shared__ __align__(16) int tile[128];
    int *in = out + 512;
    for (int i = threadIdx.x; i < 128; i += 32) in[i] = i * i;
    if (threadIdx.x == 0) init(&ready, 32);
    __syncthreads();
    cuda::memcpy_async(tile + 4 * threadIdx.x, in + 4 * threadIdx.x, cuda::aligned_size_t<16>(16), ready);
    ready.arrive_and_wait();
    for (int i = threadIdx.x; i < 128; i += 32) out[i] = tile[127 - i];
}
// A pipeline of two stages over a stream of tiles.
extern "C" __global__ void two_stages(int *out)
{
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
    __shared__ __align__(16) int tile[2][64];
    int *in = out + 64;
    auto block = cg::this_thread_block();
    for (int i = threadIdx.x; i < 512; i += 64) in[i] = 3 * i + 1;
    block.sync();
    auto pipe = cuda::make_pipeline(block, &state);
    int sum = 0;
    for (int next = 0, done = 0; done < 8; done++) {
        for (; next < 8 && next < done + 2; next++) {
            pipe.producer_acquire();
            cuda::memcpy_async(block, tile[next % 2], in + 64 * next, cuda::aligned_size_t<16>(256), pipe);
            pipe.producer_commit();
        }
        pipe.consumer_wait();
        sum += tile[done % 2][63 - threadIdx.x];
        pipe.consumer_release();
    }
    out[threadIdx.x] = sum;
}
// The same with the thread's own groups of copies.
extern "C" __global__ void own_groups(int *out)
{
    __shared__ __align__(16) int tile[2][128];
    int *in = out + 64;
    for (int i = threadIdx.x; i < 256; i += 32) in[i] = 5 * i;
    __syncthreads();
    for (int stage = 0; stage < 2; stage++) {
        __pipeline_memcpy_async(&tile[stage][4 * threadIdx.x], in + 128 * stage + 4 * threadIdx.x, 16, 4);
        __pipeline_commit();
    }
    __pipeline_wait_prior(1);
    __syncthreads();
    int sum = tile[0][127 - threadIdx.x];
    __pipeline_wait_prior(0);
    __syncthreads();
    out[threadIdx.x] = sum + 1000 * tile[1][4 * threadIdx.x + 3] + tile[1][4 * threadIdx.x];
}
