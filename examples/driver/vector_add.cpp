// Vectors are added by a kernel that was loaded as text, as a fatbin in memory and from files: all give the same sums.

#include "driver.h"

static void add_with(CUmodule module, const char *how)
{
    const int n = 100003;
    std::vector<float> a(n), b(n);
    for (int i = 0; i < n; i++) a[i] = 0.5f * i, b[i] = 3.0f * (i % 1000) + 0.25f;
    CUdeviceptr device_a = upload(a), device_b = upload(b), device_sum = poisoned<float>(n);
    CUfunction add = function(module, "add");
    int count = n;
    void *parameters[] = {&device_a, &device_b, &device_sum, &count};
    CHECK(cuLaunchKernel(add, (n + 255) / 256, 1, 1, 256, 1, 1, 0, nullptr, parameters, nullptr));
    std::vector<float> sum = download<float>(device_sum, n);
    for (int i = 0; i < n; i++) EXPECT(sum[i] == a[i] + b[i], "%s: sum %d is %f", how, i, sum[i]);

    // A variable of the module, written and read by name.
    CUdeviceptr scale;
    size_t bytes;
    CHECK(cuModuleGetGlobal(&scale, &bytes, module, "scale"));
    EXPECT(bytes == sizeof(float), "%zu bytes", bytes);
    float two = 2;
    CHECK(cuMemcpyHtoD(scale, &two, sizeof two));
    CHECK(cuLaunchKernel(add, (n + 255) / 256, 1, 1, 256, 1, 1, 0, nullptr, parameters, nullptr));
    sum = download<float>(device_sum, n);
    for (int i = 0; i < n; i++) EXPECT(sum[i] == 2 * (a[i] + b[i]), "%s: twice sum %d is %f", how, i, sum[i]);

    CUfunction missing;
    EXPECT(cuModuleGetFunction(&missing, module, "no_such_kernel") == CUDA_ERROR_NOT_FOUND, "%s", how);
    EXPECT(cuModuleGetGlobal(&scale, nullptr, module, "no_such_variable") == CUDA_ERROR_NOT_FOUND, "%s", how);
    for (CUdeviceptr memory : {device_a, device_b, device_sum}) CHECK(cuMemFree(memory));
}

int main(int, char **argv)
{
    CUdevice device;
    EXPECT(cuDeviceGet(&device, 0) == CUDA_ERROR_NOT_INITIALIZED, "cuInit comes first");
    CUcontext context;
    CUmodule from_file = begin(argv[0], &context);
    add_with(from_file, "fatbin from a file");
    CHECK(cuModuleUnload(from_file));
    CUfunction gone;
    EXPECT(cuModuleGetFunction(&gone, from_file, "add") != CUDA_SUCCESS, "the module is unloaded");

    std::string ptx = read_beside(argv[0], "kernels.ptx"), fatbin = read_beside(argv[0], "kernels.fatbin");
    CUmodule module;
    CHECK(cuModuleLoadData(&module, ptx.c_str()));
    add_with(module, "text");
    CHECK(cuModuleUnload(module));
    CHECK(cuModuleLoadFatBinary(&module, fatbin.data()));
    add_with(module, "fatbin in memory");
    CHECK(cuModuleUnload(module));
    CHECK(cuModuleLoad(&module, beside(argv[0], "kernels.ptx").c_str()));
    add_with(module, "text from a file");
    CHECK(cuModuleUnload(module));

    // What cannot be loaded says so, with words where the program has room for them.
    char words[512] = "";
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {words, reinterpret_cast<void *>(sizeof words)};
    CUresult result = cuModuleLoadDataEx(&module, ".version 8.0\n.target sm_80\nnonsense", 2, options, values);
    EXPECT(result == CUDA_ERROR_INVALID_PTX, "%d", result);
    EXPECT(std::strlen(words) > 0, "the log says why");
    EXPECT(cuModuleLoad(&module, "/no/such/file.cubin") == CUDA_ERROR_FILE_NOT_FOUND, "no file");

    CHECK(cuDevicePrimaryCtxRelease(device = 0));
    return passed("vector_add");
}
