// Lesson 3: shared memory and barriers. One matrix transposed in three ways, each faster on a GPU than the one before.
//
//   mpiexec -n 4 transpose [side] [repeats]

#include "sample.h"

constexpr int TILE = 32;
constexpr int ROWS = 8; // each thread moves TILE / ROWS elements

// Writes walk down a column: neighbouring threads write far apart.
__global__ void naive(const float *in, float *out, int side)
{
    int x = blockIdx.x * TILE + threadIdx.x;
    int y = blockIdx.y * TILE + threadIdx.y;
    for (int row = 0; row < TILE; row += ROWS) {
        if (x < side && y + row < side) out[static_cast<size_t>(x) * side + y + row] = in[static_cast<size_t>(y + row) * side + x];
    }
}

// The tile is turned in shared memory, so that both reads and writes run along rows. `PAD` = 1 skews the columns over
// the memory banks; with 0, a column lies in one bank and its readers queue.
template <int PAD> __global__ void tiled(const float *in, float *out, int side)
{
    __shared__ float tile[TILE][TILE + PAD];
    int x = blockIdx.x * TILE + threadIdx.x;
    int y = blockIdx.y * TILE + threadIdx.y;
    for (int row = 0; row < TILE; row += ROWS) {
        if (x < side && y + row < side) tile[threadIdx.y + row][threadIdx.x] = in[static_cast<size_t>(y + row) * side + x];
    }
    __syncthreads();
    x = blockIdx.y * TILE + threadIdx.x;
    y = blockIdx.x * TILE + threadIdx.y;
    for (int row = 0; row < TILE; row += ROWS) {
        if (x < side && y + row < side) out[static_cast<size_t>(y + row) * side + x] = tile[threadIdx.x][threadIdx.y + row];
    }
}

int main(int argc, char **argv)
{
    Sample sample("transpose", &argc, &argv);
    const int side = static_cast<int>(argument(argc, argv, 1, 1000)); // not a multiple of the tile: the edges matter
    const int repeats = static_cast<int>(argument(argc, argv, 2, 3));
    const size_t count = static_cast<size_t>(side) * side;
    const size_t bytes = count * sizeof(float);

    std::vector<float> matrix(count), turned(count);
    for (size_t i = 0; i < count; i++) {
        matrix[i] = 1.0f + (scramble(static_cast<unsigned>(i) + 131u * sample.rank) >> 8);
    }
    float *in, *out;
    CHECK(cudaMalloc(&in, bytes));
    CHECK(cudaMalloc(&out, bytes));
    CHECK(cudaMemcpy(in, matrix.data(), bytes, cudaMemcpyHostToDevice));
    cudaEvent_t start, end;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&end));

    using Kernel = void (*)(const float *, float *, int);
    const struct { const char *name; Kernel kernel; } ways[] = {
        {"naive", naive}, {"coalesced", tiled<0>}, {"no bank conflicts", tiled<1>}};
    const dim3 grid((side + TILE - 1) / TILE, (side + TILE - 1) / TILE), block(TILE, ROWS);
    bool verified = true;
    for (const auto &way : ways) {
        CHECK(cudaMemset(out, 0xff, bytes)); // all NaN, before every way
        CHECK(cudaEventRecord(start));
        for (int i = 0; i < repeats; i++) way.kernel<<<grid, block>>>(in, out, side);
        CHECK(cudaGetLastError());
        CHECK(cudaEventRecord(end));
        CHECK(cudaEventSynchronize(end));
        float milliseconds = 0;
        CHECK(cudaEventElapsedTime(&milliseconds, start, end));
        std::memset(turned.data(), 0xff, bytes);
        CHECK(cudaMemcpy(turned.data(), out, bytes, cudaMemcpyDeviceToHost));
        size_t wrong = 0;
        for (int y = 0; y < side; y++) {
            for (int x = 0; x < side; x++) {
                if (!(turned[static_cast<size_t>(y) * side + x] == matrix[static_cast<size_t>(x) * side + y])) wrong++;
            }
        }
        if (wrong) {
            verified = false;
            std::fprintf(stderr, "rank %d: %s: %zu of %zu elements are wrong\n", sample.rank, way.name, wrong, count);
        }
        if (sample.rank == 0) {
            std::printf("%-20s %8.3f ms %10.3f GB/s\n", way.name, milliseconds / repeats,
                        2.0 * bytes * repeats / milliseconds * 1e-6);
        }
    }
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(end));
    CHECK(cudaFree(in));
    CHECK(cudaFree(out));
    return sample.verdict(verified);
}
