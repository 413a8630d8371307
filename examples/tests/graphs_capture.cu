// Calls in a captured stream become a graph: a fork and a join over two streams, a host function, memory of the graph
// and a graph inside; run many times, updated from a second capture. And what a capture forbids spoils it.

#include "test.h"

__global__ void step(unsigned *values, int n, unsigned factor, unsigned add)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) values[i] = values[i] * factor + add;
}

__global__ void merge(unsigned *to, const unsigned *a, const unsigned *b, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = a[i] ^ (b[i] << 1);
}

static int calls;
static void called(void *by) { calls += *static_cast<int *>(by); }

static const int n = 3000;
static const size_t bytes = n * sizeof(unsigned);

// Uploads, forks into `side`, works on both halves, joins, and brings the result back.
static cudaGraph_t captured(cudaStream_t stream, cudaStream_t side, unsigned *a, unsigned *b, const unsigned *source,
                            unsigned *results, int *by, unsigned factor)
{
    cudaEvent_t fork, join;
    CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    CHECK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    const int blocks = (n + 127) / 128;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    CHECK(cudaMemcpyAsync(a, source, bytes, cudaMemcpyHostToDevice, stream));
    CHECK(cudaEventRecord(fork, stream));
    CHECK(cudaStreamWaitEvent(side, fork, 0));
    CHECK(cudaMemsetAsync(b, 1, bytes, side));
    step<<<blocks, 128, 0, side>>>(b, n, 3, 2);
    step<<<blocks, 128, 0, side>>>(b, n, factor, 1);
    CHECK(cudaLaunchHostFunc(side, called, by));
    step<<<blocks, 128, 0, stream>>>(a, n, 5, 4);
    CHECK(cudaEventRecord(join, side));
    CHECK(cudaStreamWaitEvent(stream, join, 0));
    unsigned *c = nullptr;
    CHECK(cudaMallocAsync(&c, bytes, stream));
    merge<<<blocks, 128, 0, stream>>>(c, a, b, n);
    CHECK(cudaMemcpyAsync(results, c, bytes, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaFreeAsync(c, stream));
    cudaStreamCaptureStatus status;
    CHECK(cudaStreamIsCapturing(side, &status));
    EXPECT(status == cudaStreamCaptureStatusActive, "%d: the side stream belongs to it", status);
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaStreamIsCapturing(side, &status));
    EXPECT(status == cudaStreamCaptureStatusNone, "%d: over", status);
    CHECK(cudaEventDestroy(fork));
    CHECK(cudaEventDestroy(join));
    return graph;
}

static void expect(const unsigned *source, const unsigned *results, unsigned factor, const char *when)
{
    for (int i = 0; i < n; i++) {
        const unsigned a = source[i] * 5 + 4, b = (0x01010101u * 3 + 2) * factor + 1, value = a ^ (b << 1);
        EXPECT(results[i] == value, "%s: value %d is %u, not %u", when, i, results[i], value);
    }
}

int main()
{
    std::vector<unsigned> source(n), results(n, 0xeeeeeeee);
    for (int i = 0; i < n; i++) source[i] = 13u * i;
    unsigned *a = poisoned<unsigned>(n), *b = poisoned<unsigned>(n);
    cudaStream_t stream, side, third;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
    CHECK(cudaStreamCreateWithFlags(&third, cudaStreamNonBlocking));
    int by = 1;

    cudaGraph_t graph = captured(stream, side, a, b, source.data(), results.data(), &by, 7);
    CHECK(cudaDeviceSynchronize());
    EXPECT(calls == 0 && results[1] == 0xeeeeeeee, "nothing runs while it is captured");
    size_t nodes = 0;
    CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
    EXPECT(nodes == 10, "%zu nodes", nodes);

    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (int round = 0; round < 200; round++) {
        // Pageable memory is read when the graph is launched.
        source[round] += round;
        CHECK(cudaGraphLaunch(exec, stream));
    }
    CHECK(cudaStreamSynchronize(stream));
    expect(source.data(), results.data(), 7, "launched often");
    EXPECT(calls == 200, "%d calls of the host function", calls);

    // The same shape with another factor and another source, without memory of its own, updates an executable graph.
    unsigned *device = poisoned<unsigned>(n);
    CHECK(cudaMemset(device, 0, bytes));
    cudaGraph_t graphs[2];
    for (int k = 0; k < 2; k++) {
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        CHECK(cudaMemcpyAsync(device, source.data() + k, bytes - 4, cudaMemcpyHostToDevice, stream));
        step<<<(n + 127) / 128, 128, 0, stream>>>(device, n, 2 + k, 10 * k);
        CHECK(cudaStreamEndCapture(stream, &graphs[k]));
    }
    cudaGraphExec_t small;
    cudaGraphExecUpdateResultInfo info = {};
    CHECK(cudaGraphInstantiate(&small, graphs[0], 0));
    CHECK(cudaGraphExecUpdate(small, graphs[1], &info));
    CHECK(cudaGraphLaunch(small, side));
    CHECK(cudaStreamSynchronize(side));
    std::vector<unsigned> updated = download(device, n);
    for (int i = 0; i < n - 1; i++)
        EXPECT(updated[i] == source[i + 1] * 3 + 10, "value %d is %u, not %u", i, updated[i], source[i + 1] * 3 + 10);
    EXPECT(cudaGraphExecUpdate(small, graph, &info) == cudaErrorGraphExecUpdateFailure, "another shape");
    cudaGetLastError();

    // A launch in a captured stream becomes a graph inside; relaxed captures allow cudaMalloc.
    CHECK(cudaStreamBeginCapture(third, cudaStreamCaptureModeRelaxed));
    CHECK(cudaGraphLaunch(small, third));
    step<<<(n + 127) / 128, 128, 0, third>>>(device, n, 2, 1);
    void *allocated = nullptr;
    CHECK(cudaMalloc(&allocated, 64));
    cudaGraph_t outer;
    CHECK(cudaStreamEndCapture(third, &outer));
    cudaGraphExec_t whole;
    CHECK(cudaGraphInstantiate(&whole, outer, 0));
    CHECK(cudaGraphLaunch(whole, third));
    CHECK(cudaStreamSynchronize(third));
    updated = download(device, n);
    for (int i = 0; i < n - 1; i++)
        EXPECT(updated[i] == (source[i + 1] * 3 + 10) * 2 + 1, "inside: value %d is %u", i, updated[i]);

    // A capture that goes on in a graph, asked where it is and told to go on elsewhere; rectangles, and an event that
    // is seen outside.
    cudaGraph_t grown, asked;
    cudaGraphNode_t first;
    const cudaGraphNode_t *tail = nullptr;
    unsigned long long id = 0;
    size_t tails = 7;
    cudaStreamCaptureStatus status;
    cudaEvent_t outside;
    CHECK(cudaEventCreateWithFlags(&outside, cudaEventDisableTiming));
    std::memset(results.data(), 0xee, bytes);
    CHECK(cudaGraphCreate(&grown, 0));
    CHECK(cudaGraphAddMemcpyNode1D(&first, grown, nullptr, 0, a, source.data(), bytes, cudaMemcpyHostToDevice));
    CHECK(cudaStreamBeginCaptureToGraph(stream, grown, &first, nullptr, 1, cudaStreamCaptureModeThreadLocal));
    step<<<(n + 127) / 128, 128, 0, stream>>>(a, n, 2, 3);
#if CUDART_VERSION >= 13000
    const cudaGraphEdgeData *edges = nullptr;
    CHECK(cudaStreamGetCaptureInfo(stream, &status, &id, &asked, &tail, &edges, &tails));
    EXPECT(edges != nullptr && edges[0].type == cudaGraphDependencyTypeDefault, "a plain edge");
#else
    CHECK(cudaStreamGetCaptureInfo(stream, &status, &id, &asked, &tail, &tails));
#endif
    EXPECT(status == cudaStreamCaptureStatusActive && asked == grown && tails == 1 && id != 0, "%d, %zu", status, tails);
    cudaGraphNode_t kernel = tail[0], empty;
    CHECK(cudaGraphAddEmptyNode(&empty, grown, &kernel, 1));
#if CUDART_VERSION >= 13000
    CHECK(cudaStreamUpdateCaptureDependencies(stream, &empty, nullptr, 1, cudaStreamSetCaptureDependencies));
#else
    CHECK(cudaStreamUpdateCaptureDependencies(stream, &empty, 1, cudaStreamSetCaptureDependencies));
#endif
    CHECK(cudaMemcpy2DAsync(results.data(), 40, a, 40, 20, n / 10, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaEventRecordWithFlags(outside, stream, cudaEventRecordExternal));
    CHECK(cudaStreamEndCapture(stream, &asked));
    CHECK(cudaGraphGetNodes(grown, nullptr, &nodes));
    EXPECT(asked == grown && nodes == 5, "%zu nodes", nodes);
    cudaGraphExec_t of_grown;
    CHECK(cudaGraphInstantiate(&of_grown, grown, 0));
    CHECK(cudaGraphLaunch(of_grown, side));
    CHECK(cudaEventSynchronize(outside));
    for (int i = 0; i < n; i++) {
        const unsigned value = i % 10 < 5 ? source[i] * 2 + 3 : 0xeeeeeeee;
        EXPECT(results[i] == value, "rectangle: value %d is %u, not %u", i, results[i], value);
    }
    CHECK(cudaGraphExecDestroy(of_grown));
    CHECK(cudaGraphDestroy(grown));
    CHECK(cudaEventDestroy(outside));

    // What a capture forbids spoils it; its end says so and leaves no graph.
    cudaGraph_t none = graph;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    EXPECT(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported, "waiting for a captured stream");
    EXPECT(cudaMemsetAsync(a, 0, 4, stream) == cudaErrorStreamCaptureInvalidated, "nothing is added any more");
    EXPECT(cudaStreamEndCapture(stream, &none) == cudaErrorStreamCaptureInvalidated && none == nullptr, "spoilt");

    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    void *never = nullptr;
    EXPECT(cudaMalloc(&never, 64) == cudaErrorStreamCaptureUnsupported, "global captures forbid cudaMalloc");
    EXPECT(cudaStreamEndCapture(stream, &none) == cudaErrorStreamCaptureInvalidated, "spoilt");

    cudaStream_t blocking;
    CHECK(cudaStreamCreate(&blocking));
    CHECK(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeRelaxed));
    step<<<1, 32>>>(a, 32, 1, 0);
    EXPECT(cudaGetLastError() == cudaErrorStreamCaptureImplicit, "the legacy stream would wait for the capture");
    EXPECT(cudaStreamEndCapture(blocking, &none) == cudaErrorStreamCaptureInvalidated, "spoilt");

    cudaEvent_t event;
    CHECK(cudaEventCreate(&event));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    CHECK(cudaEventRecord(event, stream));
    CHECK(cudaStreamWaitEvent(side, event, 0));
    step<<<1, 32, 0, side>>>(a, 32, 1, 0);
    EXPECT(cudaEventQuery(event) == cudaErrorCapturedEvent, "nothing was recorded yet");
    EXPECT(cudaStreamEndCapture(stream, &none) == cudaErrorStreamCaptureInvalidated, "spoilt");
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    CHECK(cudaEventRecord(event, stream));
    CHECK(cudaStreamWaitEvent(side, event, 0));
    step<<<1, 32, 0, side>>>(a, 32, 1, 0);
    EXPECT(cudaStreamEndCapture(stream, &none) == cudaErrorStreamCaptureUnjoined, "the side stream never came back");
    EXPECT(cudaStreamEndCapture(stream, &none) == cudaErrorIllegalState, "no capture");
    EXPECT(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed) == cudaErrorStreamCaptureUnsupported, "legacy");
    cudaGetLastError();

    // After all that, the streams do what they are told.
    CHECK(cudaMemsetAsync(a, 0, bytes, stream));
    step<<<(n + 127) / 128, 128, 0, stream>>>(a, n, 1, 42);
    CHECK(cudaEventRecord(event, stream));
    CHECK(cudaEventSynchronize(event));
    for (unsigned value : download(a, n)) EXPECT(value == 42, "%u", value);
    CHECK(cudaGraphLaunch(exec, side));
    CHECK(cudaDeviceSynchronize());
    expect(source.data(), results.data(), 7, "launched again");

    for (cudaGraphExec_t done : {exec, small, whole}) CHECK(cudaGraphExecDestroy(done));
    for (cudaGraph_t done : {graph, graphs[0], graphs[1], outer}) CHECK(cudaGraphDestroy(done));
    for (cudaStream_t done : {stream, side, third, blocking}) CHECK(cudaStreamDestroy(done));
    CHECK(cudaEventDestroy(event));
    for (void *done : {static_cast<void *>(a), static_cast<void *>(b), static_cast<void *>(device), allocated}) CHECK(cudaFree(done));
    return passed("graphs_capture");
}
