// Streams write values to memory and wait for values there: of other streams, of kernels, of copies; alone, in a batch,
// as a node of a graph; and a context can go while a stream waits in vain.

#include <thread>

#include "driver.h"

static CUfunction step;

// values[i] = values[i] * factor + addend
static void launch(CUstream stream, CUdeviceptr values, int count, unsigned factor, unsigned addend)
{
    void *parameters[] = {&values, &count, &factor, &addend};
    CHECK(cuLaunchKernel(step, (count + 63) / 64, 1, 1, 64, 1, 1, 0, stream, parameters, nullptr));
}

template <typename T> static T value_at(CUdeviceptr address, CUstream stream)
{
    T value;
    CHECK(cuMemcpyDtoHAsync(&value, address, sizeof(value), stream));
    CHECK(cuStreamSynchronize(stream));
    return value;
}

int main(int, char **argv)
{
    CUcontext context;
    CUmodule module = begin(argv[0], &context);
    step = function(module, "multiply_add");
    int values = 0, whole = 0, nor = 0;
    CHECK(cuDeviceGetAttribute(&values, CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1, 0));
    CHECK(cuDeviceGetAttribute(&whole, CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, 0));
    CHECK(cuDeviceGetAttribute(&nor, CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR, 0));
    EXPECT(values == 1 && whole == 1 && nor == 1, "attributes %d, %d, %d", values, whole, nor);
    CUstream waiting, writing;
    CHECK(cuStreamCreate(&waiting, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&writing, CU_STREAM_NON_BLOCKING));
    CUdeviceptr flags = 0;
    CHECK(cuMemAlloc(&flags, 4096));
    CHECK(cuMemsetD8(flags, 0, 4096));
    CUdeviceptr result = flags + 1024;
    CHECK(cuMemsetD32(result, 1, 64));
    CHECK(cuCtxSynchronize());

    // What cannot be.
    EXPECT(cuStreamWaitValue32(waiting, flags + 2, 1, 0) == CUDA_ERROR_INVALID_VALUE, "not aligned");
    EXPECT(cuStreamWaitValue64(waiting, flags + 4, 1, 0) == CUDA_ERROR_INVALID_VALUE, "not aligned");
    EXPECT(cuStreamWaitValue32(waiting, flags, 1, 4) == CUDA_ERROR_INVALID_VALUE, "no condition");
    EXPECT(cuStreamBatchMemOp(waiting, 0, nullptr, 0) == CUDA_ERROR_INVALID_VALUE, "nothing to do");

    // A stream writes what another one waits for.
    CHECK(cuStreamWaitValue32(waiting, flags, 5, CU_STREAM_WAIT_VALUE_GEQ));
    launch(waiting, result, 64, 3, 4);
    CHECK(cuStreamWriteValue32(writing, flags, 4, CU_STREAM_WRITE_VALUE_DEFAULT));
    EXPECT(value_at<unsigned>(flags, writing) == 4, "the value is there");
    EXPECT(value_at<unsigned>(result, writing) == 1, "the kernel waits");
    EXPECT(cuStreamQuery(waiting) == CUDA_ERROR_NOT_READY, "the stream waits");
    CHECK(cuStreamWriteValue32(writing, flags, 5, CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER));
    CHECK(cuStreamSynchronize(waiting));
    EXPECT(value_at<unsigned>(result, writing) == 7, "3 * 1 + 4");

    // A kernel writes it: flags[1] becomes 0 * 1 + 6, of which bit 1 is asked for.
    CHECK(cuStreamWaitValue32(waiting, flags + 4, 2, CU_STREAM_WAIT_VALUE_AND));
    launch(waiting, result, 64, 2, 0);
    launch(writing, flags + 4, 1, 1, 6);
    CHECK(cuStreamSynchronize(waiting));
    EXPECT(value_at<unsigned>(result, writing) == 14, "2 * 7");

    // A copy writes it, both halves at once: equal counts, half of it does not.
    const unsigned long long pattern = 0x0000000700000009ull;
    CHECK(cuStreamWaitValue64(waiting, flags + 8, pattern, CU_STREAM_WAIT_VALUE_EQ));
    launch(waiting, result, 64, 1, 1);
    CHECK(cuStreamWriteValue64(writing, flags + 8, 9, 0));
    CHECK(cuStreamSynchronize(writing));
    EXPECT(cuStreamQuery(waiting) == CUDA_ERROR_NOT_READY, "the other half is missing");
    CHECK(cuMemcpyHtoDAsync(flags + 8, &pattern, sizeof(pattern), writing));
    CHECK(cuStreamSynchronize(waiting));
    EXPECT(value_at<unsigned>(result, writing) == 15, "14 + 1");

    // In a batch, in the order given; the last wait is met by what the batch itself has written.
    CUstreamBatchMemOpParams batch[4];
    std::memset(batch, 0, sizeof(batch));
    batch[0].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    batch[0].waitValue.address = flags + 16;
    batch[0].waitValue.value = 1;
    batch[0].waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
    batch[1].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
    batch[1].writeValue.address = flags + 24;
    batch[1].writeValue.value64 = 0xfffffffffffffff0ull;
    batch[2].memoryBarrier.operation = CU_STREAM_MEM_OP_BARRIER;
    batch[3].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_64;
    batch[3].waitValue.address = flags + 24;
    batch[3].waitValue.value64 = 0xfull ^ 4;
    batch[3].waitValue.flags = CU_STREAM_WAIT_VALUE_NOR;
    CHECK(cuStreamBatchMemOp(waiting, 4, batch, 0));
    launch(waiting, result, 64, 1, 1);
    EXPECT(value_at<unsigned long long>(flags + 24, writing) == 0, "behind the first wait");
    CHECK(cuStreamWriteValue32(writing, flags + 16, 1, 0));
    CHECK(cuStreamSynchronize(waiting));
    EXPECT(value_at<unsigned long long>(flags + 24, writing) == 0xfffffffffffffff0ull, "the batch's own");
    EXPECT(value_at<unsigned>(result, writing) == 16, "15 + 1");

    // As a node between two others, made and captured; a second launch finds the value there.
    CUgraph graph;
    CUgraphNode wait, write;
    CHECK(cuGraphCreate(&graph, 0));
    CUDA_BATCH_MEM_OP_NODE_PARAMS node = {context, 1, batch, 0};
    batch[0].waitValue.address = flags + 32;
    CHECK(cuGraphAddBatchMemOpNode(&wait, graph, nullptr, 0, &node));
    CUstreamBatchMemOpParams after = batch[1];
    after.writeValue.address = flags + 40;
    node.paramArray = &after;
    CHECK(cuGraphAddBatchMemOpNode(&write, graph, &wait, 1, &node));
    CUDA_BATCH_MEM_OP_NODE_PARAMS known;
    CHECK(cuGraphBatchMemOpNodeGetParams(write, &known));
    EXPECT(known.count == 1 && known.paramArray->writeValue.address == flags + 40, "its parameters");
    CUgraphNodeType type;
    CHECK(cuGraphNodeGetType(write, &type));
    EXPECT(type == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, "type %d", type);
    CUgraphExec exec;
    CHECK(cuGraphInstantiate(&exec, graph, 0));
    CHECK(cuGraphLaunch(exec, waiting));
    EXPECT(value_at<unsigned long long>(flags + 40, writing) == 0, "behind the wait");
    CHECK(cuStreamWriteValue32(writing, flags + 32, 1, 0));
    CHECK(cuStreamSynchronize(waiting));
    EXPECT(value_at<unsigned long long>(flags + 40, writing) == 0xfffffffffffffff0ull, "behind the wait");
    after.writeValue.value64 = 77;
    CHECK(cuGraphExecBatchMemOpNodeSetParams(exec, write, &node));
    CHECK(cuGraphLaunch(exec, waiting));
    CHECK(cuStreamSynchronize(waiting));
    EXPECT(value_at<unsigned long long>(flags + 40, writing) == 77, "changed");
    CHECK(cuStreamBeginCapture(waiting, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuStreamWriteValue32(waiting, flags + 48, 123, 0));
    CUgraph captured;
    CHECK(cuStreamEndCapture(waiting, &captured));
    EXPECT(value_at<unsigned>(flags + 48, writing) == 0, "only captured");
    CUgraphExec replay;
    CHECK(cuGraphInstantiate(&replay, captured, 0));
    CHECK(cuGraphLaunch(replay, waiting));
    CHECK(cuStreamSynchronize(waiting));
    EXPECT(value_at<unsigned>(flags + 48, writing) == 123, "written by the graph");

    // Another thread of the program ends a wait while this one synchronizes.
    CHECK(cuStreamWaitValue32(waiting, flags + 56, 1, CU_STREAM_WAIT_VALUE_EQ));
    launch(waiting, result, 64, 1, 4);
    std::thread other([&] {
        CHECK(cuCtxSetCurrent(context));
        CHECK(cuStreamWriteValue32(writing, flags + 56, 1, 0));
    });
    CHECK(cuStreamSynchronize(waiting));
    other.join();
    EXPECT(value_at<unsigned>(result, writing) == 20, "16 + 4");

    // Page-locked memory of the program: it writes what a stream waits for, and waits for what a stream writes.
    void *locked = nullptr;
    CHECK(cuMemAllocHost(&locked, 4096));
    volatile unsigned *word = static_cast<volatile unsigned *>(locked);
    volatile unsigned long long *wide = static_cast<volatile unsigned long long *>(locked) + 8;
    word[0] = word[1] = 0;
    *wide = 0;
    CUdeviceptr shared = reinterpret_cast<CUdeviceptr>(locked);
    CHECK(cuStreamWaitValue32(waiting, shared, 3, CU_STREAM_WAIT_VALUE_GEQ));
    launch(waiting, result, 64, 2, 1);
    CHECK(cuStreamWriteValue32(waiting, shared + 4, 11, 0));
    CHECK(cuStreamWriteValue64(waiting, shared + 64, pattern, 0));
    word[0] = 2;
    EXPECT(value_at<unsigned>(result, writing) == 20, "the program has not written it yet");
    EXPECT(cuStreamQuery(waiting) == CUDA_ERROR_NOT_READY, "the stream waits");
    word[0] = 4;
    while (word[1] != 11) std::this_thread::yield();
    while (*wide != pattern) std::this_thread::yield();
    EXPECT(value_at<unsigned>(result, writing) == 41, "2 * 20 + 1, before the value was written");
    CHECK(cuStreamSynchronize(waiting));
    CHECK(cuMemFreeHost(locked));
    int unlocked[2] = {};
    EXPECT(cuStreamWriteValue32(writing, reinterpret_cast<CUdeviceptr>(unlocked), 1, 0) == CUDA_ERROR_NOT_SUPPORTED,
           "memory that is not page-locked");

    // A context whose stream waits in vain can be destroyed.
    CUcontext hopeless;
    CHECK(make_context(&hopeless, 0));
    CUdeviceptr never = 0;
    CHECK(cuMemAlloc(&never, 64));
    CHECK(cuMemsetD8(never, 0, 64));
    CHECK(cuCtxSynchronize());
    CUstream stuck;
    CHECK(cuStreamCreate(&stuck, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamWaitValue32(stuck, never, 1, CU_STREAM_WAIT_VALUE_EQ));
    EXPECT(cuStreamQuery(stuck) == CUDA_ERROR_NOT_READY, "nobody writes it");
    CHECK(cuCtxDestroy(hopeless));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuCtxSynchronize());
    return passed("stream_values");
}
