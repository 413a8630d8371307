// Variables of modules: initialised, copied to and from, by address.
#include "check.h"

__device__ int table[4] = {1, 2, 3, 4};
__constant__ float factor = 1.5f;
static __device__ double hidden;

__global__ void use(float *out) {
    for (int i = 0; i < 4; i++) out[i] = table[i] * factor + hidden;
}

int main() {
    float *out, back[4];
    OK(cudaMalloc(&out, sizeof back));
    use<<<1, 1>>>(out);
    OK(cudaMemcpy(back, out, sizeof back, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 4; i++) TRUE(back[i] == (i + 1) * 1.5f);
    float two = 2;
    double ten = 10;
    int three[2] = {30, 40}, all[4];
    OK(cudaMemcpyToSymbol(factor, &two, sizeof two));
    OK(cudaMemcpyToSymbol(hidden, &ten, sizeof ten));
    OK(cudaMemcpyToSymbol(table, three, sizeof three, 2 * sizeof(int)));
    use<<<1, 1>>>(out);
    OK(cudaMemcpy(back, out, sizeof back, cudaMemcpyDeviceToHost));
    TRUE(back[0] == 12 && back[1] == 14 && back[2] == 70 && back[3] == 90);
    OK(cudaMemcpyFromSymbol(all, table, sizeof all));
    TRUE(all[0] == 1 && all[3] == 40);
    void *address;
    size_t size;
    OK(cudaGetSymbolAddress(&address, table));
    OK(cudaGetSymbolSize(&size, table));
    IS(16, size);
    cudaPointerAttributes attributes;
    OK(cudaPointerGetAttributes(&attributes, address));
    IS(cudaMemoryTypeDevice, attributes.type);
    OK(cudaMemset((char *)address + 4, 0, 4));
    OK(cudaMemcpy(all, address, sizeof all, cudaMemcpyDefault));
    TRUE(all[0] == 1 && all[1] == 0 && all[2] == 30);
    IS(cudaErrorInvalidValue, cudaMemcpyToSymbol(table, all, sizeof all, 4));
    IS(cudaErrorInvalidSymbol, cudaGetSymbolAddress(&address, size));
    puts("done");
}
