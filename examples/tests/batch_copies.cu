// Copies in batches: bytes up, down and within the device in one call, sources that are gone when the call returns,
// boxes with their own rows and layers and into an array, boxes between devices, and batches that cannot be.

#include "test.h"

__global__ void square(unsigned *values, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) values[i] *= values[i];
}

static cudaError_t batch(void **to, void **from, size_t *sizes, size_t count, cudaMemcpyAttributes *attributes,
                         size_t *firsts, size_t kinds, size_t *failed, cudaStream_t stream)
{
#if CUDART_VERSION >= 13000
    (void)failed;
    return cudaMemcpyBatchAsync(to, const_cast<const void **>(from), sizes, count, attributes, firsts, kinds, stream);
#else
    return cudaMemcpyBatchAsync(to, from, sizes, count, attributes, firsts, kinds, failed, stream);
#endif
}

static cudaError_t boxes(size_t count, cudaMemcpy3DBatchOp *operations, cudaStream_t stream)
{
#if CUDART_VERSION >= 13000
    return cudaMemcpy3DBatchAsync(count, operations, 0, stream);
#else
    size_t failed;
    return cudaMemcpy3DBatchAsync(count, operations, &failed, 0, stream);
#endif
}

static cudaMemcpyAttributes ordered(cudaMemcpySrcAccessOrder order)
{
    cudaMemcpyAttributes attributes = {};
    attributes.srcAccessOrder = order;
    return attributes;
}

static cudaMemcpy3DOperand memory(void *pointer, size_t row, size_t layer)
{
    cudaMemcpy3DOperand operand = {};
    operand.type = cudaMemcpyOperandTypePointer;
    operand.op.ptr.ptr = pointer, operand.op.ptr.rowLength = row, operand.op.ptr.layerHeight = layer;
    return operand;
}

static void bytes(cudaStream_t stream)
{
    const int n = 4096;
    const size_t size = n * sizeof(unsigned);
    std::vector<unsigned> first(n), second(n), back(n, 1), other(n, 1);
    for (int i = 0; i < n; i++) first[i] = i, second[i] = 3 * i + 1;
    unsigned *a = poisoned<unsigned>(n), *b = poisoned<unsigned>(n), *c = poisoned<unsigned>(n);
    unsigned *pinned;
    CHECK(cudaMallocHost(&pinned, size));
    std::memcpy(pinned, second.data(), size);

    // The last two sources are changed as soon as the call is back: one pageable, one pinned.
    cudaMemcpyAttributes attributes[] = {ordered(cudaMemcpySrcAccessOrderStream),
                                         ordered(cudaMemcpySrcAccessOrderDuringApiCall)};
    size_t firsts[] = {0, 1}, sizes[] = {size, size, size};
    void *up[] = {c, a, b}, *sources[] = {a, first.data(), pinned};
    CHECK(cudaMemsetAsync(a, 0, size, stream));
    CHECK(batch(up, sources, sizes, 1, attributes, firsts, 1, nullptr, stream));
    CHECK(batch(up + 1, sources + 1, sizes, 2, attributes + 1, firsts, 1, nullptr, stream));
    for (int i = 0; i < n; i++) first[i] = pinned[i] = 0xbad;
    square<<<(n + 255) / 256, 256, 0, stream>>>(a, n);
    CHECK(cudaGetLastError());
    void *down[] = {back.data(), other.data()}, *results[] = {a, b};
    CHECK(batch(down, results, sizes, 2, attributes, firsts, 2, nullptr, stream));
    CHECK(cudaStreamSynchronize(stream));
    for (int i = 0; i < n; i++) {
        EXPECT(back[i] == unsigned(i) * unsigned(i), "squares[%d] is %u", i, back[i]);
        EXPECT(other[i] == 3u * i + 1, "pinned source, [%d] is %u", i, other[i]);
    }
    CHECK(cudaMemcpy(back.data(), c, size, cudaMemcpyDeviceToHost));
    EXPECT(back[7] == 0, "a copy within the device, in stream order behind a set: %u", back[7]);

    // A captured batch reads its sources when the graph runs.
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CHECK(batch(up + 1, sources + 1, sizes, 2, attributes, firsts, 1, nullptr, stream));
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    first[5] = 55, pinned[6] = 66;
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(batch(down, results, sizes, 2, attributes, firsts, 1, nullptr, stream));
    CHECK(cudaStreamSynchronize(stream));
    EXPECT(back[5] == 55 && other[6] == 66, "captured copies: %u and %u", back[5], other[6]);

    attributes[0].srcAccessOrder = cudaMemcpySrcAccessOrderInvalid;
    size_t failed = 77;
    EXPECT(batch(up, sources, sizes, 1, attributes, firsts, 1, &failed, stream) == cudaErrorInvalidValue, "no order");
#if CUDART_VERSION < 13000
    EXPECT(failed == 0, "copy %zu was refused", failed);
#endif
    firsts[0] = 1;
    EXPECT(batch(up, sources, sizes, 2, attributes, firsts, 1, nullptr, stream) == cudaErrorInvalidValue, "first");
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaFreeHost(pinned));
    CHECK(cudaFree(a));
    CHECK(cudaFree(b));
    CHECK(cudaFree(c));
}

static void volumes(cudaStream_t stream)
{
    // A box of 6 x 4 x 3 bytes from rows of 10 and layers of 7, into an image that is packed.
    std::vector<unsigned char> source(10 * 7 * 3), back(6 * 4 * 3, 0xee);
    for (size_t i = 0; i < source.size(); i++) source[i] = static_cast<unsigned char>(i * 11 + 5);
    const std::vector<unsigned char> kept = source;
    unsigned char *packed = poisoned<unsigned char>(back.size());
    cudaMemcpy3DBatchOp operations[2] = {};
    operations[0].src = memory(source.data(), 10, 7), operations[0].dst = memory(packed, 0, 0);
    operations[0].extent = make_cudaExtent(6, 4, 3);
    operations[0].srcAccessOrder = cudaMemcpySrcAccessOrderDuringApiCall;

    // And one of 8 x 8 floats into an array, two elements and one row from its corner.
    std::vector<float> plane(8 * 8), shown(8 * 8, -1);
    for (int i = 0; i < 64; i++) plane[i] = 0.5f * i;
    cudaArray_t array;
    const cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();
    CHECK(cudaMallocArray(&array, &format, 16, 16));
    operations[1].src = memory(plane.data(), 0, 0);
    operations[1].dst.type = cudaMemcpyOperandTypeArray;
    operations[1].dst.op.array.array = array;
    operations[1].dst.op.array.offset = {2, 1, 0};
    operations[1].extent = make_cudaExtent(8, 8, 1);
    operations[1].srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    CHECK(boxes(2, operations, stream));
    std::fill(source.begin(), source.end(), static_cast<unsigned char>(0));
    CHECK(cudaMemcpyAsync(back.data(), packed, back.size(), cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    for (int z = 0; z < 3; z++)
        for (int y = 0; y < 4; y++)
            for (int x = 0; x < 6; x++) {
                const unsigned char value = back[(z * 4 + y) * 6 + x], expected = kept[(z * 7 + y) * 10 + x];
                EXPECT(value == expected, "box at %d, %d, %d is %d, not %d", x, y, z, value, expected);
            }
    CHECK(cudaMemcpy2DFromArray(shown.data(), 32, array, 8, 1, 32, 8, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 64; i++) EXPECT(shown[i] == plane[i], "array element %d is %f", i, shown[i]);

    operations[0].extent.depth = 0;
    EXPECT(boxes(1, operations, stream) == cudaErrorInvalidValue, "a box without depth");
    CHECK(cudaFreeArray(array));

    // Between devices, of which the same one is allowed: a part of the packed image, turned into rows of 16.
    unsigned char *wide = poisoned<unsigned char>(16 * 4);
    cudaMemcpy3DPeerParms peer = {};
    peer.srcPtr = make_cudaPitchedPtr(packed, 6, 6, 4), peer.dstPtr = make_cudaPitchedPtr(wide, 16, 16, 4);
    peer.srcPos = make_cudaPos(1, 0, 2);
    peer.extent = make_cudaExtent(5, 4, 1);
    CHECK(cudaMemcpy3DPeer(&peer));
    std::vector<unsigned char> rows(16 * 4);
    CHECK(cudaMemcpy(rows.data(), wide, rows.size(), cudaMemcpyDeviceToHost));
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 5; x++) EXPECT(rows[y * 16 + x] == kept[(14 + y) * 10 + x + 1], "peer at %d, %d", x, y);
    peer.srcPtr.ptr = source.data();
    EXPECT(cudaMemcpy3DPeerAsync(&peer, stream) == cudaErrorInvalidValue, "host memory is on no device");
    CHECK(cudaFree(wide));
    CHECK(cudaFree(packed));
}

int main()
{
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    bytes(stream);
    volumes(stream);
    size_t sizes[] = {4}, firsts[] = {0};
    void *nothing[] = {nullptr};
    cudaMemcpyAttributes attributes = ordered(cudaMemcpySrcAccessOrderStream);
    EXPECT(batch(nothing, nothing, sizes, 1, &attributes, firsts, 1, nullptr, stream) == cudaErrorInvalidValue, "NULL");
    CHECK(cudaStreamDestroy(stream));
    return passed("batch_copies");
}
