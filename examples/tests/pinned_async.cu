// Asynchronous copies from and to pinned memory keep the order of their stream, and what lands on the host is there
// when the stream has been waited for. Chunks go up, through a kernel and down again on four streams.

#include "test.h"

__global__ void invert(unsigned *values, int n, unsigned key)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) values[i] = ~values[i] ^ key;
}

int main()
{
    const int chunk = 50000, chunks = 12, streams = 4;
    const size_t bytes = chunk * sizeof(unsigned);
    unsigned *in, *out, *device[streams];
    CHECK(cudaMallocHost(&in, bytes * chunks));
    CHECK(cudaHostAlloc(&out, bytes * chunks, cudaHostAllocDefault));
    cudaStream_t stream[streams];
    for (int s = 0; s < streams; s++) {
        CHECK(cudaStreamCreate(&stream[s]));
        device[s] = poisoned<unsigned>(chunk);
    }
    for (int i = 0; i < chunk * chunks; i++) in[i] = 2654435761u * (i + 1);
    std::memset(out, 0xee, bytes * chunks);

    for (int c = 0; c < chunks; c++) {
        const int s = c % streams; // the same device buffer serves several chunks: only stream order keeps them apart
        CHECK(cudaMemcpyAsync(device[s], in + c * chunk, bytes, cudaMemcpyHostToDevice, stream[s]));
        invert<<<(chunk + 255) / 256, 256, 0, stream[s]>>>(device[s], chunk, c);
        CHECK(cudaGetLastError());
        CHECK(cudaMemcpyAsync(out + c * chunk, device[s], bytes, cudaMemcpyDeviceToHost, stream[s]));
    }
    for (int s = 0; s < streams; s++) {
        CHECK(cudaStreamSynchronize(stream[s]));
        for (int c = s; c < chunks; c += streams) {
            for (int i = c * chunk; i < (c + 1) * chunk; i++) {
                const unsigned expected = ~in[i] ^ c;
                EXPECT(out[i] == expected, "chunk %d, value %d is %#x, not %#x", c, i, out[i], expected);
            }
        }
    }

    // Memory that the program already has can be pinned as well.
    std::vector<unsigned> own(chunk, 0xeeeeeeee);
    CHECK(cudaHostRegister(own.data(), bytes, cudaHostRegisterDefault));
    CHECK(cudaMemcpyAsync(own.data(), device[streams - 1], bytes, cudaMemcpyDeviceToHost, stream[0]));
    CHECK(cudaStreamSynchronize(stream[0]));
    EXPECT(std::memcmp(own.data(), out + (chunks - 1) * chunk, bytes) == 0, "the last chunk, copied again");
    CHECK(cudaHostUnregister(own.data()));

    for (int s = 0; s < streams; s++) {
        CHECK(cudaStreamDestroy(stream[s]));
        CHECK(cudaFree(device[s]));
    }
    CHECK(cudaFreeHost(in));
    CHECK(cudaFreeHost(out));
    return passed("pinned_async");
}
