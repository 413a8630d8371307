// What callgrind counts the client's instructions of: as many calls of one kind as it is told, all of which must arrive.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>

__global__ void work(unsigned long long *a, unsigned long long *b, unsigned long long *c, unsigned long long n) {}

// What the null device tells of itself: launches so far, the sum of their arguments, the sum of their grids' extents.
static size_t tally(int field) {
    size_t value = 0;
    if (cudaDeviceGetLimit(&value, (cudaLimit)(0x7600 + field)) != cudaSuccess) {
        printf("the device is not the null device\n");
        exit(1);
    }
    return value;
}

int main(int count_of_words, char **words) {
    if (count_of_words != 3 || (strcmp(words[1], "launch") && strcmp(words[1], "synchronize"))) {
        printf("usage: calls launch|synchronize COUNT\n");
        return 2;
    }
    const bool launches = !strcmp(words[1], "launch");
    const unsigned long long count = strtoull(words[2], nullptr, 10);
    unsigned long long *memory;
    if (cudaMalloc(&memory, 1 << 16) != cudaSuccess) return 1;
    work<<<1, 32>>>(memory, memory, memory, 0);
    if (cudaDeviceSynchronize() != cudaSuccess) return 1;
    const size_t before[3] = {tally(0), tally(1), tally(2)};
    size_t arguments = 0, grids = 0;
    for (unsigned long long i = 0; i < count; i++) {
        if (launches) {
            work<<<1 + i % 1000, 256>>>(memory, memory + 512, memory + 1024, i);
            arguments += 3 * (size_t)memory + 3 * 4096 + i;
            grids += 1 + i % 1000;
        } else if (cudaDeviceSynchronize() != cudaSuccess) {
            return 1;
        }
    }
    if (cudaDeviceSynchronize() != cudaSuccess) return 1;
    const size_t launched = launches ? count : 0;
    if (tally(0) - before[0] != launched || tally(1) - before[1] != arguments || tally(2) - before[2] != grids) {
        printf("other launches arrived than were made\n");
        return 1;
    }
    return 0;
}
