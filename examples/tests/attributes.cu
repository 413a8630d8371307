// What streams, kernels and devices say about themselves: attributes of streams that come back as they were set and
// copied, occupancy with shared memory, clusters, and managed memory that knows what was said about it.

#include "test.h"

__global__ void reverse(int *values, int n)
{
    extern __shared__ int shared[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) shared[i] = values[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) values[i] = shared[n - 1 - i];
}

static void streams()
{
    cudaStream_t stream, other;
    int lowest = 7, highest = 7;
    CHECK(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, highest));
    CHECK(cudaStreamCreate(&other));
    cudaStreamAttrValue value = {};
    CHECK(cudaStreamGetAttribute(stream, cudaLaunchAttributeSynchronizationPolicy, &value));
    EXPECT(value.syncPolicy == cudaSyncPolicyAuto, "%d at first", value.syncPolicy);
    value.syncPolicy = cudaSyncPolicyYield;
    CHECK(cudaStreamSetAttribute(stream, cudaLaunchAttributeSynchronizationPolicy, &value));
    value = {};
    value.accessPolicyWindow.base_ptr = &value, value.accessPolicyWindow.num_bytes = 4096;
    value.accessPolicyWindow.hitRatio = 0.6f, value.accessPolicyWindow.hitProp = cudaAccessPropertyPersisting;
    CHECK(cudaStreamSetAttribute(stream, cudaLaunchAttributeAccessPolicyWindow, &value));
    CHECK(cudaStreamCopyAttributes(other, stream));
    cudaStreamAttrValue copied = {};
    CHECK(cudaStreamGetAttribute(other, cudaLaunchAttributeAccessPolicyWindow, &copied));
    EXPECT(copied.accessPolicyWindow.num_bytes == 4096 && copied.accessPolicyWindow.hitRatio == 0.6f, "%zu bytes, %f",
           copied.accessPolicyWindow.num_bytes, copied.accessPolicyWindow.hitRatio);
    CHECK(cudaStreamGetAttribute(other, cudaLaunchAttributeSynchronizationPolicy, &copied));
    EXPECT(copied.syncPolicy == cudaSyncPolicyYield, "%d copied", copied.syncPolicy);
    int priority = 7;
    CHECK(cudaStreamGetPriority(other, &priority));
    CHECK(cudaStreamGetAttribute(stream, cudaLaunchAttributePriority, &value));
    EXPECT(priority == highest && value.priority == highest, "priorities %d and %d", priority, value.priority);
    EXPECT(cudaStreamSetAttribute(stream, cudaLaunchAttributeCooperative, &value) == cudaErrorInvalidValue, "launches");
    (void)cudaGetLastError();
    CHECK(cudaCtxResetPersistingL2Cache());
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaStreamDestroy(other));
}

static void kernels()
{
    // As much shared memory as lets two blocks run at once does, and one byte more does not.
    size_t available = 0;
    int most = 0, blocks = 0;
    CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    CHECK(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
    CHECK(cudaOccupancyAvailableDynamicSMemPerBlock(&available, reverse, 2, 128));
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, reverse, 128, available));
    EXPECT(available > 0 && blocks >= 2, "%d blocks with %zu bytes", blocks, available);
    if (available < size_t(most)) {
        CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, reverse, 128, available + 1));
        EXPECT(blocks < 2, "%d blocks with one byte more than %zu", blocks, available);
    }

    cudaLaunchConfig_t config = {};
    config.gridDim = 8, config.blockDim = 128, config.dynamicSmemBytes = 4000;
    int cluster = 0;
    CHECK(cudaOccupancyMaxPotentialClusterSize(&cluster, reverse, &config));
    EXPECT(cluster >= 1, "clusters of %d", cluster);
    const int n = int(available / sizeof(int));
    std::vector<int> values(n);
    for (int i = 0; i < n; i++) values[i] = i;
    int *device = poisoned<int>(n);
    CHECK(cudaMemcpy(device, values.data(), n * sizeof(int), cudaMemcpyHostToDevice));
    reverse<<<1, 128, available>>>(device, n);
    CHECK(cudaGetLastError());
    const std::vector<int> back = download(device, n);
    for (int i = 0; i < n; i++) EXPECT(back[i] == n - 1 - i, "[%d] is %d", i, back[i]);
    CHECK(cudaFree(device));
}

static void managed()
{
    const size_t half = 1 << 16;
    char *memory;
    CHECK(cudaMallocManaged(&memory, 2 * half));
    const auto ask = [memory](cudaMemRangeAttribute attribute, size_t bytes) {
        int answer = 77;
        CHECK(cudaMemRangeGetAttribute(&answer, sizeof(answer), attribute, memory, bytes));
        return answer;
    };
    EXPECT(ask(cudaMemRangeAttributePreferredLocation, half) == cudaInvalidDeviceId, "nothing was said yet");
#if CUDART_VERSION >= 13000
    cudaMemLocation here = {}, host = {};
    here.type = cudaMemLocationTypeDevice, host.type = cudaMemLocationTypeHost;
    CHECK(cudaMemAdvise(memory, half, cudaMemAdviseSetPreferredLocation, here));
    CHECK(cudaMemAdvise(memory, 2 * half, cudaMemAdviseSetReadMostly, here));
    CHECK(cudaMemAdvise(memory, 2 * half, cudaMemAdviseSetAccessedBy, here));
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    void *parts[] = {memory, memory + half};
    size_t sizes[] = {half, half}, firsts[] = {0, 1};
    cudaMemLocation locations[] = {here, host};
    std::memset(memory, 3, 2 * half);
    CHECK(cudaMemPrefetchBatchAsync(parts, sizes, 2, locations, firsts, 2, 0, stream));
    EXPECT(ask(cudaMemRangeAttributeLastPrefetchLocation, half) == 0, "the first half went to the device");
    EXPECT(ask(cudaMemRangeAttributeLastPrefetchLocation, 2 * half) == cudaInvalidDeviceId, "the halves differ");
    CHECK(cudaStreamDestroy(stream));
#else
    CHECK(cudaMemAdvise(memory, half, cudaMemAdviseSetPreferredLocation, 0));
    CHECK(cudaMemAdvise(memory, 2 * half, cudaMemAdviseSetReadMostly, 0));
    CHECK(cudaMemAdvise(memory, 2 * half, cudaMemAdviseSetAccessedBy, 0));
    std::memset(memory, 3, 2 * half);
#endif
    EXPECT(ask(cudaMemRangeAttributePreferredLocation, half) == 0, "the first half");
    EXPECT(ask(cudaMemRangeAttributePreferredLocation, 2 * half) == cudaInvalidDeviceId, "both halves");
    int devices[2] = {77, 77}, mostly = 77;
    void *data[] = {devices, &mostly};
    size_t lengths[] = {sizeof(devices), sizeof(mostly)};
    cudaMemRangeAttribute asked[] = {cudaMemRangeAttributeAccessedBy, cudaMemRangeAttributeReadMostly};
    CHECK(cudaMemRangeGetAttributes(data, lengths, asked, 2, memory, 2 * half));
    EXPECT(devices[0] == 0 && devices[1] == cudaInvalidDeviceId && mostly == 1, "%d, %d, %d", devices[0], devices[1],
           mostly);
    reverse<<<1, 128, 1024>>>(reinterpret_cast<int *>(memory), 256);
    CHECK(cudaDeviceSynchronize());
    EXPECT(memory[0] == 3 && memory[2 * half - 1] == 3, "%d and %d", memory[0], memory[2 * half - 1]);
    CHECK(cudaFree(memory));
}

int main()
{
    streams();
    managed();
    kernels();
    return passed("attributes");
}
