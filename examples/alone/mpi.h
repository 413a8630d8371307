// As much of MPI as the samples use, for one rank: so that they compile and run where there is no MPI.

#ifndef VGPU_ALONE_MPI_H
#define VGPU_ALONE_MPI_H

#include <chrono>
#include <cstdlib>
#include <cstring>

typedef int MPI_Comm;
typedef int MPI_Op;
typedef int MPI_Datatype; // the size of one

enum { MPI_COMM_WORLD, MPI_SUM, MPI_MAX };
enum { MPI_CHAR = sizeof(char), MPI_INT = sizeof(int), MPI_DOUBLE = sizeof(double) };

inline int MPI_Init(int *, char ***) { return 0; }
inline int MPI_Finalize() { return 0; }

inline int MPI_Abort(MPI_Comm, int status)
{
    std::exit(status);
}

inline int MPI_Comm_rank(MPI_Comm, int *rank)
{
    *rank = 0;
    return 0;
}

inline int MPI_Comm_size(MPI_Comm, int *ranks)
{
    *ranks = 1;
    return 0;
}

inline double MPI_Wtime()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The sum and the largest of one value are that value.
inline int MPI_Allreduce(const void *from, void *to, int count, MPI_Datatype type, MPI_Op, MPI_Comm)
{
    std::memcpy(to, from, static_cast<std::size_t>(count) * type);
    return 0;
}

inline int MPI_Reduce(const void *from, void *to, int count, MPI_Datatype type, MPI_Op, int, MPI_Comm)
{
    std::memcpy(to, from, static_cast<std::size_t>(count) * type);
    return 0;
}

inline int MPI_Allgather(const void *from, int count, MPI_Datatype type, void *to, int, MPI_Datatype, MPI_Comm)
{
    std::memcpy(to, from, static_cast<std::size_t>(count) * type);
    return 0;
}

#endif
