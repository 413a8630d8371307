// What CUDA answers at once about launches, attributes and occupancy.
#include "check.h"

__global__ void plain(int *out) { *out = 1; }
__global__ void __launch_bounds__(64) bounded(int *out) { *out = 2; }
__global__ void shared(int *out) {
    extern __shared__ int room[];
    room[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) {
        int sum = 0;
        for (int i = 0; i < blockDim.x; i++) sum += room[i];
        *out = sum;
    }
}

int main() {
    int *out, back = 0;
    OK(cudaMalloc(&out, sizeof(int)));
    plain<<<0, 1>>>(out);
    IS(cudaErrorInvalidConfiguration, cudaGetLastError());
    plain<<<1, 2048>>>(out);
    IS(cudaErrorInvalidConfiguration, cudaGetLastError());
    IS(cudaSuccess, cudaGetLastError());
    plain<<<1, 32, 1 << 20>>>(out);
    IS(cudaErrorInvalidValue, cudaGetLastError());
    bounded<<<1, 128>>>(out);
    TRUE(cudaGetLastError() != cudaSuccess);
    bounded<<<1, 64>>>(out);
    OK(cudaGetLastError());
    shared<<<1, 100, 100 * sizeof(int)>>>(out);
    OK(cudaMemcpy(&back, out, sizeof back, cudaMemcpyDeviceToHost));
    IS(4950, back);
    cudaFuncAttributes attributes;
    OK(cudaFuncGetAttributes(&attributes, bounded));
    IS(64, attributes.maxThreadsPerBlock);
    int blocks = 0, grid = 0, block = 0;
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, plain, 128, 0));
    TRUE(blocks > 0);
    OK(cudaOccupancyMaxPotentialBlockSize(&grid, &block, plain, 0, 0));
    TRUE(grid > 0 && block > 0);
    IS(cudaErrorInvalidDeviceFunction, cudaLaunchKernel((void *)main, 1, 1, nullptr, 0, 0));
    cudaGetLastError();
    puts("done");
}
