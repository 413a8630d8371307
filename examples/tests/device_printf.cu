// What kernels print comes out of *this* process, wherever the kernel ran, and is there after synchronizing. The
// program listens to its own standard output.

#include <algorithm>
#include <string>
#include <unistd.h>

#include "test.h"

__global__ void speak(int base)
{
    const char *word = base > 0 ? "kernel" : "nobody";
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i % 2 == 0) printf("thread %d of %s says %.3f, %lld, %x, %c%%\n", base + i, word, 0.5 * i, 1ll << (i + 30), 255 - i, 'A' + i);
    else printf("odd %5d|%-6s|%08.2e\n", i, "pad", 12345.678 * i);
}

int main()
{
    std::FILE *heard = std::tmpfile();
    EXPECT(heard != nullptr, "a temporary file");
    std::fflush(stdout);
    const int terminal = dup(STDOUT_FILENO);
    dup2(fileno(heard), STDOUT_FILENO);
    speak<<<2, 4>>>(100);
    const cudaError_t launched = cudaGetLastError();
    const cudaError_t finished = cudaDeviceSynchronize();
    std::fflush(stdout);
    dup2(terminal, STDOUT_FILENO);
    close(terminal);
    CHECK(launched);
    CHECK(finished);

    std::vector<std::string> lines, expected;
    char buffer[256];
    std::rewind(heard);
    while (std::fgets(buffer, sizeof(buffer), heard)) lines.push_back(buffer);
    std::fclose(heard);
    for (int i = 0; i < 8; i++) {
        if (i % 2 == 0) std::snprintf(buffer, sizeof(buffer), "thread %d of %s says %.3f, %lld, %x, %c%%\n", 100 + i, "kernel", 0.5 * i, 1ll << (i + 30), 255 - i, 'A' + i);
        else std::snprintf(buffer, sizeof(buffer), "odd %5d|%-6s|%08.2e\n", i, "pad", 12345.678 * i);
        expected.push_back(buffer);
    }
    // Threads print in any order.
    std::sort(lines.begin(), lines.end());
    std::sort(expected.begin(), expected.end());
    EXPECT(lines.size() == expected.size(), "%zu lines arrived of %zu", lines.size(), expected.size());
    for (size_t i = 0; i < lines.size(); i++) {
        EXPECT(lines[i] == expected[i], "'%s', not '%s'", lines[i].c_str(), expected[i].c_str());
    }
    return passed("device_printf");
}
