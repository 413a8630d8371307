// Rectangles: pitched memory, copies of a part of a larger image up, down and within the device, and a rectangle set.

#include "test.h"

__global__ void mark(unsigned char *image, size_t pitch, int width, int height)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < width && y < height) image[y * pitch + x] += static_cast<unsigned char>(3 * x + 5 * y + 1);
}

int main()
{
    const int width = 301, height = 77;
    const size_t host_pitch = 320;
    std::vector<unsigned char> host(host_pitch * height), back(host_pitch * height, 0xee);
    for (size_t i = 0; i < host.size(); i++) host[i] = static_cast<unsigned char>(i * 7 + i / 320);

    unsigned char *image = nullptr, *other = nullptr;
    size_t pitch = 0, other_pitch = 0;
    CHECK(cudaMallocPitch(&image, &pitch, width, height));
    CHECK(cudaMallocPitch(&other, &other_pitch, 2 * width, height));
    EXPECT(pitch >= size_t(width) && other_pitch >= size_t(2 * width), "pitches %zu and %zu", pitch, other_pitch);
    CHECK(cudaMemset2D(other, other_pitch, 0x5a, 2 * width, height));

    CHECK(cudaMemcpy2D(image, pitch, host.data(), host_pitch, width, height, cudaMemcpyHostToDevice));
    mark<<<dim3((width + 15) / 16, (height + 15) / 16), dim3(16, 16)>>>(image, pitch, width, height);
    CHECK(cudaGetLastError());
    // Into the right half of the other image, whose left half must stay as it was set.
    CHECK(cudaMemcpy2D(other + width, other_pitch, image, pitch, width, height, cudaMemcpyDeviceToDevice));
    CHECK(cudaMemcpy2D(back.data(), host_pitch, other + width, other_pitch, width, height, cudaMemcpyDeviceToHost));
    std::vector<unsigned char> left(size_t(width) * height, 0xee);
    CHECK(cudaMemcpy2D(left.data(), width, other, other_pitch, width, height, cudaMemcpyDeviceToHost));

    for (int y = 0; y < height; y++) {
        for (int x = 0; x < int(host_pitch); x++) {
            const size_t at = y * host_pitch + x;
            const unsigned char marked = static_cast<unsigned char>(host[at] + 3 * x + 5 * y + 1);
            const unsigned char expected = x < width ? marked : 0xee; // between the rows nothing may be written
            EXPECT(back[at] == expected, "row %d, column %d is %#x, not %#x", y, x, back[at], expected);
            if (x < width) EXPECT(left[size_t(y) * width + x] == 0x5a, "left half, row %d, column %d", y, x);
        }
    }
    CHECK(cudaFree(image));
    CHECK(cudaFree(other));
    return passed("copy_2d");
}
