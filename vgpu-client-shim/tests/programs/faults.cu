// A kernel that destroys the context: the error stays until the device is reset.
#include "check.h"

__global__ void stray(int *where) { *where = 1; }
__global__ void good(int *where) { *where = 2; }

int main() {
    int *out, back = 0;
    OK(cudaMalloc(&out, sizeof(int)));
    stray<<<1, 1>>>((int *)16);
    IS(cudaErrorIllegalAddress, cudaDeviceSynchronize());
    IS(cudaErrorIllegalAddress, cudaGetLastError());
    IS(cudaErrorIllegalAddress, cudaMalloc(&out, 4));
    IS(cudaErrorIllegalAddress, cudaGetLastError());
    OK(cudaDeviceReset());
    OK(cudaGetLastError());
    OK(cudaMalloc(&out, sizeof(int)));
    good<<<1, 1>>>(out);
    OK(cudaMemcpy(&back, out, sizeof back, cudaMemcpyDeviceToHost));
    IS(2, back);
    puts("done");
}
