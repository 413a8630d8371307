// The source of kernels.ptx: nvcc 13.0, -O2 -arch=compute_80 -ptx. reference.c is the same in plain C.

extern "C" __global__ void vecadd(const float *a, const float *b, float *sum, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) sum[i] = a[i] + b[i];
}

// A tile turned in shared memory: one barrier.
extern "C" __global__ void transpose(const float *in, float *out, int side)
{
    __shared__ float tile[32][33];
    int x = blockIdx.x * 32 + threadIdx.x;
    int y = blockIdx.y * 32 + threadIdx.y;
    for (int row = 0; row < 32; row += 8) {
        if (x < side && y + row < side) tile[threadIdx.y + row][threadIdx.x] = in[(size_t)(y + row) * side + x];
    }
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x;
    y = blockIdx.x * 32 + threadIdx.y;
    for (int row = 0; row < 32; row += 8) {
        if (x < side && y + row < side) out[(size_t)(y + row) * side + x] = tile[threadIdx.x][threadIdx.y + row];
    }
}

// A tree in shared memory, one element for each thread: a barrier for each of its levels.
extern "C" __global__ void reduce(const float *in, float *sums, int n)
{
    extern __shared__ float part[];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    part[threadIdx.x] = i < n ? in[i] : 0;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half >>= 1) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
}

__device__ float normal(float d)
{
    const float k = __fdividef(1.0f, 1.0f + 0.2316419f * fabsf(d));
    const float tail = 0.39894228040143267794f * __expf(-0.5f * d * d) *
                       (k * (0.31938153f + k * (-0.356563782f + k * (1.781477937f + k * (-1.821255978f + k * 1.330274429f)))));
    return d > 0 ? 1.0f - tail : tail;
}

// Prices of European options by the formula of Black and Scholes.
extern "C" __global__ void price(const float *share, const float *strike, const float *years, float *call, float *put, int n)
{
    const float rate = 0.02f, volatility = 0.30f;
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float root = sqrtf(years[i]);
    const float d1 = (logf(share[i] / strike[i]) + (rate + 0.5f * volatility * volatility) * years[i]) / (volatility * root);
    const float d2 = d1 - volatility * root;
    const float discounted = strike[i] * expf(-rate * years[i]);
    const float below1 = normal(d1), below2 = normal(d2);
    call[i] = share[i] * below1 - discounted * below2;
    put[i] = discounted * (1.0f - below2) - share[i] * (1.0f - below1);
}
