// Parameters by pointers and as a packed buffer, with the layout that the driver tells; attributes and occupancy.

#include "driver.h"

struct Mixed
{
    char tag;
    double weight;
    short parts[3];
};

int main(int, char **argv)
{
    CUcontext context;
    CUmodule module = begin(argv[0], &context);
    CUfunction kernel = function(module, "mixed");
    CUdeviceptr out = poisoned<long long>(5);
    char c = -7;
    Mixed m = {'x', 2.5, {1, 2, 3}};
    float f = 1.25f;
    void *by_pointer[] = {&c, &m, &f, &out};
    const std::vector<long long> expected = {-7, 'x', 2500, 321, 125};
    CHECK(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, nullptr, by_pointer, nullptr));
    EXPECT(download<long long>(out, 5) == expected, "by pointers");

    // The same values in a buffer, where the driver says that they lie.
    char buffer[256];
    std::memset(buffer, 0x5a, sizeof buffer);
    size_t sizes[] = {sizeof c, sizeof m, sizeof f, sizeof out}, end = 0;
    for (size_t i = 0; i < 4; i++) {
        size_t offset, size;
        CHECK(cuFuncGetParamInfo(kernel, i, &offset, &size));
        EXPECT(size == sizes[i], "parameter %zu has %zu bytes", i, size);
        EXPECT(offset >= end, "parameter %zu lies at %zu", i, offset);
        std::memcpy(buffer + offset, by_pointer[i], size);
        end = offset + size;
    }
    size_t none;
    EXPECT(cuFuncGetParamInfo(kernel, 4, &none, nullptr) == CUDA_ERROR_INVALID_VALUE, "there are four");
    CHECK(cuMemsetD8(out, 0xff, 5 * sizeof(long long)));
    void *packed[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, buffer, CU_LAUNCH_PARAM_BUFFER_SIZE, &end, CU_LAUNCH_PARAM_END};
    CHECK(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, packed));
    EXPECT(download<long long>(out, 5) == expected, "as a buffer");
    size_t too_few = end - 1;
    packed[3] = &too_few;
    EXPECT(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, packed) == CUDA_ERROR_INVALID_VALUE, "a byte is missing");

    // What a function needs and may use.
    CUfunction sums = function(module, "sum_blocks");
    int threads = 0, shared = -1, blocks = 0;
    CHECK(cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, sums));
    CHECK(cuFuncGetAttribute(&shared, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, sums));
    EXPECT(threads >= 256 && shared == 0, "%d threads, %d bytes", threads, shared);
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, sums, 256, 1024));
    EXPECT(blocks >= 1, "%d blocks", blocks);
    int grid = 0, block = 0;
    CHECK(cuOccupancyMaxPotentialBlockSize(&grid, &block, sums, [](int size) { return size * sizeof(int); }, 0, 0));
    EXPECT(grid >= 1 && block >= 32 && block <= threads, "%d blocks of %d", grid, block);
    std::vector<int> values(4 * 256);
    for (size_t i = 0; i < values.size(); i++) values[i] = 3 * static_cast<int>(i) - 100;
    CUdeviceptr device = upload(values), device_sums = poisoned<int>(4);
    void *arguments[] = {&device, &device_sums};
    CUlaunchConfig configuration = {};
    configuration.gridDimX = 4, configuration.gridDimY = configuration.gridDimZ = 1;
    configuration.blockDimX = 256, configuration.blockDimY = configuration.blockDimZ = 1;
    configuration.sharedMemBytes = 256 * sizeof(int);
    CHECK(cuLaunchKernelEx(&configuration, sums, arguments, nullptr));
    std::vector<int> found = download<int>(device_sums, 4);
    for (int b = 0; b < 4; b++) {
        int sum = 0;
        for (int i = 0; i < 256; i++) sum += values[b * 256 + i];
        EXPECT(found[b] == sum, "block %d: %d, not %d", b, found[b], sum);
    }
    EXPECT(cuLaunchKernel(sums, 1, 1, 1, 4096, 1, 1, 0, nullptr, arguments, nullptr) == CUDA_ERROR_INVALID_VALUE, "too many threads");
    for (CUdeviceptr memory : {out, device, device_sums}) CHECK(cuMemFree(memory));
    return passed("parameters");
}
