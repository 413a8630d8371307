// Streams run independently, and events order them: a chain of kernels that hops between two streams gives the result
// of running one after the other.

#include "test.h"

__global__ void step(unsigned *values, int n, unsigned factor, unsigned add)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) values[i] = values[i] * factor + add;
}

int main()
{
    const int n = 10000, hops = 20;
    std::vector<unsigned> values(n), expected(n);
    for (int i = 0; i < n; i++) values[i] = expected[i] = 3u * i + 1;
    unsigned *device = poisoned<unsigned>(n);
    CHECK(cudaMemcpy(device, values.data(), n * sizeof(unsigned), cudaMemcpyHostToDevice));

    cudaStream_t streams[2];
    for (cudaStream_t &stream : streams) CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    cudaEvent_t start, end, hop;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&end));
    CHECK(cudaEventCreateWithFlags(&hop, cudaEventDisableTiming));

    CHECK(cudaEventRecord(start, streams[0]));
    for (int k = 0; k < hops; k++) {
        cudaStream_t now = streams[k % 2], next = streams[(k + 1) % 2];
        // Addition and multiplication do not commute: any other order gives other numbers.
        step<<<(n + 127) / 128, 128, 0, now>>>(device, n, 2 * k + 3, k + 1);
        CHECK(cudaGetLastError());
        CHECK(cudaEventRecord(hop, now));
        CHECK(cudaStreamWaitEvent(next, hop, 0));
        for (unsigned &value : expected) value = value * (2 * k + 3) + k + 1;
    }
    CHECK(cudaEventRecord(end, streams[hops % 2]));
    CHECK(cudaEventSynchronize(end));
    EXPECT(cudaEventQuery(end) == cudaSuccess, "after synchronizing with the event");
    EXPECT(cudaStreamQuery(streams[hops % 2]) == cudaSuccess, "nothing was given to the stream since");
    float milliseconds = -1;
    CHECK(cudaEventElapsedTime(&milliseconds, start, end));
    EXPECT(milliseconds > 0 && milliseconds < 600000, "%f ms", milliseconds);

    values = download(device, n);
    for (int i = 0; i < n; i++) EXPECT(values[i] == expected[i], "value %d is %u, not %u", i, values[i], expected[i]);
    for (cudaStream_t stream : streams) CHECK(cudaStreamDestroy(stream));
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(end));
    CHECK(cudaEventDestroy(hop));
    CHECK(cudaFree(device));
    return passed("streams_events");
}
