// Lesson 1: the whole way of a CUDA program. Allocate, copy up, launch, copy back.
//
//   mpiexec -n 4 vecadd [elements]

#include "sample.h"

__global__ void add(const float *x, const float *y, float *sum, int n)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum[i] = x[i] + y[i];
}

int main(int argc, char **argv)
{
    Sample sample("vecadd", &argc, &argv);
    const int n = static_cast<int>(argument(argc, argv, 1, 1 << 20));
    const size_t bytes = n * sizeof(float);

    // Every rank has numbers of its own, so that results of another rank are not mistaken for ours. None is zero.
    std::vector<float> x(n), y(n), sum(n, -1.0f);
    for (int i = 0; i < n; i++) {
        x[i] = 1.0f + (scramble(2u * i + 77u * sample.rank) >> 8) * 0x1p-20f;
        y[i] = 1.0f + (scramble(2u * i + 1u + 77u * sample.rank) >> 8) * 0x1p-18f;
    }

    float *device_x, *device_y, *device_sum;
    CHECK(cudaMalloc(&device_x, bytes));
    CHECK(cudaMalloc(&device_y, bytes));
    CHECK(cudaMalloc(&device_sum, bytes));
    CHECK(cudaMemcpy(device_x, x.data(), bytes, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(device_y, y.data(), bytes, cudaMemcpyHostToDevice));
    CHECK(cudaMemset(device_sum, 0xff, bytes)); // all NaN: what no kernel wrote cannot pass
    add<<<256, 256>>>(device_x, device_y, device_sum, n);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpy(sum.data(), device_sum, bytes, cudaMemcpyDeviceToHost));

    long wrong = 0;
    for (int i = 0; i < n; i++) {
        if (!(sum[i] == x[i] + y[i])) wrong++;
    }
    if (wrong) std::fprintf(stderr, "rank %d: %ld of %d sums are wrong\n", sample.rank, wrong, n);

    CHECK(cudaFree(device_x));
    CHECK(cudaFree(device_y));
    CHECK(cudaFree(device_sum));
    return sample.verdict(wrong == 0);
}
