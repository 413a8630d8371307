// The source of regions.ptx: nvcc 13.0, -O2 -std=c++17 -arch=compute_80 -ptx. tests/regions.rs says what each must give.
// Every kernel gets `out`, one word for each thread of the grid, and `n`.

#define LINEAR (int)(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z))
#define THREADS (blockDim.x * blockDim.y * blockDim.z)
#define OUT out[blockIdx.x * THREADS + t]

// A barrier in a loop whose count is the same for all.
extern "C" __global__ void tree(int *out, int n)
{
    __shared__ int a[2048];
    const int t = LINEAR;
    a[t] = t * 3 + blockIdx.x;
    a[t + 1024] = t;
    __syncthreads();
#pragma unroll 1
    for (int s = n; s > 0; s >>= 1) {
        if (t < s) a[t] += a[t + s];
        __syncthreads();
    }
    OUT = a[t];
}

// The same with the bound compared in other ways, against x alone.
extern "C" __global__ void bounds(int *out, int n)
{
    __shared__ int a[1024];
    const int t = LINEAR;
    a[t] = 0;
    __syncthreads();
#pragma unroll 1
    for (int k = n; k < n + 5; k++) {
        if ((int)threadIdx.x <= k) a[t] += 1;
        __syncthreads();
        if (threadIdx.x > (unsigned)k) a[t] += 10;
        __syncthreads();
        if ((int)threadIdx.x >= k) a[t] += 100;
        __syncthreads();
        if (k > (int)threadIdx.x) a[t] += 1000;
        __syncthreads();
        if ((int)threadIdx.x == k) a[t] += 10000;
        __syncthreads();
        if (threadIdx.x == (unsigned)k) a[t] += 100000;
        __syncthreads();
    }
    OUT = a[t];
}

// Threads that leave before the first barrier, and between two.
extern "C" __global__ void early_exit(int *out, int n)
{
    __shared__ int a[1024];
    const int t = LINEAR;
    a[t] = 7;
    OUT = -1;
    if (t >= n) return;
    __syncthreads();
    int sum = 0;
#pragma unroll 1
    for (int s = 1; s < 32; s <<= 1) {
        a[t] += s + a[(t + s) % n] * 0;
        __syncthreads();
        if (t > n / s) {
            OUT = sum + s * 1000;
            return;
        }
        sum += a[(t + 1) % n];
        __syncthreads();
    }
    OUT = sum;
}

// A barrier under a branch that all take alike.
extern "C" __global__ void uniform_branch(int *out, int n)
{
    __shared__ int a[1024];
    const int t = LINEAR;
    a[t] = t;
    if (n > 5) {
        __syncthreads();
        OUT = a[THREADS - 1 - t] + n;
    } else if (blockIdx.x == 1) {
        __syncthreads();
        OUT = a[t ^ 1] - n;
    } else {
        OUT = n;
    }
}

// Both sides of a branch on which threads differ come to barriers of their own, which match each other.
extern "C" __global__ void divergent(int *out, int n)
{
    __shared__ int a[1024];
    const int t = LINEAR;
    int value = t * n;
    a[t] = value;
    if (t & 1) {
        asm volatile("barrier.sync 0;" ::: "memory");
        value += a[t - 1];
        asm volatile("barrier.sync 0;" ::: "memory");
        a[t] = 1;
    } else {
        value += 5;
        asm volatile("barrier.sync 0;" ::: "memory");
        value += a[t + 1];
        asm volatile("barrier.sync 0;" ::: "memory");
        a[t] = 2;
    }
    asm volatile("barrier.sync 0;" ::: "memory");
    OUT = value * 10 + a[(t + 1) % THREADS];
}

// How often the loop runs is data, but the same for all.
extern "C" __global__ void data_count(int *out, int n)
{
    __shared__ int left, a[1024];
    const int t = LINEAR;
    if (t == 0) left = n;
    a[t] = t;
    __syncthreads();
    while (left > 0) {
        const int other = a[(t + 1) % THREADS];
        __syncthreads();
        a[t] += other;
        if (t == 0) left--;
        __syncthreads();
    }
    OUT = a[t];
}

// Threads do not all run the loop as often; who is through counts as arrived.
extern "C" __global__ void leaves_loop_apart(int *out, int n)
{
    __shared__ int a[1024];
    const int t = LINEAR;
    a[t] = 0;
    OUT = -1;
    for (int i = 0; i <= t % n; i++) {
        asm volatile("barrier.sync 0;" ::: "memory");
        a[t] += i;
        OUT = a[t];
    }
}

// Counts of a loop without barriers differ between threads, though each step is the same.
extern "C" __global__ void counts_apart(int *out, int n)
{
    __shared__ int a[1024];
    const int t = LINEAR;
    int steps = 0;
    unsigned value = t + 1;
    do {
        steps++;
        value = value & 1 ? 3 * value + 1 : value / 2;
    } while (value != 1 && steps < n);
    a[t] = steps;
    __syncthreads();
    OUT = steps * 1000 + a[(t + 1) % THREADS];
}

// What is written before a barrier is read behind it, again and again, and not too early.
extern "C" __global__ void races(int *out, int n)
{
    __shared__ int a[1024];
    const int t = LINEAR;
    a[t] = t;
#pragma unroll 1
    for (int i = 0; i < n; i++) {
        __syncthreads();
        const int left = a[(t + THREADS - 1) % THREADS], right = a[(t + 1) % THREADS];
        __syncthreads();
        a[t] = left * 3 + right;
    }
    OUT = a[t];
}

// Each thread's own memory outlives a barrier, and so do pointers to it.
extern "C" __global__ void own_memory(int *out, int n)
{
    __shared__ int a[1024];
    const int t = LINEAR;
    int own[16];
    for (int i = 0; i < 16; i++) own[i] = t * i;
    int *pointer = &own[(t + n) % 16];
    a[t] = *pointer;
    __syncthreads();
    *pointer += a[(t + 1) % THREADS];
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < 16; i++) sum += own[(i * n) & 15] * i;
    OUT = sum;
}

__device__ __noinline__ int helper(int n, int *shared)
{
    int local[8];
    for (int i = 0; i < 8; i++) local[i] = shared[threadIdx.x] + i * n;
    return local[(threadIdx.x + n) & 7];
}

// Calls between barriers: the function knows which thread calls.
extern "C" __global__ void calls(int *out, int n)
{
    __shared__ int a[1024];
    const int t = LINEAR;
    a[t] = t;
    __syncthreads();
    const int first = helper(n, a);
    __syncthreads();
    a[t] = first;
    __syncthreads();
    OUT = helper(n + 1, a) + a[(t + 3) % THREADS];
}

// Barriers that answer.
extern "C" __global__ void answers(int *out, int n)
{
    const int t = LINEAR;
    const int count = __syncthreads_count(t % 3 == 0);
    const int all = __syncthreads_and(t < n), any = __syncthreads_or(t == n);
    OUT = count * 100 + all * 10 + any;
}

// Half of the block hands over to the other half.
extern "C" __global__ void halves(int *out, int n)
{
    __shared__ int a[1024];
    const int t = LINEAR, half = THREADS / 2;
    int value = 0;
#pragma unroll 1
    for (int i = 0; i < n; i++) {
        if (t < half) {
            a[t] = t + i;
            asm volatile("bar.arrive 1, %0; bar.sync 2, %0;" ::"r"(THREADS) : "memory");
        } else {
            asm volatile("bar.sync 1, %0;" ::"r"(THREADS) : "memory");
            value += a[t - half];
            asm volatile("bar.arrive 2, %0;" ::"r"(THREADS) : "memory");
        }
    }
    OUT = value;
}

// Sums of warps and their sum, as libraries do it.
extern "C" __global__ void warp_sums(int *out, int n)
{
    __shared__ int a[32];
    const int t = LINEAR;
    int value = t * n + 1;
    for (int d = 16; d > 0; d >>= 1) value += __shfl_down_sync(~0u, value, d);
    if (t % 32 == 0) a[t / 32] = value;
    __syncthreads();
    if (t < 32) {
        value = t < THREADS / 32 ? a[t] : 0;
        for (int d = 16; d > 0; d >>= 1) value += __shfl_xor_sync(~0u, value, d);
        a[t] = value;
    }
    __syncthreads();
    OUT = a[0];
}

// A scan of the block: shuffles, then a second level in shared memory.
extern "C" __global__ void scan(int *out, int n)
{
    __shared__ int a[32];
    const int t = LINEAR, lane = t % 32;
    int value = t % 7 + n;
    for (int d = 1; d < 32; d <<= 1) {
        const int other = __shfl_up_sync(~0u, value, d);
        if (lane >= d) value += other;
    }
    if (lane == 31) a[t / 32] = value;
    __syncthreads();
    if (t < 32) {
        int sum = t < THREADS / 32 ? a[t] : 0;
        for (int d = 1; d < 32; d <<= 1) {
            const int other = __shfl_up_sync(~0u, sum, d);
            if (lane >= d) sum += other;
        }
        a[t] = sum;
    }
    __syncthreads();
    OUT = value + (t >= 32 ? a[t / 32 - 1] : 0);
}

// Votes, matches and masks of lanes that are somewhere else.
extern "C" __global__ void lanes_apart(int *out, int n)
{
    const int t = LINEAR, lane = t % 32;
    unsigned value = __ballot_sync(~0u, lane % 3 == n % 3);
    value += __match_any_sync(~0u, lane / 4);
    value += __reduce_add_sync(~0u, lane) + __reduce_max_sync(~0u, t);
    if (lane < 12) {
        value += __shfl_sync(0xfff, t, (lane + 1) % 12);
        value += __popc(__activemask()) * 1000;
    } else if (lane & 1) {
        value ^= __ballot_sync(0xaaaaa000, lane > 20);
        __syncwarp(0xaaaaa000);
    }
    __syncwarp();
    OUT = value + __any_sync(~0u, t == n) * 3;
}

// The last levels of a tree as they were written for lock-step warps, without anything between them.
extern "C" __global__ void lock_step_tree(int *out, int n)
{
    __shared__ int memory[1024 + 64];
    volatile int *a = memory;
    const int t = LINEAR;
    a[t] = t * n + 1;
    if (t < 64) a[t + 1024] = 0;
    __syncthreads();
    if (t % 64 < 32) {
        a[t] += a[t + 32];
        a[t] += a[t + 16];
        a[t] += a[t + 8];
        a[t] += a[t + 4];
        a[t] += a[t + 2];
        a[t] += a[t + 1];
    }
    __syncthreads();
    OUT = a[t / 64 * 64];
}

// Each lane takes what its neighbour has: reads before the neighbour's writes, again and again.
extern "C" __global__ void lock_step_shift(int *out, int n)
{
    __shared__ int memory[1024];
    volatile int *a = memory;
    const int t = LINEAR, next = t / 32 * 32 + (t + 1) % 32;
    a[t] = t;
    a[t] = a[next];
    a[t] = a[next];
    a[t] = a[next] + n;
    OUT = a[t];
}

// Who wrote last is seen by all who wrote.
extern "C" __global__ void lock_step_owner(int *out, int n)
{
    __shared__ int memory[1024];
    volatile int *a = memory;
    const int t = LINEAR, slot = t / 32 * 32 + t % 4;
    a[slot] = t + n;
    OUT = a[slot];
}

// A scan whose volatile accesses barriers keep apart, as the scan of NVIDIA's samples.
extern "C" __global__ void lock_step_scan(int *out, int n)
{
    __shared__ int memory[2048];
    volatile int *a = memory;
    const int t = LINEAR, threads = THREADS;
    a[t] = 0;
    a[t + threads] = t + n;
#pragma unroll 1
    for (int d = 1; d < threads; d <<= 1) {
        __syncthreads();
        const int sum = a[t + threads] + a[t + threads - d];
        __syncthreads();
        a[t + threads] = sum;
    }
    OUT = a[t + threads];
}

// Rows at whose ends some accesses are nobody's: the others are checked one by one.
extern "C" __global__ void ragged(int *out, int n)
{
    const int t = LINEAR;
    const int i = blockIdx.x * THREADS + t;
    if (t % 16 < n) out[i] = out[i] + i;
    if (t >= n) out[i] = out[i] + 1000;
}
