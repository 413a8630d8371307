// The kernels of the driver API's programs.

#include <cstdio>

__device__ int counter = 40;
__constant__ float scale = 1.0f;

extern "C" __global__ void add(const float *a, const float *b, float *sum, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) sum[i] = scale * (a[i] + b[i]);
}

extern "C" __global__ void multiply_add(unsigned *values, int n, unsigned factor, unsigned addend)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) values[i] = values[i] * factor + addend;
}

struct Mixed
{
    char tag;
    double weight;
    short parts[3];
};

// Parameters of many sizes and alignments.
extern "C" __global__ void mixed(char c, Mixed m, float f, long long *out)
{
    out[0] = c;
    out[1] = m.tag;
    out[2] = static_cast<long long>(m.weight * 1000);
    out[3] = m.parts[0] + 10 * m.parts[1] + 100 * m.parts[2];
    out[4] = static_cast<long long>(f * 100);
}

extern "C" __global__ void count(int *seen)
{
    *seen = atomicAdd(&counter, 1);
}

extern "C" __global__ void sum_blocks(const int *values, int *sums)
{
    extern __shared__ int parts[];
    parts[threadIdx.x] = values[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    for (int step = blockDim.x / 2; step > 0; step /= 2) {
        if (threadIdx.x < step) parts[threadIdx.x] += parts[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = parts[0];
}

extern "C" __global__ void fetch(cudaTextureObject_t texture, float *out, int width, int height)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < width && y < height) out[y * width + x] = tex2D<float>(texture, x + 0.5f, y + 0.5f);
}
