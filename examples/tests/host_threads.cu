// Many host threads use the device at once: each with its own stream, memory and kernels, and each with its own "last
// error".

#include <atomic>
#include <thread>

#include "test.h"

__global__ void mix(unsigned *values, int n, unsigned key)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) values[i] = (values[i] ^ key) * 2654435761u + i;
}

static void work(unsigned number, std::atomic<int> *finished)
{
    const int n = 4096, rounds = 15;
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    std::vector<unsigned> values(n), expected(n);
    for (int i = 0; i < n; i++) values[i] = expected[i] = 1000003u * number + i;
    for (int round = 0; round < rounds; round++) {
        unsigned *device = nullptr;
        CHECK(cudaMalloc(&device, n * sizeof(unsigned)));
        CHECK(cudaMemcpyAsync(device, values.data(), n * sizeof(unsigned), cudaMemcpyHostToDevice, stream));
        mix<<<n / 128, 128, 0, stream>>>(device, n, number + round);
        CHECK(cudaGetLastError());
        std::memset(values.data(), 0xee, n * sizeof(unsigned));
        CHECK(cudaMemcpyAsync(values.data(), device, n * sizeof(unsigned), cudaMemcpyDeviceToHost, stream));
        CHECK(cudaStreamSynchronize(stream));
        for (int i = 0; i < n; i++) {
            expected[i] = (expected[i] ^ (number + round)) * 2654435761u + i;
            EXPECT(values[i] == expected[i], "thread %u, round %d, value %d is %#x, not %#x", number, round, i, values[i], expected[i]);
        }
        CHECK(cudaFree(device));
        if (number % 2 == 1 && round == rounds / 2) {
            // A mistake of this thread: no kernel runs with so many threads. The others must not hear of it.
            mix<<<1, 5000, 0, stream>>>(nullptr, 0, 0);
            const cudaError_t error = cudaGetLastError();
            EXPECT(error == cudaErrorInvalidConfiguration, "%s", cudaGetErrorString(error));
            EXPECT(cudaGetLastError() == cudaSuccess, "the error is given out once");
        }
    }
    CHECK(cudaStreamDestroy(stream));
    finished->fetch_add(1);
}

int main()
{
    const int threads = 12;
    std::atomic<int> finished(0);
    std::vector<std::thread> all;
    for (int i = 0; i < threads; i++) all.emplace_back(work, i, &finished);
    for (std::thread &thread : all) thread.join();
    EXPECT(finished == threads, "%d threads came to their end", finished.load());
    CHECK(cudaDeviceSynchronize());
    return passed("host_threads");
}
