// Graphs of the driver API: built node by node, captured, changed and launched again.

#include "driver.h"

static const int n = 3000;

static std::vector<unsigned> result_of(CUdeviceptr memory)
{
    return download<unsigned>(memory, n);
}

static void host_step(void *data)
{
    ++*static_cast<int *>(data);
}

int main(int, char **argv)
{
    CUcontext context;
    CUmodule module = begin(argv[0], &context);
    CUfunction step = function(module, "multiply_add");
    std::vector<unsigned> values(n);
    for (int i = 0; i < n; i++) values[i] = 11u * i + 5;
    CUdeviceptr memory = poisoned<unsigned>(n);
    std::vector<unsigned> back(n, 0xeeeeeeee);
    int count = n, runs = 0;
    unsigned factor = 3, addend = 4;
    void *parameters[] = {&memory, &count, &factor, &addend};

    // Upload, two launches with other values, a host function, download.
    CUgraph graph;
    CHECK(cuGraphCreate(&graph, 0));
    CUDA_MEMCPY3D upload_box = {}, download_box = {};
    upload_box.srcMemoryType = CU_MEMORYTYPE_HOST;
    upload_box.srcHost = values.data();
    upload_box.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    upload_box.dstDevice = memory;
    upload_box.WidthInBytes = n * sizeof(unsigned);
    upload_box.Height = upload_box.Depth = 1;
    download_box = upload_box;
    download_box.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    download_box.srcDevice = memory;
    download_box.dstMemoryType = CU_MEMORYTYPE_HOST;
    download_box.dstHost = back.data();
    CUgraphNode up, first, second, host, down;
    CHECK(cuGraphAddMemcpyNode(&up, graph, nullptr, 0, &upload_box, context));
    CUDA_KERNEL_NODE_PARAMS kernel = {};
    kernel.func = step;
    kernel.gridDimX = (n + 127) / 128;
    kernel.gridDimY = kernel.gridDimZ = kernel.blockDimY = kernel.blockDimZ = 1;
    kernel.blockDimX = 128;
    kernel.kernelParams = parameters;
    CHECK(cuGraphAddKernelNode(&first, graph, &up, 1, &kernel));
    factor = 7, addend = 1;
    CHECK(cuGraphAddKernelNode(&second, graph, &first, 1, &kernel));
    CUDA_HOST_NODE_PARAMS host_parameters = {};
    host_parameters.fn = host_step;
    host_parameters.userData = &runs;
    CHECK(cuGraphAddHostNode(&host, graph, &second, 1, &host_parameters));
    CUgraphNodeParams any = {};
    any.type = CU_GRAPH_NODE_TYPE_MEMCPY;
    any.memcpy.copyCtx = context;
    any.memcpy.copyParams = download_box;
#if CUDA_VERSION >= 13000
    CHECK(cuGraphAddNode(&down, graph, &host, nullptr, 1, &any));
#else
    CHECK(cuGraphAddNode(&down, graph, &host, 1, &any));
#endif

    size_t nodes = 0;
    CHECK(cuGraphGetNodes(graph, nullptr, &nodes));
    EXPECT(nodes == 5, "%zu nodes", nodes);
    CUDA_MEMCPY3D shown;
    CHECK(cuGraphMemcpyNodeGetParams(down, &shown));
    EXPECT(shown.srcDevice == memory && shown.dstHost == back.data() && shown.WidthInBytes == n * sizeof(unsigned),
           "the copy node tells what it copies");
    CUDA_KERNEL_NODE_PARAMS of_second;
    CHECK(cuGraphKernelNodeGetParams(second, &of_second));
    EXPECT(of_second.func == step && *static_cast<unsigned *>(of_second.kernelParams[2]) == 7, "the node kept its values");

    CUgraphExec exec;
    CHECK(cuGraphInstantiate(&exec, graph, 0));
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int round = 1; round <= 3; round++) {
        for (int i = 0; i < n; i++) values[i] = 11u * i + round;
        CHECK(cuGraphLaunch(exec, stream));
        CHECK(cuStreamSynchronize(stream));
        for (int i = 0; i < n; i++)
            EXPECT(back[i] == (values[i] * 3 + 4) * 7 + 1, "round %d: value %d is %u", round, i, back[i]);
        EXPECT(runs == round, "the host function ran %d times", runs);
    }

    // Other values for one launch, another one switched off.
    factor = 5, addend = 6;
    CHECK(cuGraphExecKernelNodeSetParams(exec, first, &kernel));
    CHECK(cuGraphNodeSetEnabled(exec, second, 0));
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    for (int i = 0; i < n; i++) EXPECT(back[i] == values[i] * 5 + 6, "changed: value %d is %u", i, back[i]);

    // A captured stream as a graph.
    CUgraph captured;
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemsetD32Async(memory, 9, n, stream));
    CHECK(cuLaunchKernel(step, (n + 127) / 128, 1, 1, 128, 1, 1, 0, stream, parameters, nullptr));
    CUstreamCaptureStatus status;
    CHECK(cuStreamIsCapturing(stream, &status));
    EXPECT(status == CU_STREAM_CAPTURE_STATUS_ACTIVE, "status %d", status);
    CHECK(cuStreamEndCapture(stream, &captured));
    CUgraphExec of_captured;
    CHECK(cuGraphInstantiate(&of_captured, captured, 0));
    CHECK(cuMemsetD8(memory, 0xff, n * sizeof(unsigned)));
    CHECK(cuGraphLaunch(of_captured, stream));
    CHECK(cuStreamSynchronize(stream));
    EXPECT(result_of(memory) == std::vector<unsigned>(n, 9 * 5 + 6), "the captured graph");

    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphExecDestroy(of_captured));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuGraphDestroy(captured));
    CHECK(cuStreamDestroy(stream));
    CHECK(cuMemFree(memory));
    return passed("graphs");
}
