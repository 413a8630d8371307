// Two or more ranks send managed memory to each other right after waiting for their devices, in a ring: short messages
// and long ones, which MPI hands to the system in different ways.

// The C interface is all that is needed.
#define OMPI_SKIP_MPICXX
#define MPICH_SKIP_MPICXX
#include <mpi.h>

#include "driver.h"

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    int rank = 0, ranks = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    CUcontext context;
    CUmodule module = begin(argv[0], &context);
    CUfunction step = function(module, "multiply_add");
    for (int count : {10, 5000, 1000000}) {
        CUdeviceptr sent = 0, received = 0;
        CHECK(cuMemAllocManaged(&sent, count * sizeof(unsigned), CU_MEM_ATTACH_GLOBAL));
        CHECK(cuMemAllocManaged(&received, count * sizeof(unsigned), CU_MEM_ATTACH_GLOBAL));
        unsigned *source = reinterpret_cast<unsigned *>(sent), *target = reinterpret_cast<unsigned *>(received);
        for (int i = 0; i < count; ++i) {
            source[i] = unsigned(i);
            target[i] = 0;
        }
        for (int round = 0; round < 3; ++round) {
            unsigned factor = 2, addend = unsigned(rank);
            void *parameters[] = {&sent, &count, &factor, &addend};
            CHECK(cuLaunchKernel(step, (count + 255) / 256, 1, 1, 256, 1, 1, 0, nullptr, parameters, nullptr));
            parameters[0] = &received;
            CHECK(cuLaunchKernel(step, (count + 255) / 256, 1, 1, 256, 1, 1, 0, nullptr, parameters, nullptr));
            CHECK(cuCtxSynchronize());
            int next = (rank + 1) % ranks, before = (rank + ranks - 1) % ranks;
            MPI_Sendrecv(source, count, MPI_UNSIGNED, next, round, target, count, MPI_UNSIGNED, before, round,
                         MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            unsigned scale = 2u << round, shift = unsigned(before) * (scale - 1);
            for (int i = 0; i < count; ++i)
                EXPECT(target[i] == i * scale + shift, "rank %d, round %d: %d of %d is %u", rank, round, i, count, target[i]);
        }
        CHECK(cuMemFree(sent));
        CHECK(cuMemFree(received));
    }
    MPI_Finalize();
    return rank == 0 ? passed("managed_mpi") : 0;
}
