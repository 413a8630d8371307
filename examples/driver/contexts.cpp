// Contexts are separate: each has its own memory and modules, threads hand them to each other, and what is destroyed is
// gone for everybody.

#include <thread>

#include "driver.h"

static void fill_and_check(CUmodule module, unsigned factor, unsigned addend)
{
    const int n = 5000;
    std::vector<unsigned> values(n);
    for (int i = 0; i < n; i++) values[i] = 7u * i + 1;
    CUdeviceptr device = upload(values);
    int count = n;
    void *parameters[] = {&device, &count, &factor, &addend};
    CUfunction kernel = function(module, "multiply_add");
    CHECK(cuLaunchKernel(kernel, (n + 127) / 128, 1, 1, 128, 1, 1, 0, nullptr, parameters, nullptr));
    std::vector<unsigned> result = download<unsigned>(device, n);
    for (int i = 0; i < n; i++)
        EXPECT(result[i] == values[i] * factor + addend, "value %d is %u with factor %u", i, result[i], factor);
    CHECK(cuMemFree(device));
}

int main(int, char **argv)
{
    CUcontext none;
    CHECK(cuInit(0));
    CHECK(cuCtxGetCurrent(&none));
    EXPECT(none == nullptr, "a thread begins without a context");
    CUdeviceptr early;
    EXPECT(cuMemAlloc(&early, 16) == CUDA_ERROR_INVALID_CONTEXT, "no context, no memory");

    // Two contexts on the same device, each with the same module: a variable of its own in each.
    CUcontext first, second;
    std::string path = beside(argv[0], "kernels.fatbin");
    CHECK(make_context(&first, 0));
    CUmodule in_first, in_second;
    CHECK(cuModuleLoad(&in_first, path.c_str()));
    CHECK(make_context(&second, CU_CTX_SCHED_YIELD));
    CHECK(cuModuleLoad(&in_second, path.c_str()));
    unsigned flags = 99;
    CHECK(cuCtxGetFlags(&flags));
    EXPECT(flags == CU_CTX_SCHED_YIELD, "flags %u", flags);
    unsigned long long id_first, id_second;
    CHECK(cuCtxGetId(first, &id_first));
    CHECK(cuCtxGetId(second, &id_second));
    EXPECT(id_first != id_second, "both have %llu", id_first);

    auto count = [](CUmodule module) {
        CUdeviceptr seen = poisoned<int>(1);
        void *parameters[] = {&seen};
        CHECK(cuLaunchKernel(function(module, "count"), 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr));
        int value = download<int>(seen, 1)[0];
        CHECK(cuMemFree(seen));
        return value;
    };
    EXPECT(count(in_second) == 40 && count(in_second) == 41, "the variable counts in the second context");
    CUcontext popped;
    CHECK(cuCtxPopCurrent(&popped));
    EXPECT(popped == second, "the second was on top");
    CHECK(cuCtxGetCurrent(&popped));
    EXPECT(popped == first, "the first was below");
    EXPECT(count(in_first) == 40, "the first context's variable was not touched");

    // A context goes from thread to thread with its memory.
    std::vector<unsigned> values = {3, 4, 5};
    CUdeviceptr travelling = upload(values);
    CHECK(cuCtxPopCurrent(nullptr));
    for (unsigned round = 0; round < 4; round++) {
        std::thread([&] {
            CHECK(cuCtxPushCurrent(first));
            int n = 3;
            unsigned factor = 2, addend = round;
            void *parameters[] = {&travelling, &n, &factor, &addend};
            CUfunction kernel = function(in_first, "multiply_add");
            CHECK(cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, nullptr, parameters, nullptr));
            CHECK(cuCtxSynchronize());
            CHECK(cuCtxPopCurrent(nullptr));
        }).join();
        for (unsigned &value : values) value = 2 * value + round;
    }
    CHECK(cuCtxPushCurrent(first));
    EXPECT(download<unsigned>(travelling, 3) == values, "four threads, one after the other");

    // Two threads, each in its own context, at the same time.
    std::thread other([&] {
        CHECK(cuCtxSetCurrent(second));
        for (unsigned k = 0; k < 20; k++) fill_and_check(in_second, 3 + k, k);
    });
    for (unsigned k = 0; k < 20; k++) fill_and_check(in_first, 5 + k, 2 * k);
    other.join();

    // Memory of one context is copied to the other by name.
    CUdeviceptr there;
    CHECK(cuCtxPushCurrent(second));
    CHECK(cuMemAlloc(&there, 12));
    CHECK(cuMemcpyPeer(there, second, travelling, first, 12));
    EXPECT(download<unsigned>(there, 3) == values, "copied between contexts");
    CHECK(cuCtxPopCurrent(nullptr));

    // A destroyed context is gone on every thread, and the other one is not disturbed.
    std::thread holder([&] {
        CHECK(cuCtxSetCurrent(second));
        std::thread([&] { CHECK(cuCtxDestroy(second)); }).join();
        CUdeviceptr memory;
        CUresult result = cuMemAlloc(&memory, 16);
        EXPECT(result == CUDA_ERROR_CONTEXT_IS_DESTROYED, "%d", result);
    });
    holder.join();
    EXPECT(cuCtxSetCurrent(second) != CUDA_SUCCESS, "it has no handle any more");
    CUfunction gone;
    EXPECT(cuModuleGetFunction(&gone, in_second, "add") == CUDA_ERROR_INVALID_HANDLE, "its module went with it");
    fill_and_check(in_first, 11, 13);
    EXPECT(download<unsigned>(travelling, 3) == values, "the first context's memory is still there");

    // The primary context: made by the first who retains it, ended by the last who releases it.
    int active = -1;
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    EXPECT(active == 0, "nobody has retained it");
    CUcontext primary, again;
    CHECK(cuDevicePrimaryCtxRetain(&primary, 0));
    CHECK(cuDevicePrimaryCtxRetain(&again, 0));
    EXPECT(primary == again && primary != first, "one primary context");
    CHECK(cuDevicePrimaryCtxRelease(0));
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    EXPECT(active == 1, "retained once more");
    EXPECT(cuCtxDestroy(primary) == CUDA_ERROR_INVALID_CONTEXT, "it is released, not destroyed");
    CHECK(cuDevicePrimaryCtxRelease(0));
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    EXPECT(active == 0, "released by the last");
    EXPECT(cuDevicePrimaryCtxRelease(0) == CUDA_ERROR_INVALID_CONTEXT, "nobody retains it");

    // Many contexts, one after the other: their places are used again.
    for (int k = 0; k < 60; k++) {
        CUcontext short_lived;
        CHECK(make_context(&short_lived, 0));
        CHECK(cuMemAlloc(&early, 1 << 20));
        CHECK(cuCtxDestroy(short_lived));
        CHECK(cuCtxGetCurrent(&popped));
        EXPECT(popped == first, "the one below is back");
    }
    CHECK(cuCtxDestroy(first));
    CHECK(cuCtxGetCurrent(&popped));
    EXPECT(popped == nullptr, "none is left");
    return passed("contexts");
}
