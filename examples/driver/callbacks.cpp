// Host functions and callbacks run in stream order, on none of the program's threads; events order streams; sets of
// every width; what a pointer is.

#include <atomic>
#include <thread>

#include "driver.h"

static std::atomic<int> order{0};
static std::thread::id main_thread;

static void note(void *data)
{
    EXPECT(std::this_thread::get_id() != main_thread, "not on the program's thread");
    *static_cast<int *>(data) = ++order;
}

static void note_status(CUstream, CUresult status, void *data)
{
    EXPECT(status == CUDA_SUCCESS, "status %d", status);
    *static_cast<int *>(data) = ++order;
}

int main(int, char **argv)
{
    main_thread = std::this_thread::get_id();
    CUcontext context;
    CUmodule module = begin(argv[0], &context);
    CUfunction step = function(module, "multiply_add");
    const int n = 2000;
    CUdeviceptr memory = poisoned<unsigned>(n);
    CUstream first, second;
    CHECK(cuStreamCreate(&first, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreateWithPriority(&second, CU_STREAM_NON_BLOCKING, -1));
    CUevent done;
    CHECK(cuEventCreate(&done, CU_EVENT_DEFAULT));
    CUcontext of_stream;
    CHECK(cuStreamGetCtx(first, &of_stream));
    EXPECT(of_stream == context, "the stream is the context's");

    int count = n, notes[3] = {};
    unsigned factor = 2, addend = 1;
    void *parameters[] = {&memory, &count, &factor, &addend};
    CHECK(cuMemsetD32Async(memory, 21, n, first));
    CHECK(cuLaunchHostFunc(first, note, &notes[0]));
    CHECK(cuLaunchKernel(step, (n + 63) / 64, 1, 1, 64, 1, 1, 0, first, parameters, nullptr));
    CHECK(cuStreamAddCallback(first, note_status, &notes[1], 0));
    CHECK(cuEventRecord(done, first));
    CHECK(cuStreamWaitEvent(second, done, CU_EVENT_WAIT_DEFAULT));
    CHECK(cuLaunchHostFunc(second, note, &notes[2]));
    CHECK(cuStreamSynchronize(second));
    EXPECT(notes[0] == 1 && notes[1] == 2 && notes[2] == 3, "%d %d %d", notes[0], notes[1], notes[2]);
    EXPECT(cuEventQuery(done) == CUDA_SUCCESS, "the second stream waited for it");
    EXPECT(download<unsigned>(memory, n) == std::vector<unsigned>(n, 43), "the kernel ran between the notes");

    // Sets of every width, in a row and in a rectangle.
    CHECK(cuMemsetD16(memory, 0xabcd, 2 * n));
    EXPECT(download<unsigned>(memory, n) == std::vector<unsigned>(n, 0xabcdabcd), "16 bits");
    CHECK(cuMemsetD2D32(memory, 40, 0x01020304, 5, 50));
    std::vector<unsigned> found = download<unsigned>(memory, n);
    for (int i = 0; i < n; i++) {
        unsigned wanted = i < 500 && i % 10 < 5 ? 0x01020304 : 0xabcdabcd;
        EXPECT(found[i] == wanted, "word %d is %#x", i, found[i]);
    }
    EXPECT(cuMemsetD32(memory + 2, 1, 1) == CUDA_ERROR_INVALID_VALUE, "words lie at their multiples");
    EXPECT(cuMemsetD8(memory, 1, 4 * n + 1) == CUDA_ERROR_INVALID_VALUE, "beyond the end");

    // What a pointer is.
    CUdeviceptr start;
    size_t bytes;
    CHECK(cuMemGetAddressRange(&start, &bytes, memory + 123));
    EXPECT(start == memory && bytes == n * sizeof(unsigned), "%zu bytes", bytes);
    CUcontext holder = nullptr;
    CHECK(cuPointerGetAttribute(&holder, CU_POINTER_ATTRIBUTE_CONTEXT, memory));
    EXPECT(holder == context, "the memory is the context's");
    void *locked;
    CHECK(cuMemHostAlloc(&locked, 4096, CU_MEMHOSTALLOC_PORTABLE));
    unsigned kind = 0;
    CHECK(cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, reinterpret_cast<CUdeviceptr>(locked)));
    EXPECT(kind == CU_MEMORYTYPE_HOST, "kind %u", kind);
    EXPECT(cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, reinterpret_cast<CUdeviceptr>(&kind)) == CUDA_ERROR_INVALID_VALUE, "a variable of the program");
    int ordinal = 99;
    CUpointer_attribute asked[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
    void *answers[] = {&kind, &ordinal};
    CHECK(cuPointerGetAttributes(2, asked, answers, reinterpret_cast<CUdeviceptr>(&kind)));
    EXPECT(kind == 0 && ordinal == -2, "kind %u, device %d", kind, ordinal);

    // Memory in stream order, from the device's pool.
    CUdeviceptr pooled;
    CHECK(cuMemAllocAsync(&pooled, 1000, first));
    CHECK(cuMemsetD8Async(pooled, 7, 1000, first));
    std::vector<char> sevens(1000);
    CHECK(cuMemcpyDtoHAsync(sevens.data(), pooled, 1000, first));
    CHECK(cuMemFreeAsync(pooled, first));
    CHECK(cuStreamSynchronize(first));
    EXPECT(sevens == std::vector<char>(1000, 7), "memory of the pool");

    CHECK(cuMemFreeHost(locked));
    CHECK(cuMemFree(memory));
    CHECK(cuStreamDestroy(first));
    CHECK(cuStreamDestroy(second));
    CHECK(cuEventDestroy(done));
    return passed("callbacks");
}
