// Copies up, a kernel and copies down, again and again: what one needs to see what happens when the network or the server
// goes away in the middle of it.
//
//   steady [passes]
//
// It prints `pass N` after each pass, at once, so that one who watches knows that it is at work.

#include "test.h"

__global__ void mix(unsigned *values, int n, unsigned key)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) values[i] = (values[i] ^ key) * 2654435761u;
}

int main(int argc, char **argv)
{
    const long passes = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 5;
    EXPECT(passes > 0, "the number of passes is '%s'", argv[1]);
    const int n = 64 * 1024;
    unsigned *device = poisoned<unsigned>(n);
    std::vector<unsigned> values(n);
    for (long pass = 1; pass <= passes; pass++) {
        const unsigned key = static_cast<unsigned>(pass);
        for (int i = 0; i < n; i++) values[i] = i + 7 * key;
        CHECK(cudaMemcpy(device, values.data(), n * sizeof(unsigned), cudaMemcpyHostToDevice));
        mix<<<(n + 255) / 256, 256>>>(device, n, key);
        CHECK(cudaGetLastError());
        const std::vector<unsigned> found = download(device, n);
        for (int i = 0; i < n; i++) {
            const unsigned expected = (values[i] ^ key) * 2654435761u;
            EXPECT(found[i] == expected, "pass %ld, value %d is %#x, not %#x", pass, i, found[i], expected);
        }
        std::printf("pass %ld\n", pass);
        std::fflush(stdout);
    }
    CHECK(cudaFree(device));
    return passed("steady");
}
