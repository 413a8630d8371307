// Addresses, physical memory and mappings apart: a range that grows, memory at two addresses, access that is taken away.

#include "driver.h"

static size_t free_bytes()
{
    size_t free = 0, total = 0;
    CHECK(cuMemGetInfo(&free, &total));
    return free;
}

static CUmemAllocationProp of_device(int device)
{
    CUmemAllocationProp properties;
    std::memset(&properties, 0, sizeof(properties));
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = device;
    return properties;
}

static void allow(CUdeviceptr address, size_t bytes, CUmemAccess_flags flags)
{
    CUmemAccessDesc access;
    std::memset(&access, 0, sizeof(access));
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = 0;
    access.flags = flags;
    CHECK(cuMemSetAccess(address, bytes, &access, 1));
}

static void add(CUfunction step, CUdeviceptr values, int count, unsigned addend)
{
    unsigned factor = 1;
    void *parameters[] = {&values, &count, &factor, &addend};
    CHECK(cuLaunchKernel(step, (count + 255) / 256, 1, 1, 256, 1, 1, 0, nullptr, parameters, nullptr));
}

int main(int, char **argv)
{
    CUcontext context;
    CUmodule module = begin(argv[0], &context);
    CUfunction step = function(module, "multiply_add");
    CUmemAllocationProp properties = of_device(0);
    size_t unit = 0;
    CHECK(cuMemGetAllocationGranularity(&unit, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    EXPECT(unit >= 4096 && (unit & (unit - 1)) == 0, "granularity %zu", unit);
    int supported = 0;
    CHECK(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
    EXPECT(supported == 1, "the attribute says %d", supported);

    // What is asked for wrongly.
    CUdeviceptr base = 0, other = 0;
    CUmemGenericAllocationHandle first, second, none;
    EXPECT(cuMemAddressReserve(&base, unit / 2, 0, 0, 0) == CUDA_ERROR_INVALID_VALUE, "half a unit");
    EXPECT(cuMemCreate(&none, unit + 1, &properties, 0) == CUDA_ERROR_INVALID_VALUE, "not a multiple");
    EXPECT(cuMemCreate(&none, size_t(1) << 46, &properties, 0) == CUDA_ERROR_OUT_OF_MEMORY, "too much");

    // A range with room to grow, and a first part of it.
    CHECK(cuMemAddressReserve(&base, 16 * unit, 4 * unit, 0, 0));
    EXPECT(base % (4 * unit) == 0, "aligned: %llx", base);
    CHECK(cuMemAddressReserve(&other, 4 * unit, 0, base, 0));
    EXPECT(other + 4 * unit <= base || base + 16 * unit <= other, "the hint is taken: %llx", other);
    CHECK(cuMemAddressFree(other, 4 * unit));
    CUdeviceptr again = 0;
    CHECK(cuMemAddressReserve(&again, 4 * unit, 0, other, 0));
    EXPECT(again == other, "the hint is free: %llx, not %llx", again, other);
    size_t before = free_bytes();
    CHECK(cuMemCreate(&first, 2 * unit, &properties, 0));
    EXPECT(free_bytes() + 2 * unit <= before, "it counts as soon as it is made");
    CHECK(cuMemMap(base, 2 * unit, 0, first, 0));
    EXPECT(cuMemMap(base + unit, 2 * unit, 0, first, 0) == CUDA_ERROR_INVALID_VALUE, "something is there");
    EXPECT(cuMemMap(base + 15 * unit, 2 * unit, 0, first, 0) == CUDA_ERROR_INVALID_VALUE, "not reserved");
    EXPECT(cuMemMap(base + 4 * unit, 2 * unit, unit, first, 0) == CUDA_ERROR_INVALID_VALUE, "beyond its end");
    EXPECT(cuMemsetD8(base, 1, 16) == CUDA_ERROR_INVALID_VALUE, "no access yet");
    allow(base, 2 * unit, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    unsigned long long flags = 0;
    CHECK(cuMemGetAccess(&flags, &properties.location, base + unit));
    EXPECT(flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE, "access %llu", flags);

    // It grows behind itself: copies, sets and kernels go across the border.
    CHECK(cuMemCreate(&second, unit, &properties, 0));
    CHECK(cuMemMap(base + 2 * unit, unit, 0, second, 0));
    allow(base + 2 * unit, unit, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    const int count = 5000;
    CUdeviceptr border = base + 2 * unit - count / 2 * sizeof(unsigned);
    std::vector<unsigned> values(count);
    for (int i = 0; i < count; ++i) values[i] = 3 * i;
    CHECK(cuMemcpyHtoD(border, values.data(), count * sizeof(unsigned)));
    add(step, border, count, 7);
    std::vector<unsigned> seen = download<unsigned>(border, count);
    for (int i = 0; i < count; ++i) EXPECT(seen[i] == 3u * i + 7, "value %d is %u", i, seen[i]);
    CHECK(cuMemcpyDtoD(base, border, count * sizeof(unsigned)));
    EXPECT(download<unsigned>(base, count) == seen, "a copy across the border");
    EXPECT(cuMemsetD8(base + 3 * unit - 8, 1, 16) == CUDA_ERROR_INVALID_VALUE, "nothing is mapped there");

    // What is known about it.
    CUdeviceptr start = 0;
    size_t bytes = 0;
    CHECK(cuMemGetAddressRange(&start, &bytes, base + unit + 5));
    EXPECT(start == base && bytes == 2 * unit, "range %llx + %zu", start, bytes);
    CUmemorytype kind = CUmemorytype(0);
    CHECK(cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, base + unit));
    EXPECT(kind == CU_MEMORYTYPE_DEVICE, "kind %d", kind);
    EXPECT(cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, base + 8 * unit) != CUDA_SUCCESS,
           "addresses without memory");
    EXPECT(cuMemFree(base) == CUDA_ERROR_INVALID_VALUE, "it was not allocated");

    // The same memory at a second address, a part of it, for reading.
    CUmemGenericAllocationHandle retained;
    CHECK(cuMemRetainAllocationHandle(&retained, reinterpret_cast<void *>(base + unit)));
    EXPECT(retained == first, "the handle of what is mapped");
    CUmemAllocationProp known;
    CHECK(cuMemGetAllocationPropertiesFromHandle(&known, retained));
    EXPECT(known.type == properties.type && known.location.id == 0, "its properties");
    CHECK(cuMemMap(again, unit, unit, retained, 0));
    allow(again, unit, CU_MEM_ACCESS_FLAGS_PROT_READ);
    CHECK(cuMemRelease(retained));
    EXPECT(download<unsigned>(again + unit - 400, 100) == download<unsigned>(base + 2 * unit - 400, 100), "one memory");
    CHECK(cuMemsetD32(base + unit, 0x5eed, 100));
    EXPECT(download<unsigned>(again, 100) == std::vector<unsigned>(100, 0x5eed), "one memory");
    EXPECT(cuMemsetD8(again, 1, 16) == CUDA_ERROR_INVALID_VALUE, "for reading only");
    EXPECT(cuMemcpyHtoD(again, values.data(), 16) == CUDA_ERROR_INVALID_VALUE, "for reading only");
    CHECK(cuMemcpyDtoD(base, again, 64));

    // Released memory stays while it is mapped, and can be had back.
    CHECK(cuMemRelease(first));
    CHECK(cuMemRelease(second));
    EXPECT(cuMemRelease(second) == CUDA_ERROR_INVALID_VALUE, "nobody holds it");
    add(step, base, count, 1);
    EXPECT(cuMemUnmap(base, unit) == CUDA_ERROR_INVALID_VALUE, "a part of a mapping");
    EXPECT(cuMemAddressFree(base, 16 * unit) == CUDA_ERROR_INVALID_VALUE, "something is mapped");
    CHECK(cuMemUnmap(base, 3 * unit));
    EXPECT(cuMemsetD8(base, 1, 16) == CUDA_ERROR_INVALID_VALUE, "nothing is mapped there");
    EXPECT(free_bytes() + 2 * unit <= before, "the second mapping holds it");
    EXPECT(download<unsigned>(again, 100) == std::vector<unsigned>(100, 0x5eed), "still there");
    // What a driver keeps for modules and launches comes on top of what is ours.
    size_t held = free_bytes();
    CHECK(cuMemUnmap(again, unit));
    EXPECT(free_bytes() >= held + 2 * unit, "%zu bytes free, %zu before", free_bytes(), held);
    EXPECT(cuMemRetainAllocationHandle(&retained, reinterpret_cast<void *>(base)) == CUDA_ERROR_INVALID_VALUE, "gone");
    CHECK(cuMemAddressFree(again, 4 * unit));
    CHECK(cuMemAddressFree(base, 16 * unit));
    EXPECT(cuMemAddressFree(base, 16 * unit) == CUDA_ERROR_INVALID_VALUE, "free already");
    int descriptor = -1;
    CHECK(cuMemCreate(&first, unit, &properties, 0));
    EXPECT(cuMemExportToShareableHandle(&descriptor, first, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0)
               == CUDA_ERROR_NOT_SUPPORTED, "no other process of this machine can reach it");
    CHECK(cuMemRelease(first));

    // A kernel that goes where nothing is mapped any more faults.
    CHECK(cuMemAddressReserve(&base, unit, 0, 0, 0));
    add(step, base, 16, 1);
    EXPECT(cuCtxSynchronize() == CUDA_ERROR_ILLEGAL_ADDRESS, "addresses without memory");
    return passed("virtual_memory");
}
