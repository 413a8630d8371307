// A sum over a million values: blocks reduce in dynamic shared memory between barriers, and meet in global atomics.

#include "test.h"

__global__ void reduce(const int *values, int n, unsigned long long *sum, int *least, int *most, unsigned *bits)
{
    extern __shared__ long long partial[];
    __shared__ int low, high;
    __shared__ unsigned seen;
    if (threadIdx.x == 0) {
        low = 0x7fffffff;
        high = -0x7fffffff - 1;
        seen = 0;
    }
    __syncthreads();
    long long mine = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        mine += values[i];
        atomicMin(&low, values[i]);
        atomicMax(&high, values[i]);
        atomicOr(&seen, 1u << (values[i] & 31));
    }
    partial[threadIdx.x] = mine;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        atomicAdd(sum, static_cast<unsigned long long>(partial[0]));
        atomicMin(least, low);
        atomicMax(most, high);
        atomicOr(bits, seen);
    }
}

// A counter that wraps, and a lock made of compare-and-swap: a hundred threads of a block each add one.
__global__ void contend(unsigned *wrapping, int *lock, int *guarded)
{
    atomicInc(wrapping, 6);
    for (bool done = false; !done;) {
        if (atomicCAS(lock, 0, 1) == 0) {
            __threadfence();
            *guarded = *guarded + 1;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}

int main()
{
    const int n = 1000003;
    std::vector<int> values(n);
    unsigned state = 12345;
    for (int &value : values) {
        state = state * 1664525u + 1013904223u;
        value = static_cast<int>(state >> 4) - 100000000;
    }
    values[777777] = -2000000000;
    values[5] = 2000000000;
    long long sum = 0;
    for (int value : values) sum += value;

    int *device = poisoned<int>(n);
    CHECK(cudaMemcpy(device, values.data(), n * sizeof(int), cudaMemcpyHostToDevice));
    struct Result { unsigned long long sum; int least, most; unsigned bits, wrapping; int lock, guarded; };
    Result result = {0, 0x7fffffff, -0x7fffffff - 1, 0, 0, 0, 0};
    Result *place = poisoned<Result>(1);
    CHECK(cudaMemcpy(place, &result, sizeof(result), cudaMemcpyHostToDevice));
    reduce<<<60, 256, 256 * sizeof(long long)>>>(device, n, &place->sum, &place->least, &place->most, &place->bits);
    CHECK(cudaGetLastError());
    contend<<<4, 25>>>(&place->wrapping, &place->lock, &place->guarded);
    CHECK(cudaGetLastError());
    result = download(place, 1)[0];
    EXPECT(static_cast<long long>(result.sum) == sum, "the sum is %lld, not %lld", static_cast<long long>(result.sum), sum);
    EXPECT(result.least == -2000000000 && result.most == 2000000000, "from %d to %d", result.least, result.most);
    EXPECT(result.bits == 0xffffffffu, "bits %#x", result.bits);
    EXPECT(result.wrapping == 100 % 7, "wrapped to %u", result.wrapping);
    EXPECT(result.guarded == 100 && result.lock == 0, "%d additions under the lock", result.guarded);
    CHECK(cudaFree(device));
    CHECK(cudaFree(place));
    return passed("reduce_atomics");
}
