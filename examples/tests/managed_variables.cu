// `__managed__` variables: one address for kernels and for the program, bytes that follow whoever uses them.

#include "test.h"

__managed__ int total = 40;
__managed__ float values[1000];
__managed__ struct {
    int count;
    float *where;
} head = {7, nullptr};

__global__ void add(const float *from, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        values[i] = from[i] * 2.0f + static_cast<float>(i);
    }
    if (i == 0) {
        total += 2;
        head.count += static_cast<int>(head.where[3]);
    }
}

int main()
{
    EXPECT(total == 40 && head.count == 7, "%d and %d before any kernel", total, head.count);
    // The address of a managed variable is good on both sides, also as an argument and inside another one.
    head.where = values;
    for (int i = 0; i < 1000; ++i) {
        values[i] = static_cast<float>(i % 10);
    }
    add<<<4, 256>>>(values, 1000);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    EXPECT(total == 42, "%d", total);
    // Read before or after it was doubled: 3, or 3 * 2 + 3.
    EXPECT(head.count == 7 + 3 || head.count == 7 + 9, "%d", head.count);
    for (int i = 0; i < 1000; ++i) {
        const float expected = static_cast<float>(i % 10) * 2.0f + static_cast<float>(i);
        EXPECT(values[i] == expected, "%g at %d", values[i], i);
    }
    total = 100;
    add<<<1, 1>>>(values, 0);
    CHECK(cudaDeviceSynchronize());
    EXPECT(total == 102, "%d", total);
    return passed("managed_variables");
}
