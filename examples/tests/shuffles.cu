// The 32 threads of a warp talk without memory: shuffles of every kind, votes, and groups that are part of a warp.

#include "test.h"

__global__ void talk(int *out)
{
    const int lane = threadIdx.x & 31, i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned all = 0xffffffffu;
    const int value = 10 * i + 7;

    int sum = value;
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(all, sum, distance);
    int scan = value;
    for (int distance = 1; distance < 32; distance *= 2) {
        const int before = __shfl_up_sync(all, scan, distance);
        if (lane >= distance) scan += before;
    }
    const int next = __shfl_down_sync(all, value, 1);
    const int from_five = __shfl_sync(all, value, 5);
    const int eighth = __shfl_sync(all, value, 2, 8); // lane 2 of each group of eight
    const unsigned odd = __ballot_sync(all, i % 3 == 1);
    const int some = __any_sync(all, lane == 31), every = __all_sync(all, lane < 31);
    const double fraction = __shfl_xor_sync(all, i + 0.25, 1);
    int half = -1;
    if (lane < 16) half = __shfl_sync(0x0000ffffu, value, 15); // only half of the warp comes here
    __syncwarp();

    int *mine = out + 10 * i;
    mine[0] = sum;
    mine[1] = scan;
    mine[2] = next;
    mine[3] = from_five;
    mine[4] = eighth;
    mine[5] = static_cast<int>(odd);
    mine[6] = 2 * some + every;
    mine[7] = static_cast<int>(fraction * 4);
    mine[8] = half;
    mine[9] = __popc(__activemask());
}

int main()
{
    const int blocks = 5, threads = 96, n = blocks * threads;
    int *device = poisoned<int>(10 * n);
    talk<<<blocks, threads>>>(device);
    CHECK(cudaGetLastError());
    const std::vector<int> out = download(device, 10 * n);
    for (int i = 0; i < n; i++) {
        const int lane = i % 32, first = i - lane;
        auto value = [](int thread) { return 10 * thread + 7; };
        int expected[10] = {0, 0};
        unsigned odd = 0;
        for (int k = 0; k < 32; k++) {
            expected[0] += value(first + k);
            if (k <= lane) expected[1] += value(first + k);
            if ((first + k) % 3 == 1) odd |= 1u << k;
        }
        expected[2] = value(lane < 31 ? i + 1 : i);
        expected[3] = value(first + 5);
        expected[4] = value(first + lane / 8 * 8 + 2);
        expected[5] = static_cast<int>(odd);
        expected[6] = 2;
        expected[7] = 4 * (first + (lane ^ 1)) + 1;
        expected[8] = lane < 16 ? value(first + 15) : -1;
        expected[9] = 32;
        for (int k = 0; k < 9; k++) {
            EXPECT(out[10 * i + k] == expected[k], "thread %d, exchange %d is %d, not %d", i, k, out[10 * i + k], expected[k]);
        }
        // Which threads are together at a point is the device's affair, but there is at least the one that asks.
        EXPECT(out[10 * i + 9] >= 1 && out[10 * i + 9] <= 32, "%d active threads", out[10 * i + 9]);
    }
    CHECK(cudaFree(device));
    return passed("shuffles");
}
