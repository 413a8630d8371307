// Every program prints "done", or the line that found something else.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define OK(call)                                                                                                    \
    do {                                                                                                            \
        cudaError_t error = (call);                                                                                 \
        if (error != cudaSuccess) {                                                                                 \
            printf("line %d: %s answered %d (%s)\n", __LINE__, #call, (int)error, cudaGetErrorString(error));       \
            exit(1);                                                                                                \
        }                                                                                                           \
    } while (0)
#define IS(value, call)                                                                                             \
    do {                                                                                                            \
        int found = (int)(call);                                                                                    \
        if (found != (int)(value)) {                                                                                \
            printf("line %d: %s is %d\n", __LINE__, #call, found);                                                  \
            exit(1);                                                                                                \
        }                                                                                                           \
    } while (0)
#define TRUE(fact)                                                                                                  \
    do {                                                                                                            \
        if (!(fact)) {                                                                                              \
            printf("line %d: not %s\n", __LINE__, #fact);                                                           \
            exit(1);                                                                                                \
        }                                                                                                           \
    } while (0)
