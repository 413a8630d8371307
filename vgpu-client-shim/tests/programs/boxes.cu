// Copies of boxes, and kernels on pitched memory.
#include "check.h"

__global__ void twice(cudaPitchedPtr box, cudaExtent extent) {
    for (int z = threadIdx.x; z < extent.depth; z += blockDim.x)
        for (int y = 0; y < extent.height; y++) {
            int *row = (int *)((char *)box.ptr + (z * box.ysize + y) * box.pitch);
            for (int x = 0; x < extent.width / sizeof(int); x++) row[x] *= 2;
        }
}

int main() {
    const int w = 7, h = 5, d = 3;
    cudaExtent extent = make_cudaExtent(w * sizeof(int), h, d);
    cudaPitchedPtr box;
    OK(cudaMalloc3D(&box, extent));
    OK(cudaMemset3D(box, 0xff, extent));
    int up[d][h][w], down[d][h][w];
    for (int i = 0; i < w * h * d; i++) (&up[0][0][0])[i] = i;
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(up, w * sizeof(int), w, h);
    copy.dstPtr = box, copy.extent = extent, copy.kind = cudaMemcpyHostToDevice;
    OK(cudaMemcpy3D(&copy));
    twice<<<1, 2>>>(box, extent);
    OK(cudaGetLastError());
    copy = {};
    copy.srcPtr = box, copy.dstPtr = make_cudaPitchedPtr(down, w * sizeof(int), w, h);
    copy.extent = extent, copy.kind = cudaMemcpyDeviceToHost;
    OK(cudaMemcpy3D(&copy));
    for (int i = 0; i < w * h * d; i++) IS(2 * i, (&down[0][0][0])[i]);
    puts("done");
}
