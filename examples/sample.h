// What the four MPI samples share: start and end, the choice of a device, the verdict.
//
// Every sample ends with one line on rank 0, for people and for `cargo xtask demo`:
//   vecadd: VERIFIED ranks=4 devices=2 seconds=0.12
// and with exit status 0 on every rank if *all* ranks verified their results, 1 if any did not.

#ifndef VGPU_SAMPLE_H
#define VGPU_SAMPLE_H

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_runtime.h>
#include <mpi.h>

// Ends all ranks when a CUDA call fails: a rank that has lost its device cannot take part in the verdict.
#define CHECK(call)                                                                                        \
    do {                                                                                                   \
        cudaError_t error_ = (call);                                                                       \
        if (error_ != cudaSuccess) {                                                                       \
            std::fprintf(stderr, "%s:%d: %s: %s (%d)\n", __FILE__, __LINE__, #call,                        \
                         cudaGetErrorString(error_), static_cast<int>(error_));                            \
            MPI_Abort(MPI_COMM_WORLD, 1);                                                                  \
        }                                                                                                  \
    } while (0)

class Sample {
public:
    int rank = 0;
    int ranks = 1;

    // Starts MPI and takes device `rank mod count`.
    Sample(const char *name, int *argc, char ***argv) : name_(name)
    {
        MPI_Init(argc, argv);
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        MPI_Comm_size(MPI_COMM_WORLD, &ranks);
        int count = 0;
        CHECK(cudaGetDeviceCount(&count));
        if (count == 0) {
            std::fprintf(stderr, "%s: no CUDA device\n", name_);
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
        device_ = rank % count;
        CHECK(cudaSetDevice(device_));
        started_ = MPI_Wtime();
    }

    // Reports what all ranks found and ends MPI; returns the exit status of `main`.
    int verdict(bool verified)
    {
        double seconds = MPI_Wtime() - started_;
        double slowest = 0;
        MPI_Allreduce(&seconds, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        int mine = verified ? 1 : 0;
        int good = 0;
        MPI_Allreduce(&mine, &good, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        int devices = distinct_devices();
        bool all = good == ranks;
        if (rank == 0) {
            std::printf("%s: %s ranks=%d devices=%d seconds=%.2f\n", name_, all ? "VERIFIED" : "FAILED", ranks,
                        devices, slowest);
            if (!all) std::printf("%s: %d of %d ranks have wrong results\n", name_, ranks - good, ranks);
            std::fflush(stdout);
        }
        MPI_Finalize();
        return all ? 0 : 1;
    }

private:
    // How many different devices the ranks use, told by the devices' own identifiers.
    int distinct_devices()
    {
        cudaDeviceProp properties;
        CHECK(cudaGetDeviceProperties(&properties, device_));
        const int bytes = sizeof(properties.uuid);
        std::vector<char> all(static_cast<size_t>(bytes) * ranks);
        MPI_Allgather(&properties.uuid, bytes, MPI_CHAR, all.data(), bytes, MPI_CHAR, MPI_COMM_WORLD);
        int distinct = 0;
        for (int i = 0; i < ranks; i++) {
            bool seen = false;
            for (int j = 0; j < i && !seen; j++) {
                seen = std::memcmp(&all[static_cast<size_t>(i) * bytes], &all[static_cast<size_t>(j) * bytes], bytes) == 0;
            }
            if (!seen) distinct++;
        }
        return distinct;
    }

    const char *name_;
    int device_ = 0;
    double started_ = 0;
};

// The argument at `index` as a positive number, or `otherwise`.
inline long argument(int argc, char **argv, int index, long otherwise)
{
    if (index >= argc) return otherwise;
    char *end = nullptr;
    long value = std::strtol(argv[index], &end, 10);
    if (*end != '\0' || value <= 0) {
        std::fprintf(stderr, "%s: '%s' is not a positive number\n", argv[0], argv[index]);
        std::exit(2);
    }
    return value;
}

// A number that depends on every bit of `value` (the finisher of MurmurHash3): test data that no stale buffer, and no
// buffer of another rank, holds by chance.
__host__ __device__ inline unsigned scramble(unsigned value)
{
    value ^= value >> 16;
    value *= 0x85ebca6bu;
    value ^= value >> 13;
    value *= 0xc2b2ae35u;
    return value ^ (value >> 16);
}

#endif
