// Arrays, rectangles with gaps, and a texture over each kind of memory that can be shown.

#include "driver.h"

static const int width = 37, height = 21;

static void check_texture(CUfunction fetch, CUdeviceptr out, const CUDA_RESOURCE_DESC &resource, const std::vector<float> &expected, const char *what)
{
    CUDA_TEXTURE_DESC how = {};
    how.addressMode[0] = how.addressMode[1] = CU_TR_ADDRESS_MODE_CLAMP;
    how.filterMode = CU_TR_FILTER_MODE_POINT;
    CUtexObject texture;
    CHECK(cuTexObjectCreate(&texture, &resource, &how, nullptr));
    CUDA_TEXTURE_DESC told;
    CHECK(cuTexObjectGetTextureDesc(&told, texture));
    EXPECT(told.addressMode[0] == CU_TR_ADDRESS_MODE_CLAMP && told.flags == 0, "%s: flags %u", what, told.flags);
    CHECK(cuMemsetD8(out, 0xff, width * height * sizeof(float)));
    int w = width, h = height;
    void *parameters[] = {&texture, &out, &w, &h};
    CHECK(cuLaunchKernel(fetch, 5, 3, 1, 8, 8, 1, 0, nullptr, parameters, nullptr));
    EXPECT(download<float>(out, width * height) == expected, "%s", what);
    CHECK(cuTexObjectDestroy(texture));
}

int main(int, char **argv)
{
    CUcontext context;
    CUmodule module = begin(argv[0], &context);
    CUfunction fetch = function(module, "fetch");
    // The picture lies in a larger one on the host, at column 2, row 3.
    const int wide = 64, left = 2, top = 3;
    std::vector<float> larger(wide * 32), picture(width * height);
    for (size_t i = 0; i < larger.size(); i++) larger[i] = 0.5f * i;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) picture[y * width + x] = larger[(y + top) * wide + x + left];

    CUDA_ARRAY_DESCRIPTOR what = {};
    what.Width = width, what.Height = height, what.Format = CU_AD_FORMAT_FLOAT, what.NumChannels = 1;
    CUarray array;
    CHECK(cuArrayCreate(&array, &what));
    CUDA_ARRAY_DESCRIPTOR told;
    CHECK(cuArrayGetDescriptor(&told, array));
    EXPECT(told.Width == width && told.Height == height && told.Format == CU_AD_FORMAT_FLOAT, "%zu x %zu", told.Width, told.Height);

    CUDA_MEMCPY2D copy = {};
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = larger.data();
    copy.srcPitch = wide * sizeof(float);
    copy.srcXInBytes = left * sizeof(float), copy.srcY = top;
    copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    copy.dstArray = array;
    copy.WidthInBytes = width * sizeof(float), copy.Height = height;
    CHECK(cuMemcpy2D(&copy));

    // Back from the array: the whole, and a corner of it.
    std::vector<float> back(width * height, -1);
    copy = {};
    copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    copy.srcArray = array;
    copy.dstMemoryType = CU_MEMORYTYPE_HOST;
    copy.dstHost = back.data();
    copy.dstPitch = width * sizeof(float);
    copy.WidthInBytes = width * sizeof(float), copy.Height = height;
    CHECK(cuMemcpy2D(&copy));
    EXPECT(back == picture, "from the array");
    std::vector<float> corner(4 * 5, -1);
    copy.srcXInBytes = 30 * sizeof(float), copy.srcY = 15;
    copy.dstHost = corner.data(), copy.dstPitch = 4 * sizeof(float);
    copy.WidthInBytes = 4 * sizeof(float), copy.Height = 5;
    CHECK(cuMemcpy2D(&copy));
    for (int i = 0; i < 20; i++)
        EXPECT(corner[i] == picture[(15 + i / 4) * width + 30 + i % 4], "corner %d is %f", i, corner[i]);

    // Pitched memory, through a stream.
    CUdeviceptr pitched;
    size_t pitch;
    CHECK(cuMemAllocPitch(&pitched, &pitch, width * sizeof(float), height, 4));
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    copy = {};
    copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    copy.srcArray = array;
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = pitched, copy.dstPitch = pitch;
    copy.WidthInBytes = width * sizeof(float), copy.Height = height;
    CHECK(cuMemcpy2DAsync(&copy, stream));
    CHECK(cuStreamSynchronize(stream));

    CUdeviceptr out = poisoned<float>(width * height);
    CUDA_RESOURCE_DESC resource = {};
    resource.resType = CU_RESOURCE_TYPE_ARRAY;
    resource.res.array.hArray = array;
    check_texture(fetch, out, resource, picture, "a texture over an array");
    resource = {};
    resource.resType = CU_RESOURCE_TYPE_PITCH2D;
    resource.res.pitch2D.devPtr = pitched;
    resource.res.pitch2D.format = CU_AD_FORMAT_FLOAT;
    resource.res.pitch2D.numChannels = 1;
    resource.res.pitch2D.width = width;
    resource.res.pitch2D.height = height;
    resource.res.pitch2D.pitchInBytes = pitch;
    check_texture(fetch, out, resource, picture, "a texture over pitched memory");

    // A box of two slices to a 3D array and back.
    CUDA_ARRAY3D_DESCRIPTOR deep = {};
    deep.Width = 8, deep.Height = 4, deep.Depth = 2, deep.Format = CU_AD_FORMAT_UNSIGNED_INT16, deep.NumChannels = 2;
    CUarray box;
    CHECK(cuArray3DCreate(&box, &deep));
    std::vector<unsigned> slices(8 * 4 * 2), again(slices.size(), 0xffffffff);
    for (size_t i = 0; i < slices.size(); i++) slices[i] = 0x10001 * i;
    CUDA_MEMCPY3D whole = {};
    whole.srcMemoryType = CU_MEMORYTYPE_HOST;
    whole.srcHost = slices.data(), whole.srcPitch = 32, whole.srcHeight = 4;
    whole.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    whole.dstArray = box;
    whole.WidthInBytes = 32, whole.Height = 4, whole.Depth = 2;
    CHECK(cuMemcpy3D(&whole));
    CUDA_MEMCPY3D reverse = {};
    reverse.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    reverse.srcArray = box;
    reverse.dstMemoryType = CU_MEMORYTYPE_HOST;
    reverse.dstHost = again.data(), reverse.dstPitch = 32, reverse.dstHeight = 4;
    reverse.WidthInBytes = 32, reverse.Height = 4, reverse.Depth = 2;
    CHECK(cuMemcpy3D(&reverse));
    EXPECT(again == slices, "through a 3D array");

    CHECK(cuArrayDestroy(array));
    CHECK(cuArrayDestroy(box));
    EXPECT(cuArrayDestroy(array) != CUDA_SUCCESS, "it is gone");
    CHECK(cuMemFree(pitched));
    CHECK(cuMemFree(out));
    CHECK(cuStreamDestroy(stream));
    return passed("arrays_textures");
}
