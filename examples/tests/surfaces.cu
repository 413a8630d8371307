// Surface objects: stores and loads by coordinates, the three ways to be outside, and copies between arrays and memory.

#include "test.h"

static cudaSurfaceObject_t surface_of(cudaArray_t array)
{
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    cudaSurfaceObject_t object = 0;
    CHECK(cudaCreateSurfaceObject(&object, &resource));
    return object;
}

__global__ void fill(cudaSurfaceObject_t surface, int width, int height)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    // One too many on each side, which must not be written.
    if (x <= width && y <= height) {
        surf2Dwrite(make_float4(float(x), float(y), 2.0f, -1.0f), surface, x * int(sizeof(float4)), y, cudaBoundaryModeZero);
    }
}

__global__ void turn(cudaSurfaceObject_t from, cudaSurfaceObject_t to, int width, int height, float4 *outside)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < width && y < height) {
        const float4 value = surf2Dread<float4>(from, x * int(sizeof(float4)), y);
        surf2Dwrite(value, to, y * int(sizeof(float4)), x);
    }
    if (x == 0 && y == 0) {
        outside[0] = surf2Dread<float4>(from, 1000 * int(sizeof(float4)), 1000, cudaBoundaryModeClamp);
        outside[1] = surf2Dread<float4>(from, -int(sizeof(float4)), 0, cudaBoundaryModeZero);
    }
}

__global__ void fill_layers(cudaSurfaceObject_t layers, cudaSurfaceObject_t volume, cudaSurfaceObject_t row)
{
    const int x = threadIdx.x, y = threadIdx.y, z = threadIdx.z;
    surf2DLayeredwrite(static_cast<unsigned char>(x + 10 * y + 100 * z), layers, x, y, z);
    surf3Dwrite(static_cast<short>(x - 10 * y - 100 * z), volume, x * 2, y, z);
    if (y == 0 && z == 0) surf1Dwrite(make_uint2(x, ~x), row, x * 8);
}

static std::vector<unsigned char> contents(cudaArray_t array, size_t element, int width, int height, int depth)
{
    std::vector<unsigned char> bytes(element * width * height * depth, 0xee);
    cudaMemcpy3DParms copy = {};
    copy.srcArray = array;
    copy.dstPtr = make_cudaPitchedPtr(bytes.data(), element * width, width, height);
    copy.extent = make_cudaExtent(width, height, depth);
    copy.kind = cudaMemcpyDeviceToHost;
    CHECK(cudaMemcpy3D(&copy));
    return bytes;
}

static cudaArray_t array_of(const cudaChannelFormatDesc &format, int width, int height, int depth, unsigned flags)
{
    cudaArray_t array = nullptr;
    CHECK(cudaMalloc3DArray(&array, &format, make_cudaExtent(width, height, depth), flags));
    return array;
}

int main()
{
    const int width = 37, height = 21;
    const cudaChannelFormatDesc float4s = cudaCreateChannelDesc<float4>();
    cudaArray_t first = array_of(float4s, width, height, 0, cudaArraySurfaceLoadStore);
    cudaArray_t second = array_of(float4s, height, width, 0, cudaArraySurfaceLoadStore);
    cudaSurfaceObject_t from = surface_of(first), to = surface_of(second);
    float4 *outside = poisoned<float4>(2);
    const dim3 block(16, 16), grid((width + 16) / 16, (height + 16) / 16);
    fill<<<grid, block>>>(from, width, height);
    turn<<<grid, block>>>(from, to, width, height, outside);
    CHECK(cudaGetLastError());
    const std::vector<float4> edges = download(outside, 2);
    EXPECT(edges[0].x == width - 1 && edges[0].y == height - 1, "clamped to (%f, %f)", edges[0].x, edges[0].y);
    EXPECT(edges[1].x == 0 && edges[1].w == 0, "outside is (%f .. %f)", edges[1].x, edges[1].w);

    // Out by way of device memory and by way of another array: the same texels.
    float4 *memory = poisoned<float4>(width * height);
    const size_t pitch = height * sizeof(float4);
    CHECK(cudaMemcpy2DFromArray(memory, pitch, second, 0, 0, pitch, width, cudaMemcpyDeviceToDevice));
    const std::vector<float4> turned = download(memory, width * height);
    cudaArray_t third = array_of(float4s, height, width, 0, cudaArrayDefault);
    CHECK(cudaMemcpy2DArrayToArray(third, 0, 0, second, 0, 0, pitch, width, cudaMemcpyDeviceToDevice));
    const std::vector<unsigned char> copied = contents(third, sizeof(float4), height, width, 1);
    EXPECT(std::memcmp(copied.data(), turned.data(), copied.size()) == 0, "the copy of an array differs");
    for (int x = 0; x < width; x++) {
        for (int y = 0; y < height; y++) {
            const float4 value = turned[x * height + y];
            EXPECT(value.x == x && value.y == y && value.z == 2 && value.w == -1, "(%d, %d) is (%f, %f, %f, %f)", x, y,
                   value.x, value.y, value.z, value.w);
        }
    }

    // A part of an array, from memory.
    float4 marks[4] = {};
    for (int i = 0; i < 4; i++) marks[i].x = 100.0f + i;
    CHECK(cudaMemcpy2DToArray(third, 2 * sizeof(float4), 3, marks, 2 * sizeof(float4), 2 * sizeof(float4), 2,
                              cudaMemcpyHostToDevice));
    const std::vector<unsigned char> marked = contents(third, sizeof(float4), height, width, 1);
    const float4 *texels = reinterpret_cast<const float4 *>(marked.data());
    EXPECT(texels[3 * height + 2].x == 100 && texels[4 * height + 3].x == 103, "the part is not there");
    EXPECT(texels[3 * height + 4].x == 3 && texels[5 * height + 2].x == 5, "more than the part was written");

    const unsigned both = cudaArrayLayered | cudaArraySurfaceLoadStore;
    cudaArray_t layers = array_of(cudaCreateChannelDesc<unsigned char>(), 8, 4, 2, both);
    cudaArray_t volume = array_of(cudaCreateChannelDesc<short>(), 8, 4, 2, cudaArraySurfaceLoadStore);
    cudaArray_t row = array_of(cudaCreateChannelDesc<uint2>(), 8, 0, 0, cudaArraySurfaceLoadStore);
    cudaSurfaceObject_t objects[3] = {surface_of(layers), surface_of(volume), surface_of(row)};
    fill_layers<<<1, dim3(8, 4, 2)>>>(objects[0], objects[1], objects[2]);
    const std::vector<unsigned char> bytes = contents(layers, 1, 8, 4, 2), words = contents(volume, 2, 8, 4, 2),
                                     pairs = contents(row, 8, 8, 1, 1);
    for (int i = 0; i < 64; i++) {
        const int x = i % 8, y = i / 8 % 4, z = i / 32;
        const short word = reinterpret_cast<const short *>(words.data())[i];
        EXPECT(bytes[i] == x + 10 * y + 100 * z, "layer %d (%d, %d) is %d", z, x, y, bytes[i]);
        EXPECT(word == x - 10 * y - 100 * z, "slice %d (%d, %d) is %d", z, x, y, word);
    }
    for (int x = 0; x < 8; x++) {
        const uint2 pair = reinterpret_cast<const uint2 *>(pairs.data())[x];
        EXPECT(pair.x == unsigned(x) && pair.y == ~unsigned(x), "row %d is (%u, %u)", x, pair.x, pair.y);
    }

    // A box of device memory into the middle of the volume, both with positions: bytes there, elements here.
    cudaPitchedPtr box = {};
    CHECK(cudaMalloc3D(&box, make_cudaExtent(16, 6, 3)));
    CHECK(cudaMemset3D(box, 0x11, make_cudaExtent(16, 6, 3)));
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = box;
    copy.srcPos = make_cudaPos(4, 1, 2);
    copy.dstArray = volume;
    copy.dstPos = make_cudaPos(3, 2, 1);
    copy.extent = make_cudaExtent(5, 2, 1);
    copy.kind = cudaMemcpyDeviceToDevice;
    CHECK(cudaMemcpy3DAsync(&copy));
    const std::vector<unsigned char> mixed = contents(volume, 2, 8, 4, 2);
    for (int i = 0; i < 64; i++) {
        const int x = i % 8, y = i / 8 % 4, z = i / 32;
        const bool inside = x >= 3 && y >= 2 && z == 1;
        const short word = reinterpret_cast<const short *>(mixed.data())[i];
        EXPECT(word == (inside ? 0x1111 : x - 10 * y - 100 * z), "box (%d, %d, %d) is %d", x, y, z, word);
    }
    copy.extent.width = 6;
    EXPECT(cudaMemcpy3D(&copy) == cudaErrorInvalidValue, "a box beyond its array was copied");
    EXPECT(cudaGetLastError() == cudaErrorInvalidValue, "the error is not the last one");
    CHECK(cudaFree(box.ptr));

    for (cudaSurfaceObject_t object : {from, to, objects[0], objects[1], objects[2]}) {
        CHECK(cudaDestroySurfaceObject(object));
    }
    for (cudaArray_t array : {first, second, third, layers, volume, row}) CHECK(cudaFreeArray(array));
    CHECK(cudaFree(outside));
    CHECK(cudaFree(memory));
    return passed("surfaces");
}
