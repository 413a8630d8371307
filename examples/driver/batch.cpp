// Copies in batches and with attributes, what is said about managed memory, attributes of streams, occupancy, and the
// log of errors.

#include "driver.h"

static int lines = 0;

static void count_line(void *data, CUlogLevel, char *message, size_t length)
{
    if (data == &lines && length > 0 && message[length] == '\0') ++lines;
}

// One batch, by the call of either major.
static CUresult copy_batch(CUdeviceptr *to, CUdeviceptr *from, size_t *sizes, size_t count, CUmemcpyAttributes *how,
                           size_t *firsts, size_t kinds, CUstream stream)
{
#if CUDA_VERSION >= 13000
    return cuMemcpyBatchAsync(to, from, sizes, count, how, firsts, kinds, stream);
#else
    size_t failed = 0;
    return cuMemcpyBatchAsync(to, from, sizes, count, how, firsts, kinds, &failed, stream);
#endif
}

static CUresult copy_boxes(CUDA_MEMCPY3D_BATCH_OP *boxes, size_t count, CUstream stream)
{
#if CUDA_VERSION >= 13000
    return cuMemcpy3DBatchAsync(count, boxes, 0, stream);
#else
    size_t failed = 0;
    return cuMemcpy3DBatchAsync(count, boxes, &failed, 0, stream);
#endif
}

static CUmemcpy3DOperand at(CUdeviceptr address, size_t row, size_t height)
{
    CUmemcpy3DOperand end;
    std::memset(&end, 0, sizeof(end));
    end.type = CU_MEMCPY_OPERAND_TYPE_POINTER;
    end.op.ptr.ptr = address;
    end.op.ptr.rowLength = row;
    end.op.ptr.layerHeight = height;
    return end;
}

static void copies(CUstream stream, CUfunction step)
{
    const int n = 1000;
    std::vector<unsigned> values(n), back(n, 0);
    for (int i = 0; i < n; ++i) values[i] = 7 * i;
    CUdeviceptr first = poisoned<unsigned>(n), second = poisoned<unsigned>(n);
    CHECK(cuCtxSynchronize());

    // Up, whose source may change as soon as the call is over, a kernel, across, and down in two parts.
    CUmemcpyAttributes how[2];
    std::memset(how, 0, sizeof(how));
    how[0].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
    how[1].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
    size_t bytes = n * sizeof(unsigned), firsts[2] = {0, 1};
    CUdeviceptr host = reinterpret_cast<CUdeviceptr>(values.data());
    CHECK(copy_batch(&first, &host, &bytes, 1, how, firsts, 1, stream));
    std::memset(values.data(), 0, bytes);
    int count = n;
    unsigned factor = 3, addend = 1;
    void *parameters[] = {&first, &count, &factor, &addend};
    CHECK(cuLaunchKernel(step, (n + 63) / 64, 1, 1, 64, 1, 1, 0, stream, parameters, nullptr));
    CUdeviceptr place = reinterpret_cast<CUdeviceptr>(back.data());
    CUdeviceptr to[2] = {second, place}, from[2] = {first, first + bytes / 2};
    size_t sizes[2] = {bytes, bytes / 2};
    CHECK(copy_batch(to, from, sizes, 2, how, firsts, 2, stream));
    CHECK(cuStreamSynchronize(stream));
    for (int i = 0; i < n / 2; ++i)
        EXPECT(back[i] == 21u * (i + n / 2) + 1, "value %d is %u", i, back[i]);
    std::vector<unsigned> seen = download<unsigned>(second, n);
    for (int i = 0; i < n; ++i) EXPECT(seen[i] == 21u * i + 1, "value %d is %u", i, seen[i]);
    EXPECT(copy_batch(to, from, sizes, 2, how, firsts, 2, CU_STREAM_LEGACY) == CUDA_ERROR_INVALID_VALUE, "no stream");
    size_t wrong[2] = {1, 0};
    EXPECT(copy_batch(to, from, sizes, 2, how, wrong, 2, stream) == CUDA_ERROR_INVALID_VALUE, "not in order");

    // A box of 2 slices of 3 rows of 16 bytes, out of rows of 64 bytes and slices of 4 rows.
    CUDA_MEMCPY3D_BATCH_OP box;
    std::memset(&box, 0, sizeof(box));
    box.src = at(second, 64, 4);
    box.dst = at(first, 16, 3);
    box.extent.width = 16;
    box.extent.height = 3;
    box.extent.depth = 2;
    box.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
    CHECK(copy_boxes(&box, 1, stream));
    CHECK(cuStreamSynchronize(stream));
    std::vector<unsigned> packed = download<unsigned>(first, 24);
    for (int i = 0; i < 24; ++i) {
        int source = i / 12 * 64 + i % 12 / 4 * 16 + i % 4;
        EXPECT(packed[i] == 21u * source + 1, "element %d is %u", i, packed[i]);
    }
#if CUDA_VERSION >= 13020
    CHECK(cuMemcpyWithAttributesAsync(first, second + 400, 400, &how[1], stream));
    CHECK(cuStreamSynchronize(stream));
    EXPECT(download<unsigned>(first, 100)[99] == 21u * 199 + 1, "a copy with attributes");
    CHECK(cuMemcpy3DWithAttributesAsync(&box, 0, stream));
    CHECK(cuStreamSynchronize(stream));
    EXPECT(download<unsigned>(first, 24) == packed, "a box with attributes");
#endif
    CHECK(cuMemFree(first));
    CHECK(cuMemFree(second));
}

static void managed(CUstream stream)
{
    CUdeviceptr memory = 0;
    const size_t bytes = 1 << 20;
    CHECK(cuMemAllocManaged(&memory, bytes, CU_MEM_ATTACH_GLOBAL));
    int value = -1, kind = -1;
    CHECK(cuMemRangeGetAttribute(&value, sizeof(value), CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, memory, bytes));
    EXPECT(value == 0, "read mostly: %d", value);
#if CUDA_VERSION >= 13000
    CUmemLocation device;
    std::memset(&device, 0, sizeof(device));
    device.type = CU_MEM_LOCATION_TYPE_DEVICE;
    size_t first = 0;
    CUdeviceptr parts[1] = {memory};
    size_t sizes[1] = {bytes};
    CHECK(cuMemPrefetchBatchAsync(parts, sizes, 1, &device, &first, 1, 0, stream));
    CHECK(cuMemDiscardBatchAsync(parts, sizes, 1, 0, stream));
    CHECK(cuMemAdvise(memory, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, device));
    CUmemoryPool pool = nullptr, same = nullptr;
    CHECK(cuMemGetDefaultMemPool(&pool, &device, CU_MEM_ALLOCATION_TYPE_PINNED));
    CHECK(cuDeviceGetDefaultMemPool(&same, 0));
    EXPECT(pool == same, "one default pool");
#else
    CHECK(cuMemPrefetchAsync(memory, bytes, 0, stream));
    CHECK(cuMemAdvise(memory, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
#endif
    void *rooms[2] = {&value, &kind};
    size_t room_sizes[2] = {sizeof(value), sizeof(kind)};
    CUmem_range_attribute asked[2] = {CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION};
    CHECK(cuMemRangeGetAttributes(rooms, room_sizes, asked, 2, memory, bytes));
    EXPECT(value == 1 && kind == 0, "read mostly %d, on device %d", value, kind);
    CHECK(cuMemFree(memory));
}

static void attributes(CUstream stream, CUfunction sums)
{
    CUstreamAttrValue value;
    std::memset(&value, 0, sizeof(value));
    value.syncPolicy = CU_SYNC_POLICY_BLOCKING_SYNC;
    CHECK(cuStreamSetAttribute(stream, CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    CUstream other;
    CHECK(cuStreamCreate(&other, CU_STREAM_DEFAULT));
    CHECK(cuStreamCopyAttributes(other, stream));
    CUstreamAttrValue seen;
    CHECK(cuStreamGetAttribute(other, CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY, &seen));
    EXPECT(seen.syncPolicy == CU_SYNC_POLICY_BLOCKING_SYNC, "policy %d", seen.syncPolicy);

    size_t room = 0;
    CHECK(cuOccupancyAvailableDynamicSMemPerBlock(&room, sums, 2, 128));
    int blocks = 0, clusters = 0;
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, sums, 128, room));
    EXPECT(room > 0 && blocks >= 2, "%d blocks with %zu bytes", blocks, room);
    CUlaunchConfig configuration;
    std::memset(&configuration, 0xff, sizeof(configuration));
    configuration.gridDimX = configuration.gridDimY = configuration.gridDimZ = 1;
    configuration.blockDimX = 128;
    configuration.blockDimY = configuration.blockDimZ = 1;
    configuration.sharedMemBytes = 512;
    configuration.hStream = stream;
    configuration.attrs = nullptr;
    configuration.numAttrs = 0;
    CHECK(cuOccupancyMaxActiveClusters(&clusters, sums, &configuration));
    EXPECT(clusters >= 1, "%d clusters", clusters);
    size_t width = 0;
    CHECK(cuDeviceGetTexture1DLinearMaxWidth(&width, CU_AD_FORMAT_FLOAT, 1, 0));
    EXPECT(width >= 65536, "width %zu", width);
    CHECK(cuCtxResetPersistingL2Cache());
    CHECK(cuStreamDestroy(other));
}

static void log_of_errors()
{
    CUlogsCallbackHandle handle;
    CHECK(cuLogsRegisterCallback(count_line, &lines, &handle));
    CUlogIterator place = 0;
    CHECK(cuLogsCurrent(&place, 0));
    CUmodule module;
    EXPECT(cuModuleLoad(&module, "/no/such/file.cubin") != CUDA_SUCCESS, "there is no such file");
    EXPECT(lines >= 1, "%d lines were told", lines);
    char text[4096];
    size_t bytes = sizeof(text);
    CHECK(cuLogsDumpToMemory(&place, text, &bytes, 0));
    EXPECT(std::strstr(text, "/no/such/file.cubin") != nullptr, "the log: %s", text);
    CHECK(cuLogsUnregisterCallback(handle));
}

int main(int, char **argv)
{
    CUcontext context;
    CUmodule module = begin(argv[0], &context);
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    copies(stream, function(module, "multiply_add"));
    managed(stream);
    attributes(stream, function(module, "sum_blocks"));
    log_of_errors();
    CUipcMemHandle handle;
    EXPECT(cuIpcGetMemHandle(&handle, 0) == CUDA_ERROR_NOT_SUPPORTED, "no memory is shared with other processes");
    return passed("batch");
}
