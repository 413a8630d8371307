// Streams, events and pinned memory around kernels.
#include "check.h"

__global__ void scale(float *data, int n, float by) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) data[i] *= by;
}

int main() {
    const int n = 1 << 18;
    float *host, *first, *second, ms = -1;
    OK(cudaMallocHost(&host, n * sizeof(float)));
    OK(cudaMalloc(&first, n * sizeof(float)));
    OK(cudaMalloc(&second, n * sizeof(float)));
    for (int i = 0; i < n; i++) host[i] = i;
    cudaStream_t a, b;
    cudaEvent_t start, middle, end;
    OK(cudaStreamCreate(&a));
    OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    OK(cudaEventCreate(&start));
    OK(cudaEventCreate(&middle));
    OK(cudaEventCreate(&end));
    OK(cudaEventRecord(start, a));
    OK(cudaMemcpyAsync(first, host, n * sizeof(float), cudaMemcpyHostToDevice, a));
    for (int i = 0; i < 3; i++) scale<<<8, 64, 0, a>>>(first, n, 2);
    OK(cudaEventRecord(middle, a));
    OK(cudaStreamWaitEvent(b, middle));
    OK(cudaMemcpyAsync(second, first, n * sizeof(float), cudaMemcpyDeviceToDevice, b));
    scale<<<8, 64, 0, b>>>(second, n, 0.5f);
    OK(cudaMemcpyAsync(host, second, n * sizeof(float), cudaMemcpyDeviceToHost, b));
    OK(cudaEventRecord(end, b));
    OK(cudaEventSynchronize(end));
    for (int i = 0; i < n; i++) TRUE(host[i] == 4.0f * i);
    OK(cudaEventElapsedTime(&ms, start, end));
    TRUE(ms > 0);
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
    OK(cudaFreeHost(host));
    puts("done");
}
