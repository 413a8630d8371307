// Compiled with -rdc=true: a kernel that is linked from parts.
#include "check.h"

extern __device__ int offset;
__device__ int twice(int value);

__global__ void use(int *out) { *out = twice(20) + offset; }

__device__ int offset = 2;
__device__ int twice(int value) { return 2 * value; }

int main() {
    int *out, back = 0;
    OK(cudaMalloc(&out, sizeof(int)));
    use<<<1, 1>>>(out);
    OK(cudaGetLastError());
    OK(cudaMemcpy(&back, out, sizeof back, cudaMemcpyDeviceToHost));
    IS(42, back);
    int five = 5;
    OK(cudaMemcpyToSymbol(offset, &five, sizeof five));
    use<<<1, 1>>>(out);
    OK(cudaMemcpy(&back, out, sizeof back, cudaMemcpyDeviceToHost));
    IS(45, back);
    puts("done");
}
