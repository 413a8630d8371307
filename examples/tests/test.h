// What the tests share. Each is one program with one story and one verdict (expect.h).

#ifndef VGPU_TEST_H
#define VGPU_TEST_H

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_runtime.h>

#include "../expect.h"

#define CHECK(call)                                                                                        \
    do {                                                                                                   \
        cudaError_t error_ = (call);                                                                       \
        if (error_ != cudaSuccess) {                                                                       \
            std::fprintf(stderr, "%s:%d: %s: %s (%d)\n", __FILE__, __LINE__, #call,                        \
                         cudaGetErrorString(error_), static_cast<int>(error_));                            \
            std::exit(1);                                                                                  \
        }                                                                                                  \
    } while (0)

// Device memory of `count` values whose bytes are all 0xff, so that what no kernel wrote is known as such.
template <typename T> T *poisoned(size_t count)
{
    T *memory = nullptr;
    CHECK(cudaMalloc(&memory, count * sizeof(T)));
    CHECK(cudaMemset(memory, 0xff, count * sizeof(T)));
    return memory;
}

// The values of device memory; the host's copy is poisoned first.
template <typename T> std::vector<T> download(const T *memory, size_t count)
{
    std::vector<T> values(count);
    std::memset(values.data(), 0xee, count * sizeof(T));
    CHECK(cudaMemcpy(values.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
}

#endif
