// How a program of `tests` or `driver` tells its verdict: it prints `<name>: ok` and ends with 0, or says what was
// wrong and ends with 1.

#ifndef VGPU_EXPECT_H
#define VGPU_EXPECT_H

#include <cstdio>
#include <cstdlib>

// Ends the program unless `condition` holds; the rest is a format with its values.
#define EXPECT(condition, ...)                                                                             \
    do {                                                                                                   \
        if (!(condition)) {                                                                                \
            std::fprintf(stderr, "%s:%d: expected %s: ", __FILE__, __LINE__, #condition);                  \
            std::fprintf(stderr, __VA_ARGS__);                                                             \
            std::fprintf(stderr, "\n");                                                                    \
            std::exit(1);                                                                                  \
        }                                                                                                  \
    } while (0)

inline int passed(const char *name)
{
    std::printf("%s: ok\n", name);
    return 0;
}

#endif
