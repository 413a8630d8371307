// Conditional nodes: parts of a graph that run if, while or where a kernel says so, nested, captured, with values that
// are set anew with every launch, and the restrictions of such graphs.

#include "test.h"

__global__ void decide(cudaGraphConditionalHandle handle, const unsigned *value)
{
    if (threadIdx.x == 0) cudaGraphSetConditional(handle, *value);
}

__global__ void add(unsigned *to, unsigned more) { atomicAdd(to, more); }

// A step of a search for the number of steps that `number` needs to come to 1.
__global__ void collatz(cudaGraphConditionalHandle go_on, cudaGraphConditionalHandle is_odd, unsigned *number,
                        unsigned *steps)
{
    if (*number != 1) ++*steps;
    cudaGraphSetConditional(is_odd, *number % 2);
    cudaGraphSetConditional(go_on, *number != 1);
}

__global__ void triple(unsigned *number) { if (*number != 1) *number = 3 * *number + 1; }
__global__ void halve(unsigned *number) { *number /= 2; }

static cudaGraphNode_t kernel(cudaGraph_t graph, const cudaGraphNode_t *after, void *function, void **arguments)
{
    cudaKernelNodeParams parameters = {};
    parameters.func = function;
    parameters.gridDim = dim3(1), parameters.blockDim = dim3(1);
    parameters.kernelParams = arguments;
    cudaGraphNode_t node;
    CHECK(cudaGraphAddKernelNode(&node, graph, after, after ? 1 : 0, &parameters));
    return node;
}

static cudaGraphNode_t adding(cudaGraph_t graph, unsigned *to, unsigned more)
{
    void *arguments[] = {&to, &more};
    return kernel(graph, nullptr, reinterpret_cast<void *>(add), arguments);
}

static cudaError_t conditional(cudaGraphNode_t *node, cudaGraph_t graph, const cudaGraphNode_t *after,
                               cudaGraphConditionalHandle handle, cudaGraphConditionalNodeType type, unsigned size,
                               cudaGraph_t **bodies)
{
    cudaGraphNodeParams parameters = {};
    parameters.type = cudaGraphNodeTypeConditional;
    parameters.conditional.handle = handle;
    parameters.conditional.type = type;
    parameters.conditional.size = size;
#if CUDART_VERSION >= 13000
    const cudaError_t error = cudaGraphAddNode(node, graph, after, nullptr, after ? 1 : 0, &parameters);
#else
    const cudaError_t error = cudaGraphAddNode(node, graph, after, after ? 1 : 0, &parameters);
#endif
    *bodies = parameters.conditional.phGraph_out;
    return error;
}

static void upload(unsigned *to, unsigned value) { CHECK(cudaMemcpy(to, &value, sizeof(value), cudaMemcpyHostToDevice)); }

// If, if or else, and switch: each launch decides by a number in device memory, and adds what its choice adds.
static void choices(cudaGraphConditionalNodeType type, unsigned size, const std::vector<unsigned> &expected)
{
    unsigned *value = poisoned<unsigned>(1), *sum = poisoned<unsigned>(1);
    cudaGraph_t graph, *bodies;
    cudaGraphConditionalHandle handle;
    cudaGraphNode_t node;
    CHECK(cudaGraphCreate(&graph, 0));
    CHECK(cudaGraphConditionalHandleCreate(&handle, graph, 0, 0));
    void *arguments[] = {&handle, &value};
    const cudaGraphNode_t first = kernel(graph, nullptr, reinterpret_cast<void *>(decide), arguments);
    CHECK(conditional(&node, graph, &first, handle, type, size, &bodies));
    for (unsigned i = 0; i < size; i++) adding(bodies[i], sum, 10 * (i + 1));
    cudaGraphNodeType found;
    CHECK(cudaGraphNodeGetType(node, &found));
    EXPECT(found == cudaGraphNodeTypeConditional, "type %d", int(found));

    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (unsigned given = 0; given < expected.size(); given++) {
        upload(value, given);
        upload(sum, 1);
        CHECK(cudaGraphLaunch(exec, nullptr));
        const unsigned got = download(sum, 1)[0];
        EXPECT(got == 1 + expected[given], "type %d of %u, value %u: %u", int(type), size, given, got);
    }
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaFree(value));
    CHECK(cudaFree(sum));
}

// While a number is not 1: if it is odd triple it, else halve it. The bodies of the inner node are captured.
static void loops()
{
    unsigned *number = poisoned<unsigned>(1), *steps = poisoned<unsigned>(1);
    cudaGraph_t graph, *body, *branches;
    cudaGraphConditionalHandle go_on, is_odd;
    cudaGraphNode_t loop, branch;
    CHECK(cudaGraphCreate(&graph, 0));
    // Without the default, the second launch would find the 0 that ended the first.
    CHECK(cudaGraphConditionalHandleCreate(&go_on, graph, 1, cudaGraphCondAssignDefault));
    CHECK(conditional(&loop, graph, nullptr, go_on, cudaGraphCondTypeWhile, 1, &body));
    CHECK(cudaGraphConditionalHandleCreate(&is_odd, body[0], 0, 0));
    void *arguments[] = {&go_on, &is_odd, &number, &steps};
    const cudaGraphNode_t step = kernel(body[0], nullptr, reinterpret_cast<void *>(collatz), arguments);
    CHECK(conditional(&branch, body[0], &step, is_odd, cudaGraphCondTypeIf, 2, &branches));
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    for (int i = 0; i < 2; i++) {
        cudaGraph_t captured;
        CHECK(cudaStreamBeginCaptureToGraph(stream, branches[i], nullptr, nullptr, 0, cudaStreamCaptureModeThreadLocal));
        if (i == 0) {
            triple<<<1, 1, 0, stream>>>(number);
        } else {
            halve<<<1, 1, 0, stream>>>(number);
        }
        if (i == 0) {
            CHECK(cudaStreamEndCapture(stream, &captured));
            EXPECT(captured == branches[i], "a capture into a body");
        } else {
            CHECK(cudaStreamEndCapture(stream, nullptr));
        }
    }

    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (unsigned start : {6u, 27u, 1u}) {
        unsigned expected = 0;
        for (unsigned at = start; at != 1; at = at % 2 ? 3 * at + 1 : at / 2) expected++;
        upload(number, start);
        upload(steps, 0);
        CHECK(cudaGraphLaunch(exec, stream));
        CHECK(cudaStreamSynchronize(stream));
        const unsigned got = download(steps, 1)[0];
        EXPECT(got == expected, "%u steps from %u, not %u", got, start, expected);
    }

    cudaGraphExec_t second;
    EXPECT(cudaGraphInstantiate(&second, graph, 0) != cudaSuccess, "one executable graph at a time");

    // A value belongs to one node; such a graph is nobody's child and has no clone; its bodies belong to it.
    cudaGraph_t other, *nothing;
    CHECK(cudaGraphCreate(&other, 0));
    EXPECT(conditional(&branch, graph, nullptr, go_on, cudaGraphCondTypeIf, 1, &nothing) != cudaSuccess, "used");
    EXPECT(cudaGraphAddChildGraphNode(&branch, other, nullptr, 0, graph) != cudaSuccess, "a child");
    EXPECT(cudaGraphClone(&other, graph) != cudaSuccess, "a clone");
    EXPECT(cudaGraphDestroy(body[0]) != cudaSuccess, "a body ends with its node");
    EXPECT(cudaGraphConditionalHandleCreate(&go_on, graph, 1, 2) == cudaErrorInvalidValue, "an unknown flag");
    CHECK(cudaGraphConditionalHandleCreate(&go_on, other, 0, 0));
    EXPECT(conditional(&branch, other, nullptr, go_on, cudaGraphCondTypeWhile, 2, &nothing) == cudaErrorInvalidValue, "2");
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(other));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaFree(number));
    CHECK(cudaFree(steps));
}

int main()
{
    choices(cudaGraphCondTypeIf, 1, {0, 10, 10});
    choices(cudaGraphCondTypeIf, 2, {20, 10, 10});
    choices(cudaGraphCondTypeSwitch, 3, {10, 20, 30, 0});
    loops();
    return passed("graphs_conditional");
}
