// Lesson 2: what copies cost. Pageable and pinned host memory, up, down and within the device, for a range of sizes.
//
//   mpiexec -n 4 bandwidth [largest MiB] [repeats]
//
// Every figure is for copies whose data was checked: bytes that went up are summed by a kernel, bytes that come down
// were written by a kernel. A device that copies but does not compute therefore does not pass.

#include "sample.h"

__host__ __device__ inline unsigned pattern(unsigned seed, unsigned long long i)
{
    return scramble(seed + static_cast<unsigned>(i) * 2654435761u);
}

__host__ __device__ inline unsigned long long weighted(unsigned word, unsigned long long i)
{
    return static_cast<unsigned long long>(word) * (2 * i + 1);
}

__global__ void fill(unsigned *words, unsigned long long count, unsigned seed)
{
    unsigned long long i = blockIdx.x * static_cast<unsigned long long>(blockDim.x) + threadIdx.x;
    for (; i < count; i += static_cast<unsigned long long>(gridDim.x) * blockDim.x) words[i] = pattern(seed, i);
}

// A sum in which the place of every word counts.
__global__ void digest(const unsigned *words, unsigned long long count, unsigned long long *sum)
{
    unsigned long long mine = 0;
    unsigned long long i = blockIdx.x * static_cast<unsigned long long>(blockDim.x) + threadIdx.x;
    for (; i < count; i += static_cast<unsigned long long>(gridDim.x) * blockDim.x) mine += weighted(words[i], i);
    atomicAdd(sum, mine);
}

class Bench {
public:
    Bench(Sample &sample, size_t largest, int repeats) : sample_(sample), repeats_(repeats)
    {
        CHECK(cudaMalloc(&device_, largest));
        CHECK(cudaMalloc(&other_, largest));
        CHECK(cudaMalloc(&sum_, sizeof(unsigned long long)));
        CHECK(cudaMallocHost(&pinned_, largest));
        pageable_.resize(largest / sizeof(unsigned));
    }

    ~Bench()
    {
        CHECK(cudaFree(device_));
        CHECK(cudaFree(other_));
        CHECK(cudaFree(sum_));
        CHECK(cudaFreeHost(pinned_));
    }

    unsigned *pageable() { return pageable_.data(); }
    unsigned *pinned() { return static_cast<unsigned *>(pinned_); }

    // Seconds of a copy from `host` to the device.
    double up(unsigned *host, size_t bytes)
    {
        const unsigned seed = next_seed();
        for (size_t i = 0; i < bytes / sizeof(unsigned); i++) host[i] = pattern(seed, i);
        CHECK(cudaMemset(device_, 0xff, bytes));
        double seconds = timed([&] { CHECK(cudaMemcpyAsync(device_, host, bytes, cudaMemcpyHostToDevice)); });
        expect_on_device(device_, bytes, seed, "copied up");
        return seconds;
    }

    // Seconds of a copy from the device to `host`.
    double down(unsigned *host, size_t bytes)
    {
        const unsigned seed = next_seed();
        const size_t words = bytes / sizeof(unsigned);
        fill<<<64, 256>>>(device_, words, seed);
        CHECK(cudaGetLastError());
        std::memset(host, 0xff, bytes);
        double seconds = timed([&] { CHECK(cudaMemcpyAsync(host, device_, bytes, cudaMemcpyDeviceToHost)); });
        size_t wrong = 0;
        for (size_t i = 0; i < words; i++) wrong += host[i] != pattern(seed, i);
        if (wrong) report("copied down", wrong, words);
        return seconds;
    }

    // Seconds of a copy within the device.
    double within(size_t bytes)
    {
        const unsigned seed = next_seed();
        fill<<<64, 256>>>(device_, bytes / sizeof(unsigned), seed);
        CHECK(cudaGetLastError());
        CHECK(cudaMemset(other_, 0xff, bytes));
        double seconds = timed([&] { CHECK(cudaMemcpyAsync(other_, device_, bytes, cudaMemcpyDeviceToDevice)); });
        expect_on_device(other_, bytes, seed, "copied within the device");
        return seconds;
    }

    bool verified() const { return verified_; }

private:
    template <typename Copy> double timed(Copy copy)
    {
        CHECK(cudaDeviceSynchronize());
        double start = MPI_Wtime();
        for (int i = 0; i < repeats_; i++) copy();
        CHECK(cudaDeviceSynchronize());
        return (MPI_Wtime() - start) / repeats_;
    }

    void expect_on_device(const unsigned *words, size_t bytes, unsigned seed, const char *what)
    {
        const size_t count = bytes / sizeof(unsigned);
        unsigned long long expected = 0, found = ~0ull;
        for (size_t i = 0; i < count; i++) expected += weighted(pattern(seed, i), i);
        CHECK(cudaMemset(sum_, 0, sizeof(*sum_)));
        digest<<<64, 256>>>(words, count, sum_);
        CHECK(cudaGetLastError());
        CHECK(cudaMemcpy(&found, sum_, sizeof(found), cudaMemcpyDeviceToHost));
        if (found != expected) report(what, 1, 1);
    }

    void report(const char *what, size_t wrong, size_t of)
    {
        verified_ = false;
        std::fprintf(stderr, "rank %d: %s: %zu of %zu checks failed\n", sample_.rank, what, wrong, of);
    }

    unsigned next_seed() { return scramble(++seed_ + 1000u * (sample_.rank + 1)); }

    Sample &sample_;
    int repeats_;
    bool verified_ = true;
    unsigned seed_ = 0;
    unsigned *device_ = nullptr;
    unsigned *other_ = nullptr;
    unsigned long long *sum_ = nullptr;
    void *pinned_ = nullptr;
    std::vector<unsigned> pageable_;
};

int main(int argc, char **argv)
{
    Sample sample("bandwidth", &argc, &argv);
    const size_t largest = static_cast<size_t>(argument(argc, argv, 1, 16)) << 20;
    const int repeats = static_cast<int>(argument(argc, argv, 2, 4));
    bool verified;
    {
        Bench bench(sample, largest, repeats);
        if (sample.rank == 0) {
            std::printf("GB/s, all %d ranks together (HtoD and DtoH: host to device and back; DtoD: within)\n", sample.ranks);
            std::printf("%10s %14s %14s %14s %14s %14s\n", "KiB", "pageable HtoD", "pageable DtoH", "pinned HtoD",
                        "pinned DtoH", "DtoD");
        }
        for (size_t bytes = 16 << 10; bytes <= largest; bytes *= 4) {
            const double seconds[5] = {bench.up(bench.pageable(), bytes), bench.down(bench.pageable(), bytes),
                                       bench.up(bench.pinned(), bytes), bench.down(bench.pinned(), bytes),
                                       bench.within(bytes)};
            double rates[5], sums[5];
            for (int i = 0; i < 5; i++) rates[i] = bytes / seconds[i] * 1e-9;
            MPI_Reduce(rates, sums, 5, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
            if (sample.rank == 0) {
                std::printf("%10zu %14.3f %14.3f %14.3f %14.3f %14.3f\n", bytes >> 10, sums[0], sums[1], sums[2],
                            sums[3], sums[4]);
            }
        }
        verified = bench.verified();
    }
    return sample.verdict(verified);
}
