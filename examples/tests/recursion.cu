// Device functions that are really called: recursion of different depth in every thread, two functions that call each
// other, and calls through a pointer.

#include "test.h"

__device__ __noinline__ unsigned fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

__device__ __noinline__ bool is_odd(unsigned n, int *depth);
__device__ __noinline__ bool is_even(unsigned n, int *depth)
{
    *depth += 1;
    return n == 0 ? true : is_odd(n - 1, depth);
}
__device__ __noinline__ bool is_odd(unsigned n, int *depth)
{
    *depth += 1;
    return n == 0 ? false : is_even(n - 1, depth);
}

// Sorts on the thread's own stack.
__device__ __noinline__ void sort(int *values, int low, int high)
{
    if (low >= high) return;
    const int pivot = values[(low + high) / 2];
    int i = low, j = high;
    while (i <= j) {
        while (values[i] < pivot) i++;
        while (values[j] > pivot) j--;
        if (i <= j) {
            const int held = values[i];
            values[i++] = values[j];
            values[j--] = held;
        }
    }
    sort(values, low, j);
    sort(values, i, high);
}

using Operation = unsigned (*)(unsigned, unsigned);
__device__ __noinline__ unsigned add(unsigned a, unsigned b) { return a + b; }
__device__ __noinline__ unsigned multiply(unsigned a, unsigned b) { return a * b; }
__device__ __noinline__ unsigned power(unsigned a, unsigned b) { return b == 0 ? 1 : a * power(a, b - 1); }
__device__ Operation operations[3] = {add, multiply, power};

__global__ void recurse(unsigned *out)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    int depth = 0;
    int values[12];
    for (int k = 0; k < 12; k++) values[k] = (k * 7 + static_cast<int>(i)) % 12;
    sort(values, 0, 11);
    unsigned ordered = 1;
    for (int k = 0; k < 12; k++) ordered &= values[k] == k;
    out[4 * i] = fibonacci(i % 13);
    const bool even = is_even(i % 40, &depth);
    out[4 * i + 1] = 1000 * depth + even;
    out[4 * i + 2] = ordered;
    out[4 * i + 3] = operations[i % 3](i, 4);
}

int main()
{
    const int n = 256;
    CHECK(cudaDeviceSetLimit(cudaLimitStackSize, 16 << 10));
    unsigned *device = poisoned<unsigned>(4 * n);
    recurse<<<4, n / 4>>>(device);
    CHECK(cudaGetLastError());
    const std::vector<unsigned> out = download(device, 4 * n);
    for (unsigned i = 0; i < n; i++) {
        unsigned before = 0, fibonacci = 1;
        for (unsigned k = 0; k < i % 13; k++) {
            const unsigned sum = before + fibonacci;
            before = fibonacci;
            fibonacci = sum;
        }
        const unsigned results[3] = {i + 4, 4 * i, i * i * i * i};
        EXPECT(out[4 * i] == before, "fibonacci(%u) is %u, not %u", i % 13, out[4 * i], before);
        const unsigned parity = 1000 * (i % 40 + 1) + (i % 40 % 2 == 0);
        EXPECT(out[4 * i + 1] == parity, "depth and parity are %u, not %u", out[4 * i + 1], parity);
        EXPECT(out[4 * i + 2] == 1, "thread %u: not sorted", i);
        EXPECT(out[4 * i + 3] == results[i % 3], "thread %u: by pointer %u, not %u", i, out[4 * i + 3], results[i % 3]);
    }
    CHECK(cudaFree(device));
    return passed("recursion");
}
