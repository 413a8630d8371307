// A program with a runtime linked in, and a library with another one: both must be redirected before either registers.
#include <cstdio>
#include <vector>
#include <cuda_runtime.h>

extern "C" int triple_on_device(int* host, int count);

__global__ void negate(int* values, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) values[i] = -values[i];
}

int main() {
    const int count = 1000;
    std::vector<int> values(count);
    for (int i = 0; i < count; i++) values[i] = i + 1;
    if (int step = triple_on_device(values.data(), count)) { printf("the library stopped at step %d\n", step); return 1; }
    int* device = nullptr;
    cudaMalloc(&device, count * sizeof(int));
    cudaMemcpy(device, values.data(), count * sizeof(int), cudaMemcpyHostToDevice);
    negate<<<8, 128>>>(device, count);
    cudaMemcpy(values.data(), device, count * sizeof(int), cudaMemcpyDeviceToHost);
    for (int i = 0; i < count; i++) {
        if (values[i] != -((i + 1) * 3 + i)) { printf("%d: %d\n", i, values[i]); return 1; }
    }
    puts("done");
    return 0;
}
