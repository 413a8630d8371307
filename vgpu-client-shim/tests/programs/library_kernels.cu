// Kernels in a library that brings its own runtime: see library_main.cu.
#include <cuda_runtime.h>

__global__ void triple(int* values, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) values[i] = values[i] * 3 + i;
}

extern "C" int triple_on_device(int* host, int count) {
    int* device = nullptr;
    if (cudaMalloc(&device, count * sizeof(int)) != cudaSuccess) return 1;
    if (cudaMemcpy(device, host, count * sizeof(int), cudaMemcpyHostToDevice) != cudaSuccess) return 2;
    triple<<<(count + 127) / 128, 128>>>(device, count);
    if (cudaGetLastError() != cudaSuccess) return 3;
    if (cudaMemcpy(host, device, count * sizeof(int), cudaMemcpyDeviceToHost) != cudaSuccess) return 4;
    return cudaFree(device) == cudaSuccess ? 0 : 5;
}
