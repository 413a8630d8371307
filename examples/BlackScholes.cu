// Lesson 4: arithmetic. Prices of European options by the formula of Black and Scholes, many at once.
//
//   mpiexec -n 4 BlackScholes [options] [repeats]

#include <cmath>

#include "sample.h"

constexpr float RATE = 0.02f;       // of the riskless investment, a year
constexpr float VOLATILITY = 0.30f; // of the share, a year

// The normal distribution function: Abramowitz and Stegun, 26.2.17, good to 7.5e-8.
__device__ float normal(float d)
{
    const float k = 1.0f / (1.0f + 0.2316419f * fabsf(d));
    const float tail = 0.39894228040143267794f * __expf(-0.5f * d * d) *
                       (k * (0.31938153f + k * (-0.356563782f + k * (1.781477937f + k * (-1.821255978f + k * 1.330274429f)))));
    return d > 0 ? 1.0f - tail : tail;
}

__global__ void price(const float *share, const float *strike, const float *years, float *call, float *put, int n)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        const float root = sqrtf(years[i]);
        const float d1 = (logf(share[i] / strike[i]) + (RATE + 0.5f * VOLATILITY * VOLATILITY) * years[i]) / (VOLATILITY * root);
        const float d2 = d1 - VOLATILITY * root;
        const float discounted = strike[i] * expf(-RATE * years[i]);
        call[i] = share[i] * normal(d1) - discounted * normal(d2);
        put[i] = discounted * normal(-d2) - share[i] * normal(-d1);
    }
}

// The same on the host, in double precision and with the library's own error function.
static void price_on_host(double share, double strike, double years, double *call, double *put)
{
    auto exact = [](double d) { return 0.5 * std::erfc(-d / std::sqrt(2.0)); };
    const double rate = RATE, volatility = VOLATILITY, root = std::sqrt(years);
    const double d1 = (std::log(share / strike) + (rate + 0.5 * volatility * volatility) * years) / (volatility * root);
    const double d2 = d1 - volatility * root;
    const double discounted = strike * std::exp(-rate * years);
    *call = share * exact(d1) - discounted * exact(d2);
    *put = discounted * exact(-d2) - share * exact(-d1);
}

int main(int argc, char **argv)
{
    Sample sample("BlackScholes", &argc, &argv);
    const int n = static_cast<int>(argument(argc, argv, 1, 400000));
    const int repeats = static_cast<int>(argument(argc, argv, 2, 2));
    const size_t bytes = n * sizeof(float);

    std::vector<float> share(n), strike(n), years(n), call(n, NAN), put(n, NAN);
    unsigned state = 1000003u * (sample.rank + 1);
    auto between = [&state](float low, float high) { return low + (high - low) * (scramble(state++) >> 8) * 0x1p-24f; };
    for (int i = 0; i < n; i++) {
        share[i] = between(5, 30);
        strike[i] = between(1, 100);
        years[i] = between(0.25f, 10);
    }
    float *device[5];
    for (float *&buffer : device) {
        CHECK(cudaMalloc(&buffer, bytes));
        CHECK(cudaMemset(buffer, 0xff, bytes)); // all NaN
    }
    CHECK(cudaMemcpy(device[0], share.data(), bytes, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(device[1], strike.data(), bytes, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(device[2], years.data(), bytes, cudaMemcpyHostToDevice));
    CHECK(cudaDeviceSynchronize());
    const double start = MPI_Wtime();
    for (int i = 0; i < repeats; i++) price<<<480, 128>>>(device[0], device[1], device[2], device[3], device[4], n);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    const double seconds = MPI_Wtime() - start;
    CHECK(cudaMemcpy(call.data(), device[3], bytes, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(put.data(), device[4], bytes, cudaMemcpyDeviceToHost));

    long wrong = 0;
    double worst = 0;
    for (int i = 0; i < n; i++) {
        double exact[2];
        price_on_host(share[i], strike[i], years[i], &exact[0], &exact[1]);
        const double error = std::fmax(std::fabs(call[i] - exact[0]), std::fabs(put[i] - exact[1]));
        if (std::isnan(call[i]) || std::isnan(put[i]) || error > 1e-4) wrong++;
        else worst = std::fmax(worst, error);
    }
    if (wrong) std::fprintf(stderr, "rank %d: %ld of %d prices are wrong\n", sample.rank, wrong, n);
    if (sample.rank == 0) {
        std::printf("%.1f million options a second and rank, largest error %.1e\n", 2e-6 * n * repeats / seconds, worst);
    }
    for (float *buffer : device) CHECK(cudaFree(buffer));
    return sample.verdict(wrong == 0);
}
