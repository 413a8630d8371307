// Compiled with --default-stream per-thread: the twins with _ptsz and _ptds.
#include "check.h"
#include <thread>

__global__ void add(int *value, int what) { *value += what; }

int main() {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++) threads.emplace_back([i] {
        int *value, back = -1;
        OK(cudaMalloc(&value, sizeof(int)));
        OK(cudaMemset(value, 0, sizeof(int)));
        for (int round = 0; round < 50; round++) add<<<1, 1>>>(value, i);
        OK(cudaMemcpyAsync(&back, value, sizeof back, cudaMemcpyDeviceToHost));
        OK(cudaStreamSynchronize(0));
        IS(50 * i, back);
        OK(cudaFree(value));
    });
    for (auto &thread : threads) thread.join();
    puts("done");
}
