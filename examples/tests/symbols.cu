// Variables of the program that live on the device: constants that the host writes, results that kernels leave, arrays
// with initial values, and the addresses of all of them.

#include "test.h"

struct Settings { int scale; double offset; char tag[8]; };

__constant__ float coefficients[5];
__constant__ Settings settings;
__device__ int counter = 41;
__device__ double results[256];
__device__ const short primes[6] = {2, 3, 5, 7, 11, 13};

__global__ void evaluate()
{
    const int i = threadIdx.x;
    float value = 0;
    for (int k = 4; k >= 0; k--) value = value * i + coefficients[k];
    results[i] = value * settings.scale + settings.offset + primes[i % 6] + settings.tag[1];
    if (i == 0) counter += 1;
}

__global__ void write_through(int *address) { *address = 1234; }

int main()
{
    const float host[5] = {1, -2, 3, -4, 5};
    CHECK(cudaMemcpyToSymbol(coefficients, host, sizeof(host)));
    const float second = 7;
    CHECK(cudaMemcpyToSymbol(coefficients, &second, sizeof(float), sizeof(float))); // one element, at an offset
    const Settings set = {3, 0.5, "ab"};
    CHECK(cudaMemcpyToSymbol(settings, &set, sizeof(set)));

    int count = -1;
    CHECK(cudaMemcpyFromSymbol(&count, counter, sizeof(count)));
    EXPECT(count == 41, "the initial value, not %d", count);
    double found[256];
    std::memset(found, 0xee, sizeof(found));
    evaluate<<<1, 256>>>();
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpyFromSymbol(found, results, sizeof(found)));
    const short small[6] = {2, 3, 5, 7, 11, 13};
    for (int i = 0; i < 256; i++) {
        float value = 0;
        const float now[5] = {1, 7, 3, -4, 5};
        for (int k = 4; k >= 0; k--) value = value * i + now[k];
        const double expected = value * 3 + 0.5 + small[i % 6] + 'b';
        // A device may fuse multiply and add, the host does not: allow for rounding of the larger terms.
        const double allowed = 1e-5 * (1 + (value < 0 ? -value : value));
        EXPECT(found[i] >= expected - allowed && found[i] <= expected + allowed, "result %d is %f, not %f", i, found[i], expected);
    }
    CHECK(cudaMemcpyFromSymbol(&count, counter, sizeof(count)));
    EXPECT(count == 42, "counted once, not to %d", count);

    int *address = nullptr;
    size_t bytes = 0;
    CHECK(cudaGetSymbolAddress(reinterpret_cast<void **>(&address), counter));
    CHECK(cudaGetSymbolSize(&bytes, results));
    EXPECT(address != nullptr && bytes == sizeof(found), "%p, %zu bytes", static_cast<void *>(address), bytes);
    write_through<<<1, 1>>>(address);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpyFromSymbol(&count, counter, sizeof(count)));
    EXPECT(count == 1234, "written through the address, not %d", count);
    return passed("symbols");
}
