// Double precision: exact for +, -, *, / and square root as IEEE 754 wants it, and close for the library's functions.

#include <cmath>

#include "test.h"

__global__ void compute(const double *in, double *out, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const double x = in[i], y = in[(i + 1) % n];
    double *mine = out + 9 * i;
    mine[0] = __dadd_rn(x, y);
    mine[1] = __dmul_rn(x, y);
    mine[2] = x / y;
    mine[3] = sqrt(x);
    mine[4] = fma(x, y, -1.0);
    mine[5] = sin(x) * cos(y);
    mine[6] = exp(-x * 0.01);
    mine[7] = log(x) + pow(y, 0.3);
    mine[8] = static_cast<double>(static_cast<float>(x)) + static_cast<long long>(y);
}

int main()
{
    const int n = 2000;
    std::vector<double> in(n);
    unsigned long long state = 88172645463325252ull;
    for (double &value : in) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value = (state >> 11) * 0x1p-44 + 1e-3; // up to 512, with all 53 bits in use
    }
    double *device = poisoned<double>(n), *results = poisoned<double>(9 * n);
    CHECK(cudaMemcpy(device, in.data(), n * sizeof(double), cudaMemcpyHostToDevice));
    compute<<<(n + 63) / 64, 64>>>(device, results, n);
    CHECK(cudaGetLastError());
    const std::vector<double> out = download(results, 9 * n);
    for (int i = 0; i < n; i++) {
        const double x = in[i], y = in[(i + 1) % n];
        const volatile double sum = x + y, product = x * y; // not fused
        const double expected[9] = {sum, product, x / y, std::sqrt(x), std::fma(x, y, -1.0), std::sin(x) * std::cos(y),
                                    std::exp(-x * 0.01), std::log(x) + std::pow(y, 0.3),
                                    static_cast<double>(static_cast<float>(x)) + static_cast<double>(static_cast<long long>(y))};
        for (int k = 0; k < 9; k++) {
            const bool exact = k < 5 || k == 8;
            const double found = out[9 * i + k], error = std::fabs(found - expected[k]);
            EXPECT(exact ? found == expected[k] : error <= 1e-13 * (1 + std::fabs(expected[k])),
                   "thread %d, result %d is %.17g, not %.17g", i, k, found, expected[k]);
        }
    }
    CHECK(cudaFree(device));
    CHECK(cudaFree(results));
    return passed("doubles");
}
