// What the programs of the driver API share. Each is one program with one story and one verdict (expect.h). Their
// kernels are in kernels.cu, which nvcc has made kernels.ptx and kernels.fatbin of, beside the programs.

#ifndef VGPU_DRIVER_H
#define VGPU_DRIVER_H

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <cuda.h>

#include "../expect.h"

#define CHECK(call)                                                                                        \
    do {                                                                                                   \
        CUresult result_ = (call);                                                                         \
        if (result_ != CUDA_SUCCESS) {                                                                     \
            const char *text_ = "?";                                                                       \
            cuGetErrorName(result_, &text_);                                                               \
            std::fprintf(stderr, "%s:%d: %s: %s (%d)\n", __FILE__, __LINE__, #call, text_,                 \
                         static_cast<int>(result_));                                                       \
            std::exit(1);                                                                                  \
        }                                                                                                  \
    } while (0)

// The path of a file beside the program.
inline std::string beside(const char *program, const char *file)
{
    std::string path = program;
    return path.substr(0, path.rfind('/') + 1) + file;
}

// The bytes of a file beside the program.
inline std::string read_beside(const char *program, const char *file)
{
    std::ifstream stream(beside(program, file), std::ios::binary);
    EXPECT(stream.good(), "%s beside %s", file, program);
    return std::string(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
}

// Makes a context on device 0 and makes it this thread's own.
inline CUresult make_context(CUcontext *context, unsigned flags)
{
#if CUDA_VERSION >= 13000
    return cuCtxCreate(context, nullptr, flags, 0);
#else
    return cuCtxCreate(context, flags, 0);
#endif
}

// Makes device 0's context this thread's own, and loads the kernels.
inline CUmodule begin(const char *program, CUcontext *context)
{
    CHECK(cuInit(0));
    CUdevice device;
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(context, device));
    CHECK(cuCtxSetCurrent(*context));
    CUmodule module;
    CHECK(cuModuleLoad(&module, beside(program, "kernels.fatbin").c_str()));
    return module;
}

// Device memory of `count` values whose bytes are all 0xff, so that what no kernel wrote is known as such.
template <typename T> CUdeviceptr poisoned(size_t count)
{
    CUdeviceptr memory = 0;
    CHECK(cuMemAlloc(&memory, count * sizeof(T)));
    CHECK(cuMemsetD8(memory, 0xff, count * sizeof(T)));
    return memory;
}

template <typename T> CUdeviceptr upload(const std::vector<T> &values)
{
    CUdeviceptr memory = 0;
    CHECK(cuMemAlloc(&memory, values.size() * sizeof(T)));
    CHECK(cuMemcpyHtoD(memory, values.data(), values.size() * sizeof(T)));
    return memory;
}

// The values of device memory; the host's copy is poisoned first.
template <typename T> std::vector<T> download(CUdeviceptr memory, size_t count)
{
    std::vector<T> values(count);
    std::memset(values.data(), 0xee, count * sizeof(T));
    CHECK(cuMemcpyDtoH(values.data(), memory, count * sizeof(T)));
    return values;
}

inline CUfunction function(CUmodule module, const char *name)
{
    CUfunction found;
    CHECK(cuModuleGetFunction(&found, module, name));
    return found;
}

#endif
