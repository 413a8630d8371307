// The same launch again after something that it went to has changed: nothing of the former one may be used.
#include <thread>

#include "check.h"

__global__ void add(int *sum, int value) { *sum += value; }

static int *made() {
    int *sum;
    OK(cudaMalloc(&sum, sizeof *sum));
    OK(cudaMemset(sum, 0, sizeof *sum));
    return sum;
}

static int read(int *sum) {
    int back = -1;
    OK(cudaMemcpy(&back, sum, sizeof back, cudaMemcpyDeviceToHost));
    return back;
}

static int *nested_sum;

// A launch among the arguments of a launch.
static int nested() {
    add<<<1, 1>>>(nested_sum, 10);
    OK(cudaGetLastError());
    return 1;
}

int main() {
    int devices = 0;
    OK(cudaGetDeviceCount(&devices));
    int *sum = made();
    cudaStream_t stream;
    OK(cudaStreamCreate(&stream));
    for (int i = 0; i < 3; i++) add<<<1, 1, 0, stream>>>(sum, 1);
    OK(cudaStreamSynchronize(stream));
    IS(3, read(sum));

    // Another thread ends the stream.
    std::thread([stream] { OK(cudaStreamDestroy(stream)); }).join();
    add<<<1, 1, 0, stream>>>(sum, 1);
    IS(cudaErrorInvalidResourceHandle, cudaGetLastError());
    IS(3, read(sum));

    // Each device by turns, in its default stream.
    int *others[2] = {sum, sum};
    if (devices > 1) {
        OK(cudaSetDevice(1));
        others[1] = made();
        for (int turn = 0; turn < 4; turn++) {
            OK(cudaSetDevice(turn % 2));
            add<<<1, 1>>>(others[turn % 2], 5);
            OK(cudaGetLastError());
        }
        OK(cudaSetDevice(1));
        IS(10, read(others[1]));
        OK(cudaSetDevice(0));
        IS(13, read(sum));
    }

    nested_sum = sum;
    OK(cudaMemset(sum, 0, sizeof *sum));
    add<<<nested(), nested()>>>(sum, 1);
    OK(cudaGetLastError());
    IS(21, read(sum));

    // Another thread resets the device: the kernel's module, the memory and the session are new afterwards.
    std::thread([] { OK(cudaDeviceReset()); }).join();
    sum = made();
    add<<<1, 1>>>(sum, 7);
    OK(cudaGetLastError());
    IS(7, read(sum));
    puts("done");
}
