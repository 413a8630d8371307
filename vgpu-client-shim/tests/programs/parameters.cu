// Parameters of every size and alignment, by value; kernels with equal names in templates.
#include "check.h"

struct Odd { char a; short b; char c[5]; };
struct Big { double values[100]; int last; };
struct __align__(16) Wide { float x, y, z, w; };

__global__ void parameters(char a, Odd odd, double d, Wide wide, Big big, short s, long long *out) {
    out[0] = a; out[1] = odd.a; out[2] = odd.b; out[3] = odd.c[4]; out[4] = (long long)d; out[5] = (long long)wide.w;
    out[6] = (long long)big.values[99]; out[7] = big.last; out[8] = s;
}

template <typename T> __global__ void store(T value, T *out) { *out = value; }
__global__ void nothing() {}

template <typename T> void stores(T value) {
    T *out, back;
    OK(cudaMalloc(&out, sizeof(T)));
    store<<<1, 1>>>(value, out);
    OK(cudaMemcpy(&back, out, sizeof(T), cudaMemcpyDeviceToHost));
    TRUE(back == value);
    OK(cudaFree(out));
}

int main() {
    long long *out, back[9];
    OK(cudaMalloc(&out, sizeof back));
    Odd odd = {1, -2, {0, 0, 0, 0, 3}};
    Wide wide = {0, 0, 0, 4};
    Big big = {};
    big.values[99] = 5, big.last = 6;
    parameters<<<1, 1>>>(-7, odd, 8.0, wide, big, -9, out);
    OK(cudaGetLastError());
    OK(cudaMemcpy(back, out, sizeof back, cudaMemcpyDeviceToHost));
    const long long expected[9] = {-7, 1, -2, 3, 8, 4, 5, 6, -9};
    for (int i = 0; i < 9; i++) IS(expected[i], back[i]);
    stores<char>(-3), stores<unsigned short>(7), stores<float>(1.5f), stores<double>(2.5), stores<long long>(1LL << 40);
    nothing<<<1, 1>>>();
    OK(cudaDeviceSynchronize());
    // By the host stub and by cudaLaunchKernelExC.
    int value = 11, *one;
    OK(cudaMalloc(&one, 4));
    void *args[] = {&value, &one};
    OK(cudaLaunchKernel((const void *)store<int>, dim3(1), dim3(1), args, 0, 0));
    OK(cudaMemcpy(&value, one, 4, cudaMemcpyDeviceToHost));
    IS(11, value);
    cudaLaunchConfig_t config = {};
    config.gridDim = 1, config.blockDim = 1;
    OK(cudaLaunchKernelEx(&config, store<int>, 12, one));
    OK(cudaMemcpy(&value, one, 4, cudaMemcpyDeviceToHost));
    IS(12, value);
    puts("done");
}
