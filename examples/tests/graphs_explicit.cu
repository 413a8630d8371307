// Graphs made node by node: a diamond of copies, sets, kernels and a host function, run many times, changed in its
// executable form and by update, cloned, put into another graph, and refused where it has a circle.

#include "test.h"

__device__ int bias[4];

__global__ void scale(unsigned *values, int n, unsigned factor)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) values[i] *= factor;
}

__global__ void add(unsigned *to, const unsigned *a, const unsigned *b, int n, unsigned more)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = a[i] + b[i] + more + bias[i % 4];
}

struct Seen { const unsigned *results; unsigned long long sum; int calls; int n; };

static void look(void *data)
{
    Seen *seen = static_cast<Seen *>(data);
    seen->sum = 0;
    for (int i = 0; i < seen->n; i++) seen->sum += seen->results[i];
    seen->calls++;
}

static void count_down(void *data) { --*static_cast<volatile int *>(data); }

static cudaKernelNodeParams kernel(void *function, int n, void **arguments)
{
    cudaKernelNodeParams parameters = {};
    parameters.func = function;
    parameters.gridDim = dim3((n + 127) / 128);
    parameters.blockDim = dim3(128);
    parameters.kernelParams = arguments;
    return parameters;
}

int main()
{
    int n = 1000;
    const size_t bytes = n * sizeof(unsigned);
    std::vector<unsigned> source(n), results(n, 0xeeeeeeee);
    for (int i = 0; i < n; i++) source[i] = 7u * i + 1;
    unsigned *a = poisoned<unsigned>(n), *b = poisoned<unsigned>(n), *c = poisoned<unsigned>(n);
    const int biases[4] = {1, 20, 300, 4000};
    Seen seen = {results.data(), 0, 0, n};

    // (copy to a -> scale a), (set b -> scale b), then add both into c, copy c to the host, and look at it there.
    cudaGraph_t graph;
    CHECK(cudaGraphCreate(&graph, 0));
    cudaGraphNode_t upload, scale_a, set, scale_b, symbol, sum, back, host;
    CHECK(cudaGraphAddMemcpyNode1D(&upload, graph, nullptr, 0, a, source.data(), bytes, cudaMemcpyHostToDevice));
    unsigned factor = 3;
    void *of_a[] = {&a, &n, &factor};
    cudaKernelNodeParams parameters = kernel(reinterpret_cast<void *>(scale), n, of_a);
    CHECK(cudaGraphAddKernelNode(&scale_a, graph, &upload, 1, &parameters));
    cudaMemsetParams fill = {};
    fill.dst = b, fill.value = 5, fill.elementSize = 4, fill.width = n, fill.height = 1;
    CHECK(cudaGraphAddMemsetNode(&set, graph, nullptr, 0, &fill));
    factor = 11; // The first node has its own copy of the value.
    void *of_b[] = {&b, &n, &factor};
    parameters = kernel(reinterpret_cast<void *>(scale), n, of_b);
    CHECK(cudaGraphAddKernelNode(&scale_b, graph, &set, 1, &parameters));
    CHECK(cudaGraphAddMemcpyNodeToSymbol(&symbol, graph, nullptr, 0, bias, biases, sizeof(biases), 0, cudaMemcpyHostToDevice));
    unsigned more = 1000;
    void *of_sum[] = {&c, &a, &b, &n, &more};
    parameters = kernel(reinterpret_cast<void *>(add), n, of_sum);
    CHECK(cudaGraphAddKernelNode(&sum, graph, nullptr, 0, &parameters));
    const cudaGraphNode_t before[] = {scale_a, scale_b, symbol}, behind[] = {sum, sum, sum};
#if CUDART_VERSION >= 13000
    CHECK(cudaGraphAddDependencies(graph, before, behind, nullptr, 3));
#else
    CHECK(cudaGraphAddDependencies(graph, before, behind, 3));
#endif
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(c, bytes, n, 1);
    copy.dstPtr = make_cudaPitchedPtr(results.data(), bytes, n, 1);
    copy.extent = make_cudaExtent(bytes, 1, 1);
    copy.kind = cudaMemcpyDeviceToHost;
    CHECK(cudaGraphAddMemcpyNode(&back, graph, &sum, 1, &copy));
    const cudaHostNodeParams call = {look, &seen};
    CHECK(cudaGraphAddHostNode(&host, graph, &back, 1, &call));

    size_t nodes = 0, roots = 0;
    CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
    CHECK(cudaGraphGetRootNodes(graph, nullptr, &roots));
    EXPECT(nodes == 8 && roots == 3, "%zu nodes, %zu roots", nodes, roots);
    cudaKernelNodeParams found = {};
    CHECK(cudaGraphKernelNodeGetParams(scale_a, &found));
    EXPECT(*static_cast<unsigned *>(found.kernelParams[2]) == 3 && found.gridDim.x == 8, "the first factor");

    // Edges, both ways and as a list; a node of any kind.
    cudaGraphNode_t neighbours[5] = {}, from[9], to[9];
    size_t count = 5, edges = 9;
#if CUDART_VERSION >= 13000
    cudaGraphEdgeData data[9];
    std::memset(data, 0xee, sizeof(data));
    CHECK(cudaGraphNodeGetDependencies(sum, neighbours, data, &count));
    EXPECT(count == 3 && neighbours[1] == scale_b && neighbours[3] == nullptr, "%zu before the sum", count);
    EXPECT(data[2].type == cudaGraphDependencyTypeDefault && data[2].from_port == 0, "a plain edge");
    CHECK(cudaGraphNodeGetDependentNodes(back, neighbours, nullptr, &count));
    CHECK(cudaGraphGetEdges(graph, from, to, data, &edges));
#else
    CHECK(cudaGraphNodeGetDependencies(sum, neighbours, &count));
    EXPECT(count == 3 && neighbours[1] == scale_b && neighbours[3] == nullptr, "%zu before the sum", count);
    CHECK(cudaGraphNodeGetDependentNodes(back, neighbours, &count));
    CHECK(cudaGraphGetEdges(graph, from, to, &edges));
#endif
    EXPECT(count == 1 && neighbours[0] == host, "%zu behind the copy", count);
    EXPECT(edges == 7 && from[0] == upload && to[0] == scale_a && from[8] == nullptr, "%zu edges", edges);
    cudaGraphNodeType type;
    CHECK(cudaGraphNodeGetType(host, &type));
    EXPECT(type == cudaGraphNodeTypeHost, "type %d", type);
    cudaGraphNodeParams any = {};
    any.type = cudaGraphNodeTypeMemset;
    any.memset.dst = c, any.memset.elementSize = 1, any.memset.width = bytes, any.memset.height = 1;
    cudaGraphNode_t clear;
#if CUDART_VERSION >= 13000
    CHECK(cudaGraphAddNode(&clear, graph, nullptr, nullptr, 0, &any));
    CHECK(cudaGraphAddDependencies(graph, &clear, &sum, nullptr, 1));
    CHECK(cudaGraphRemoveDependencies(graph, &clear, &sum, nullptr, 1));
#else
    CHECK(cudaGraphAddNode(&clear, graph, nullptr, 0, &any));
    CHECK(cudaGraphAddDependencies(graph, &clear, &sum, 1));
    CHECK(cudaGraphRemoveDependencies(graph, &clear, &sum, 1));
#endif
    cudaMemsetParams cleared = {};
    CHECK(cudaGraphMemsetNodeGetParams(clear, &cleared));
    EXPECT(cleared.dst == c && cleared.width == bytes, "%p", cleared.dst);
    CHECK(cudaGraphDestroyNode(clear));
    cudaStream_t stream, other;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(cudaGraphUpload(exec, stream));
    auto expect = [&](unsigned first, unsigned second, const char *when) {
        unsigned long long total = 0;
        for (int i = 0; i < n; i++) {
            const unsigned value = source[i] * first + 5 * second + more + biases[i % 4];
            EXPECT(results[i] == value, "%s: value %d is %u, not %u", when, i, results[i], value);
            total += value;
        }
        EXPECT(seen.sum == total, "%s: the host function saw %llu, not %llu", when, seen.sum, total);
    };
    for (int round = 0; round < 50; round++) {
        // Pageable memory is read when the graph is launched.
        for (int i = 0; i < n; i++) source[i] = 7u * i + round;
        CHECK(cudaGraphLaunch(exec, round % 2 ? other : stream));
        if (round % 7 == 0) {
            CHECK(cudaDeviceSynchronize());
            expect(3, 11, "relaunched");
        }
    }
    CHECK(cudaDeviceSynchronize());
    expect(3, 11, "launched often");
    EXPECT(seen.calls == 50, "%d calls", seen.calls);

    // The executable graph is changed, the graph is not.
    factor = 4;
    parameters = kernel(reinterpret_cast<void *>(scale), n, of_a);
    CHECK(cudaGraphExecKernelNodeSetParams(exec, scale_a, &parameters));
    CHECK(cudaGraphNodeSetEnabled(exec, scale_b, 0));
    unsigned enabled = 7;
    CHECK(cudaGraphNodeGetEnabled(exec, scale_b, &enabled));
    EXPECT(enabled == 0, "%u", enabled);
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    expect(4, 1, "a kernel changed, another disabled");
    CHECK(cudaGraphNodeSetEnabled(exec, scale_b, 1));

    // A clone, changed, updates it; one with a node more does not.
    cudaGraph_t clone;
    cudaGraphNode_t in_clone, extra;
    CHECK(cudaGraphClone(&clone, graph));
    CHECK(cudaGraphNodeFindInClone(&in_clone, scale_b, clone));
    factor = 9;
    parameters = kernel(reinterpret_cast<void *>(scale), n, of_b);
    CHECK(cudaGraphKernelNodeSetParams(in_clone, &parameters));
    cudaGraphExecUpdateResultInfo info = {};
    CHECK(cudaGraphExecUpdate(exec, clone, &info));
    EXPECT(info.result == cudaGraphExecUpdateSuccess, "%d", info.result);
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    expect(3, 9, "updated from a clone");
    CHECK(cudaGraphAddEmptyNode(&extra, clone, nullptr, 0));
    EXPECT(cudaGraphExecUpdate(exec, clone, &info) == cudaErrorGraphExecUpdateFailure, "a node more");
    EXPECT(info.result == cudaGraphExecUpdateErrorTopologyChanged, "%d", info.result);
    cudaGetLastError();

    // A graph inside another, with its events around it.
    cudaGraph_t outer, inner;
    cudaGraphNode_t start, child, end;
    cudaEvent_t began, ended;
    CHECK(cudaEventCreate(&began));
    CHECK(cudaEventCreate(&ended));
    CHECK(cudaGraphCreate(&outer, 0));
    CHECK(cudaGraphAddEventRecordNode(&start, outer, nullptr, 0, began));
    CHECK(cudaGraphAddChildGraphNode(&child, outer, &start, 1, graph));
    CHECK(cudaGraphAddEventRecordNode(&end, outer, &child, 1, ended));
    CHECK(cudaGraphChildGraphNodeGetGraph(child, &inner));
    EXPECT(inner != graph, "a child graph is a clone");
    cudaGraphExec_t whole;
    CHECK(cudaGraphInstantiate(&whole, outer, 0));
    seen.sum = 0;
    std::memset(results.data(), 0xee, bytes);
    CHECK(cudaGraphLaunch(whole, stream));
    CHECK(cudaEventSynchronize(ended));
    expect(3, 11, "inside another graph");
    float milliseconds = -1;
    CHECK(cudaEventElapsedTime(&milliseconds, began, ended));
    EXPECT(milliseconds >= 0, "%f ms", milliseconds);

    // Memory of a graph has one address in every launch.
    cudaGraph_t memory;
    cudaGraphNode_t allocate, zero, fetch, release;
    CHECK(cudaGraphCreate(&memory, 0));
    cudaMemAllocNodeParams allocation = {};
    allocation.poolProps.allocType = cudaMemAllocationTypePinned;
    allocation.poolProps.location.type = cudaMemLocationTypeDevice;
    allocation.bytesize = bytes;
    CHECK(cudaGraphAddMemAllocNode(&allocate, memory, nullptr, 0, &allocation));
    EXPECT(allocation.dptr != nullptr, "an address");
    fill.dst = allocation.dptr, fill.value = 0x0102, fill.elementSize = 2, fill.width = 2 * n;
    CHECK(cudaGraphAddMemsetNode(&zero, memory, &allocate, 1, &fill));
    CHECK(cudaGraphAddMemcpyNode1D(&fetch, memory, &zero, 1, results.data(), allocation.dptr, bytes, cudaMemcpyDeviceToHost));
    CHECK(cudaGraphAddMemFreeNode(&release, memory, &fetch, 1, allocation.dptr));
    cudaGraphExec_t of_memory;
    CHECK(cudaGraphInstantiate(&of_memory, memory, 0));
    for (int round = 0; round < 3; round++) CHECK(cudaGraphLaunch(of_memory, stream));
    CHECK(cudaStreamSynchronize(stream));
    for (int i = 0; i < n; i++) EXPECT(results[i] == 0x01020102, "value %d is %x", i, results[i]);

    // A circle cannot be put in order; an object tied to a graph ends with it and with what was made of it.
    cudaGraph_t circle;
    cudaGraphNode_t one, two;
    cudaGraphExec_t never;
    CHECK(cudaGraphCreate(&circle, 0));
    CHECK(cudaGraphAddEmptyNode(&one, circle, nullptr, 0));
    CHECK(cudaGraphAddEmptyNode(&two, circle, &one, 1));
#if CUDART_VERSION >= 13000
    CHECK(cudaGraphAddDependencies(circle, &two, &one, nullptr, 1));
#else
    CHECK(cudaGraphAddDependencies(circle, &two, &one, 1));
#endif
    EXPECT(cudaGraphInstantiate(&never, circle, 0) == cudaErrorInvalidValue, "a circle");
    cudaGetLastError();
    CHECK(cudaGraphDestroyNode(two));
    volatile int alive = 1;
    cudaUserObject_t object;
    CHECK(cudaUserObjectCreate(&object, const_cast<int *>(&alive), count_down, 1, cudaUserObjectNoDestructorSync));
    CHECK(cudaGraphRetainUserObject(circle, object, 1, cudaGraphUserObjectMove));
    CHECK(cudaGraphInstantiate(&never, circle, 0));
    CHECK(cudaGraphDestroy(circle));
    EXPECT(alive == 1, "the executable graph refers to it");
    CHECK(cudaGraphExecDestroy(never));
    for (long patience = 0; alive && patience < 2000000000; patience++) {} // It may end on another thread.
    EXPECT(alive == 0, "%d: nothing refers to it", alive);

    for (cudaGraphExec_t done : {exec, whole, of_memory}) CHECK(cudaGraphExecDestroy(done));
    for (cudaGraph_t done : {graph, clone, outer, memory}) CHECK(cudaGraphDestroy(done));
    EXPECT(cudaGraphDestroy(graph) == cudaErrorInvalidValue, "it is gone");
    for (cudaStream_t done : {stream, other}) CHECK(cudaStreamDestroy(done));
    for (unsigned *done : {a, b, c}) CHECK(cudaFree(done));
    return passed("graphs_explicit");
}
