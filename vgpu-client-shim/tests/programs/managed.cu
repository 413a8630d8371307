// Managed memory: filled here, changed there, read here, in turns.
#include "check.h"

struct Node { Node *next; int value; };

__global__ void add(int *data, int n, int what) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) data[i] += what;
}
__global__ void follow(const Node *node, int *sum) {
    for (; node; node = node->next) *sum += node->value;
}

int main() {
    const int n = 300000;
    int *data, *sum, yes = 0;
    OK(cudaDeviceGetAttribute(&yes, cudaDevAttrManagedMemory, 0));
    IS(1, yes);
    OK(cudaMallocManaged(&data, n * sizeof(int)));
    OK(cudaMallocManaged(&sum, sizeof(int)));
    for (int i = 0; i < n; i++) data[i] = i;
    for (int round = 0; round < 3; round++) {
        add<<<16, 64>>>(data, n, 10);
        OK(cudaDeviceSynchronize());
        IS(7 + 11 * round + 10, data[7]);
        data[7]++;
    }
    for (int i = 0; i < n; i++) IS(i + 30 + (i == 7 ? 3 : 0), data[i]);
    // Pointers in it mean the same on both sides.
    Node *nodes[3];
    for (int i = 0; i < 3; i++) {
        OK(cudaMallocManaged(&nodes[i], sizeof(Node)));
        *nodes[i] = {i ? nodes[i - 1] : nullptr, 1 << i};
    }
    *sum = 100;
    cudaStream_t stream;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    follow<<<1, 1, 0, stream>>>(nodes[2], sum);
    OK(cudaStreamSynchronize(stream));
    IS(107, *sum);
    OK(cudaFree(data));
    OK(cudaFree(sum));
    puts("done");
}
