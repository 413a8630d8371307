// Texture objects: every address mode and filter over an array against a model on the CPU, then memory as a texture,
// layers, the faces of a cube, normalized reads and mipmap levels.

#include "test.h"

#include <algorithm>
#include <cmath>

static cudaTextureDesc description(cudaTextureAddressMode mode, cudaTextureFilterMode filter, bool normalized)
{
    cudaTextureDesc texture = {};
    texture.addressMode[0] = texture.addressMode[1] = texture.addressMode[2] = mode;
    texture.filterMode = filter;
    texture.readMode = cudaReadModeElementType;
    texture.normalizedCoords = normalized;
    return texture;
}

static cudaTextureObject_t show(cudaArray_t array, const cudaTextureDesc &texture)
{
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    cudaTextureObject_t object = 0;
    CHECK(cudaCreateTextureObject(&object, &resource, &texture, nullptr));
    return object;
}

// ---- a model of the programming guide's formulas

static int brought_back(int i, int n, cudaTextureAddressMode mode)
{
    switch (mode) {
    case cudaAddressModeWrap: return ((i % n) + n) % n;
    case cudaAddressModeMirror: {
        const int turned = ((i % (2 * n)) + 2 * n) % (2 * n);
        return std::min(turned, 2 * n - 1 - turned);
    }
    case cudaAddressModeBorder: return i < 0 || i >= n ? -1 : i;
    default: return std::min(std::max(i, 0), n - 1);
    }
}

struct Model {
    const float *texels;
    int width, height;
    cudaTextureAddressMode mode;

    float at(int x, int y) const
    {
        x = brought_back(x, width, mode), y = brought_back(y, height, mode);
        return x < 0 || y < 0 ? 0.0f : texels[y * width + x];
    }

    float point(float x, float y) const { return at(int(std::floor(x)), int(std::floor(y))); }

    float linear(float x, float y) const
    {
        const float xb = x - 0.5f, yb = y - 0.5f;
        const int i = int(std::floor(xb)), j = int(std::floor(yb));
        const float a = std::round((xb - i) * 256) / 256, b = std::round((yb - j) * 256) / 256;
        return (1 - a) * (1 - b) * at(i, j) + a * (1 - b) * at(i + 1, j) + (1 - a) * b * at(i, j + 1) +
               a * b * at(i + 1, j + 1);
    }
};

__global__ void look(cudaTextureObject_t texture, const float2 *places, float *values, int count)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) values[i] = tex2D<float>(texture, places[i].x, places[i].y);
}

static void modes()
{
    const int width = 13, height = 7, count = 1024;
    std::vector<float> texels(width * height);
    for (int i = 0; i < width * height; i++) texels[i] = float((i * 37) % 101) + 1;
    cudaArray_t array = nullptr;
    const cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();
    CHECK(cudaMallocArray(&array, &format, width, height));
    CHECK(cudaMemcpy2DToArray(array, 0, 0, texels.data(), width * sizeof(float), width * sizeof(float), height,
                              cudaMemcpyHostToDevice));
    std::vector<float> back(width * height);
    CHECK(cudaMemcpy2DFromArray(back.data(), width * sizeof(float), array, 0, 0, width * sizeof(float), height,
                                cudaMemcpyDeviceToHost));
    EXPECT(back == texels, "the array gives back other texels");

    std::vector<float2> places(count);
    for (int i = 0; i < count; i++) {
        // Places in texels, three times as far as the texture in each direction; odd 1/64s lie off every edge.
        places[i].x = float((i * 61) % (width * 3 * 32) * 2 + 1) / 64 - width;
        places[i].y = float((i * 23) % (height * 3 * 32) * 2 + 1) / 64 - height;
    }
    float2 *device_places = nullptr;
    CHECK(cudaMalloc(&device_places, count * sizeof(float2)));
    const cudaTextureAddressMode all[] = {cudaAddressModeWrap, cudaAddressModeClamp, cudaAddressModeMirror,
                                          cudaAddressModeBorder};
    for (cudaTextureAddressMode mode : all) {
        for (int filter = 0; filter < 2; filter++) {
            for (int normalized = 0; normalized < 2; normalized++) {
                // Without normalized coordinates, wrap and mirror are clamp.
                const bool turns = mode == cudaAddressModeWrap || mode == cudaAddressModeMirror;
                const Model model = {texels.data(), width, height,
                                     turns && !normalized ? cudaAddressModeClamp : mode};
                std::vector<float2> asked = places;
                for (float2 &place : asked) {
                    if (normalized) place.x /= width, place.y /= height;
                }
                CHECK(cudaMemcpy(device_places, asked.data(), count * sizeof(float2), cudaMemcpyHostToDevice));
                float *values = poisoned<float>(count);
                const cudaTextureObject_t texture =
                    show(array, description(mode, cudaTextureFilterMode(filter), normalized));
                look<<<(count + 127) / 128, 128>>>(texture, device_places, values, count);
                CHECK(cudaGetLastError());
                const std::vector<float> found = download(values, count);
                for (int i = 0; i < count; i++) {
                    const float2 place = places[i];
                    const float wanted = filter ? model.linear(place.x, place.y) : model.point(place.x, place.y);
                    // A weight may fall on either side of a 256th.
                    const float slack = filter ? 1.2f : 0;
                    EXPECT(std::fabs(found[i] - wanted) <= slack,
                           "mode %d, filter %d, normalized %d at (%f, %f): %f, not %f", int(mode), filter,
                           normalized, place.x, place.y, found[i], wanted);
                }
                CHECK(cudaDestroyTextureObject(texture));
                CHECK(cudaFree(values));
            }
        }
    }
    CHECK(cudaFree(device_places));
    CHECK(cudaFreeArray(array));
}

// ---- device memory as a texture

__global__ void look_linear(cudaTextureObject_t texture, int4 *values, int count)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) values[i] = tex1Dfetch<int4>(texture, i - 2);
}

__global__ void look_pitched(cudaTextureObject_t texture, float2 *values, int width, int height)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < width && y < height) values[y * width + x] = tex2D<float2>(texture, x + 0.5f, y + 0.5f);
}

static void memory()
{
    const int count = 300;
    std::vector<int4> numbers(count);
    for (int i = 0; i < count; i++) numbers[i] = make_int4(i, -i, 3 * i, 7);
    int4 *linear = nullptr, *values = poisoned<int4>(count + 4);
    CHECK(cudaMalloc(&linear, count * sizeof(int4)));
    CHECK(cudaMemcpy(linear, numbers.data(), count * sizeof(int4), cudaMemcpyHostToDevice));
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeLinear;
    resource.res.linear.devPtr = linear;
    resource.res.linear.desc = cudaCreateChannelDesc<int4>();
    resource.res.linear.sizeInBytes = count * sizeof(int4);
    const cudaTextureDesc texture = description(cudaAddressModeClamp, cudaFilterModePoint, false);
    cudaTextureObject_t object = 0;
    CHECK(cudaCreateTextureObject(&object, &resource, &texture, nullptr));
    look_linear<<<3, 128>>>(object, values, count + 4);
    const std::vector<int4> found = download(values, count + 4);
    for (int i = 0; i < count + 4; i++) {
        const bool inside = i >= 2 && i < count + 2;
        const int4 wanted = inside ? numbers[i - 2] : make_int4(0, 0, 0, 0);
        EXPECT(std::memcmp(&found[i], &wanted, sizeof wanted) == 0, "linear %d: %d", i, found[i].x);
    }
    cudaResourceDesc told = {};
    CHECK(cudaGetTextureObjectResourceDesc(&told, object));
    EXPECT(told.resType == cudaResourceTypeLinear && told.res.linear.devPtr == linear, "another resource");
    CHECK(cudaDestroyTextureObject(object));

    const int width = 50, height = 20;
    std::vector<float2> pairs(width * height);
    for (int i = 0; i < width * height; i++) pairs[i] = make_float2(float(i), 0.5f * i);
    float2 *rows = nullptr, *seen = poisoned<float2>(width * height);
    size_t pitch = 0;
    CHECK(cudaMallocPitch(&rows, &pitch, width * sizeof(float2), height));
    CHECK(cudaMemcpy2D(rows, pitch, pairs.data(), width * sizeof(float2), width * sizeof(float2), height,
                       cudaMemcpyHostToDevice));
    resource = {};
    resource.resType = cudaResourceTypePitch2D;
    resource.res.pitch2D.devPtr = rows;
    resource.res.pitch2D.desc = cudaCreateChannelDesc<float2>();
    resource.res.pitch2D.width = width;
    resource.res.pitch2D.height = height;
    resource.res.pitch2D.pitchInBytes = pitch;
    CHECK(cudaCreateTextureObject(&object, &resource, &texture, nullptr));
    look_pitched<<<dim3(4, 2), dim3(16, 16)>>>(object, seen, width, height);
    const std::vector<float2> pitched = download(seen, width * height);
    for (int i = 0; i < width * height; i++) {
        EXPECT(pitched[i].x == pairs[i].x && pitched[i].y == pairs[i].y, "pitched %d: %f", i, pitched[i].x);
    }
    CHECK(cudaDestroyTextureObject(object));
    CHECK(cudaFree(linear));
    CHECK(cudaFree(values));
    CHECK(cudaFree(rows));
    CHECK(cudaFree(seen));
}

// ---- layers, volumes and cubes

__global__ void look_layered(cudaTextureObject_t texture, float *values, int width, int height, int layers)
{
    const int i = threadIdx.x + blockIdx.x * blockDim.x;
    if (i >= width * height * layers) return;
    const int x = i % width, y = i / width % height, layer = i / width / height;
    values[i] = tex2DLayered<float>(texture, x + 0.5f, y + 0.5f, layer);
}

__global__ void look_volume(cudaTextureObject_t texture, float *values)
{
    const int i = threadIdx.x;
    // The middle between eight texels, and the texels themselves.
    values[i] = i == 27 ? tex3D<float>(texture, 1.0f, 1.0f, 1.0f)
                        : tex3D<float>(texture, i % 3 + 0.5f, i / 3 % 3 + 0.5f, i / 9 + 0.5f);
}

__global__ void look_cube(cudaTextureObject_t texture, float *values)
{
    const float3 ways[6] = {{1, 0.1f, 0.2f}, {-1, 0.1f, 0.2f}, {0.1f, 1, 0.2f},
                            {0.1f, -1, 0.2f}, {0.1f, 0.2f, 1}, {0.1f, 0.2f, -1}};
    const float3 way = ways[threadIdx.x];
    values[threadIdx.x] = texCubemap<float>(texture, way.x, way.y, way.z);
}

static cudaArray_t filled(int width, int height, int depth, unsigned flags)
{
    std::vector<float> texels(size_t(width) * height * depth);
    for (size_t i = 0; i < texels.size(); i++) texels[i] = float(i);
    cudaArray_t array = nullptr;
    const cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();
    CHECK(cudaMalloc3DArray(&array, &format, make_cudaExtent(width, height, depth), flags));
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(texels.data(), width * sizeof(float), width, height);
    copy.dstArray = array;
    copy.extent = make_cudaExtent(width, height, depth);
    copy.kind = cudaMemcpyHostToDevice;
    CHECK(cudaMemcpy3D(&copy));
    cudaChannelFormatDesc told = {};
    cudaExtent extent = {};
    unsigned told_flags = 99;
    CHECK(cudaArrayGetInfo(&told, &extent, &told_flags, array));
    EXPECT(told.x == 32 && told.f == cudaChannelFormatKindFloat && extent.depth == size_t(depth) &&
               told_flags == flags,
           "array info: %d bits, depth %zu, flags %u", told.x, extent.depth, told_flags);
    return array;
}

static void depths()
{
    const int width = 9, height = 5, layers = 4, count = width * height * layers;
    cudaArray_t array = filled(width, height, layers, cudaArrayLayered);
    cudaTextureObject_t texture = show(array, description(cudaAddressModeClamp, cudaFilterModePoint, false));
    float *values = poisoned<float>(count);
    look_layered<<<(count + 63) / 64, 64>>>(texture, values, width, height, layers);
    std::vector<float> found = download(values, count);
    for (int i = 0; i < count; i++) EXPECT(found[i] == float(i), "layered %d: %f", i, found[i]);
    CHECK(cudaDestroyTextureObject(texture));
    CHECK(cudaFreeArray(array));

    array = filled(3, 3, 3, cudaArrayDefault);
    texture = show(array, description(cudaAddressModeClamp, cudaFilterModeLinear, false));
    look_volume<<<1, 28>>>(texture, values);
    found = download(values, 28);
    for (int i = 0; i < 27; i++) EXPECT(found[i] == float(i), "volume %d: %f", i, found[i]);
    EXPECT(found[27] == 6.5f, "the middle of a volume is %f", found[27]);
    CHECK(cudaDestroyTextureObject(texture));
    CHECK(cudaFreeArray(array));

    array = filled(4, 4, 6, cudaArrayCubemap);
    texture = show(array, description(cudaAddressModeClamp, cudaFilterModePoint, true));
    look_cube<<<1, 6>>>(texture, values);
    found = download(values, 6);
    // Face, row and column of each direction by the guide's table.
    const int wanted[6] = {0 * 16 + 1 * 4 + 1, 1 * 16 + 1 * 4 + 2, 2 * 16 + 2 * 4 + 2,
                           3 * 16 + 1 * 4 + 2, 4 * 16 + 1 * 4 + 2, 5 * 16 + 1 * 4 + 1};
    for (int i = 0; i < 6; i++) EXPECT(found[i] == float(wanted[i]), "face %d: %f, not %d", i, found[i], wanted[i]);
    CHECK(cudaDestroyTextureObject(texture));
    CHECK(cudaFreeArray(array));
    CHECK(cudaFree(values));
}

// ---- short integers as fractions, gathers, levels

__global__ void look_fractions(cudaTextureObject_t bytes, cudaTextureObject_t words, float4 *values)
{
    const int i = threadIdx.x;
    values[i] = tex2D<float4>(bytes, i + 0.5f, 0.5f);
    values[4 + i] = make_float4(tex1D<float>(words, i + 0.5f), 0, 0, 0);
}

__global__ void look_around(cudaTextureObject_t texture, float4 *value)
{
    *value = tex2Dgather<float4>(texture, 2.0f, 1.0f, 0);
}

__global__ void look_level(cudaTextureObject_t texture, float *values)
{
    values[threadIdx.x] = tex2DLod<float>(texture, 0.5f, 0.5f, 0.5f * threadIdx.x);
}

static void reads()
{
    const unsigned char bytes[16] = {0, 51, 102, 255, 1, 2, 3, 4, 255, 255, 0, 0, 5, 6, 7, 8};
    const short words[4] = {32767, -32767, -32768, 0};
    cudaArray_t array = nullptr, row = nullptr;
    cudaChannelFormatDesc format = cudaCreateChannelDesc<uchar4>();
    CHECK(cudaMallocArray(&array, &format, 4, 1));
    CHECK(cudaMemcpy2DToArray(array, 0, 0, bytes, 16, 16, 1, cudaMemcpyHostToDevice));
    format = cudaCreateChannelDesc<short>();
    CHECK(cudaMallocArray(&row, &format, 4));
    CHECK(cudaMemcpy2DToArray(row, 0, 0, words, 8, 8, 1, cudaMemcpyDefault));
    cudaTextureDesc texture = description(cudaAddressModeClamp, cudaFilterModePoint, false);
    texture.readMode = cudaReadModeNormalizedFloat;
    cudaTextureObject_t first = show(array, texture), second = show(row, texture);
    float4 *values = poisoned<float4>(8);
    look_fractions<<<1, 4>>>(first, second, values);
    const std::vector<float4> found = download(values, 8);
    for (int i = 0; i < 4; i++) {
        const float wanted[4] = {bytes[4 * i] / 255.0f, bytes[4 * i + 1] / 255.0f, bytes[4 * i + 2] / 255.0f,
                                 bytes[4 * i + 3] / 255.0f};
        const float got[4] = {found[i].x, found[i].y, found[i].z, found[i].w};
        for (int c = 0; c < 4; c++) {
            EXPECT(std::fabs(got[c] - wanted[c]) < 1e-6f, "byte %d.%d: %f, not %f", i, c, got[c], wanted[c]);
        }
        const float word = std::max(words[i] / 32767.0f, -1.0f);
        EXPECT(std::fabs(found[4 + i].x - word) < 1e-6f, "word %d: %f, not %f", i, found[4 + i].x, word);
    }
    CHECK(cudaDestroyTextureObject(first));
    CHECK(cudaDestroyTextureObject(second));
    CHECK(cudaFreeArray(array));
    CHECK(cudaFreeArray(row));

    format = cudaCreateChannelDesc<float>();
    std::vector<float> texels(16);
    for (int i = 0; i < 16; i++) texels[i] = float(i);
    CHECK(cudaMallocArray(&array, &format, 4, 4, cudaArrayTextureGather));
    CHECK(cudaMemcpy2DToArray(array, 0, 0, texels.data(), 16, 16, 4, cudaMemcpyHostToDevice));
    first = show(array, description(cudaAddressModeClamp, cudaFilterModePoint, false));
    look_around<<<1, 1>>>(first, values);
    const float4 around = download(values, 1)[0];
    EXPECT(around.x == 5 && around.y == 6 && around.z == 2 && around.w == 1, "gathered %f %f %f %f", around.x,
           around.y, around.z, around.w);
    CHECK(cudaDestroyTextureObject(first));
    CHECK(cudaFreeArray(array));

    cudaMipmappedArray_t mipmapped = nullptr;
    CHECK(cudaMallocMipmappedArray(&mipmapped, &format, make_cudaExtent(4, 4, 0), 3));
    for (unsigned level = 0; level < 3; level++) {
        const size_t extent = 4 >> level;
        std::fill(texels.begin(), texels.end(), 10.0f * level);
        CHECK(cudaGetMipmappedArrayLevel(&array, mipmapped, level));
        CHECK(cudaMemcpy2DToArray(array, 0, 0, texels.data(), extent * 4, extent * 4, extent, cudaMemcpyHostToDevice));
    }
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeMipmappedArray;
    resource.res.mipmap.mipmap = mipmapped;
    texture = description(cudaAddressModeClamp, cudaFilterModeLinear, true);
    texture.mipmapFilterMode = cudaFilterModeLinear;
    texture.maxMipmapLevelClamp = 2;
    CHECK(cudaCreateTextureObject(&first, &resource, &texture, nullptr));
    float *levels = poisoned<float>(6);
    look_level<<<1, 6>>>(first, levels);
    const std::vector<float> seen = download(levels, 6);
    for (int i = 0; i < 6; i++) {
        EXPECT(seen[i] == std::min(5.0f * i, 20.0f), "level %.1f: %f", 0.5 * i, seen[i]);
    }
    CHECK(cudaDestroyTextureObject(first));
    CHECK(cudaFreeMipmappedArray(mipmapped));
    CHECK(cudaFree(values));
    CHECK(cudaFree(levels));
}

int main()
{
    modes();
    memory();
    depths();
    reads();
    return passed("textures");
}
