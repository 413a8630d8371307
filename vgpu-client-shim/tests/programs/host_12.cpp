// A host program of CUDA 12.9's headers that registers its fatbin itself, as the code that a compiler of CUDA 12 makes does.
#include <cstdio>
#include <vector>
#include <cuda_runtime_api.h>

#include "image.inc"

extern "C" {
void** __cudaRegisterFatBinary(void* wrapper);
void __cudaRegisterFatBinaryEnd(void** handle);
void __cudaUnregisterFatBinary(void** handle);
void __cudaRegisterFunction(void** handle, const char* host, char* device, const char* name, int limit, uint3* tid,
                            uint3* bid, dim3* block, dim3* grid, int* warp);
}

static struct {
    unsigned magic, version;
    const void* image;
    void* unused;
} wrapper = {0x466243b1, 1, image, nullptr};

static void scale_stub() {}

int main() {
    static_assert(CUDART_VERSION / 1000 == 12, "headers of another major");
    void** handle = __cudaRegisterFatBinary(&wrapper);
    char name[] = "scale";
    __cudaRegisterFunction(handle, (const char*)&scale_stub, name, name, -1, nullptr, nullptr, nullptr, nullptr, nullptr);
    __cudaRegisterFatBinaryEnd(handle);

    int version = 0;
    cudaRuntimeGetVersion(&version);
    cudaDeviceProp properties;
    if (version / 1000 != 12 || cudaGetDeviceProperties(&properties, 0) != cudaSuccess || properties.major < 5) {
        printf("version %d\n", version);
        return 1;
    }
    int count = 1000;
    float factor = 2.5f;
    std::vector<float> values(count);
    for (int i = 0; i < count; i++) values[i] = (float)i;
    float* device = nullptr;
    cudaMalloc((void**)&device, count * sizeof(float));
    cudaMemcpy(device, values.data(), count * sizeof(float), cudaMemcpyHostToDevice);
    void* arguments[] = {&device, &factor, &count};
    cudaError_t error = cudaLaunchKernel((const void*)&scale_stub, dim3(8), dim3(128), arguments, 0, nullptr);
    if (error != cudaSuccess) { printf("%s\n", cudaGetErrorString(error)); return 1; }
    cudaMemcpy(values.data(), device, count * sizeof(float), cudaMemcpyDeviceToHost);
    for (int i = 0; i < count; i++) {
        if (values[i] != i * factor) { printf("%d: %f\n", i, values[i]); return 1; }
    }
    __cudaUnregisterFatBinary(handle);
    puts("done");
    return 0;
}
