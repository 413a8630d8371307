// Runtime and driver in one program: contexts, streams, events, memory and kernels are the same objects.

#include <cuda_runtime.h>

#include "driver.h"

#define RUNTIME(call)                                                                                      \
    do {                                                                                                   \
        cudaError_t error_ = (call);                                                                       \
        EXPECT(error_ == cudaSuccess, "%s: %s", #call, cudaGetErrorString(error_));                        \
    } while (0)

__global__ void twice(int *values, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) values[i] *= 2;
}

int main(int, char **argv)
{
    const int n = 4000;
    int *memory;
    RUNTIME(cudaMalloc(&memory, n * sizeof(int)));
    CHECK(cuInit(0));
    CUcontext current, primary;
    CHECK(cuCtxGetCurrent(&current));
    CHECK(cuDevicePrimaryCtxRetain(&primary, 0));
    EXPECT(current == primary, "the runtime made the primary context this thread's own");

    std::vector<int> values(n), expected(n);
    for (int i = 0; i < n; i++) values[i] = i - 100, expected[i] = (2 * (i - 100)) * 3 + 7;
    cudaStream_t stream;
    RUNTIME(cudaStreamCreate(&stream));
    CUevent done;
    CHECK(cuEventCreate(&done, CU_EVENT_DISABLE_TIMING));
    CHECK(cuMemcpyHtoDAsync(reinterpret_cast<CUdeviceptr>(memory), values.data(), n * sizeof(int), stream));
    twice<<<(n + 127) / 128, 128, 0, stream>>>(memory, n);
    RUNTIME(cudaGetLastError());

    CUmodule module;
    CHECK(cuModuleLoad(&module, beside(argv[0], "kernels.fatbin").c_str()));
    int count = n;
    unsigned factor = 3, addend = 7;
    void *parameters[] = {&memory, &count, &factor, &addend};
    CUfunction kernel = function(module, "multiply_add");
    CHECK(cuLaunchKernel(kernel, (n + 127) / 128, 1, 1, 128, 1, 1, 0, stream, parameters, nullptr));
    CHECK(cuEventRecord(done, stream));
    RUNTIME(cudaEventSynchronize(done));
    EXPECT(download<int>(reinterpret_cast<CUdeviceptr>(memory), n) == expected, "both kernels in one stream");

    // The runtime's kernel as a function of the driver, and the other way round.
    cudaFunction_t as_function;
    RUNTIME(cudaGetFuncBySymbol(&as_function, reinterpret_cast<const void *>(twice)));
    void *both[] = {&memory, &count};
    CHECK(cuLaunchKernel(as_function, (n + 127) / 128, 1, 1, 128, 1, 1, 0, stream, both, nullptr));
    RUNTIME(cudaStreamSynchronize(stream));
    for (int &value : expected) value *= 2;
    EXPECT(download<int>(reinterpret_cast<CUdeviceptr>(memory), n) == expected, "twice, by the driver");
    cudaPointerAttributes attributes;
    CUdeviceptr of_driver;
    CHECK(cuMemAlloc(&of_driver, 256));
    RUNTIME(cudaPointerGetAttributes(&attributes, reinterpret_cast<void *>(of_driver)));
    EXPECT(attributes.type == cudaMemoryTypeDevice && attributes.device == 0, "type %d", attributes.type);
    unsigned kind = 0;
    CHECK(cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, reinterpret_cast<CUdeviceptr>(memory)));
    EXPECT(kind == CU_MEMORYTYPE_DEVICE, "kind %u", kind);

    // A library of the runtime, and functions of the driver by name.
    cudaLibrary_t library;
    cudaKernel_t of_library;
    std::string ptx = read_beside(argv[0], "kernels.ptx");
    RUNTIME(cudaLibraryLoadData(&library, ptx.c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0));
    RUNTIME(cudaLibraryGetKernel(&of_library, library, "multiply_add"));
    RUNTIME(cudaLaunchKernel(reinterpret_cast<const void *>(of_library), dim3((n + 127) / 128), dim3(128), parameters, 0, stream));
    RUNTIME(cudaStreamSynchronize(stream));
    for (int &value : expected) value = value * 3 + 7;
    EXPECT(download<int>(reinterpret_cast<CUdeviceptr>(memory), n) == expected, "a kernel of a library");
    RUNTIME(cudaLibraryUnload(library));
    void *found = nullptr;
    cudaDriverEntryPointQueryResult status;
    RUNTIME(cudaGetDriverEntryPointByVersion("cuMemGetInfo", &found, 12000, cudaEnableDefault, &status));
    size_t free_bytes = 0, total_bytes = 0;
    CHECK(reinterpret_cast<CUresult (*)(size_t *, size_t *)>(found)(&free_bytes, &total_bytes));
    EXPECT(free_bytes > 0 && free_bytes <= total_bytes, "%zu of %zu", free_bytes, total_bytes);
    RUNTIME(cudaGetDriverEntryPointByVersion("cuNoSuchFunction", &found, 12000, cudaEnableDefault, &status));
    EXPECT(found == nullptr && status == cudaDriverEntryPointSymbolNotFound, "status %d", status);

    // An error of the driver is not the runtime's last error.
    EXPECT(cuMemFree(of_driver + 12345678) != CUDA_SUCCESS, "no such memory");
    RUNTIME(cudaGetLastError());
    // A context of the program's own is the runtime's, too, while it is current.
    CUcontext own;
    CHECK(make_context(&own, 0));
    int *in_own;
    RUNTIME(cudaMalloc(&in_own, 4 * sizeof(int)));
    RUNTIME(cudaMemset(in_own, 0, 4 * sizeof(int)));
    twice<<<1, 4>>>(in_own, 4);
    RUNTIME(cudaDeviceSynchronize());
    CHECK(cuCtxDestroy(own));
    EXPECT(download<int>(reinterpret_cast<CUdeviceptr>(memory), n) == expected, "the primary context's memory");

    CHECK(cuMemFree(of_driver));
    RUNTIME(cudaFree(memory));
    RUNTIME(cudaStreamDestroy(stream));
    CHECK(cuEventDestroy(done));
    return passed("mixed");
}
