// The source of corpus/wmma.ptx: nvcc 13.0, -std=c++17 -arch=compute_80 -ptx.

#include <mma.h>
#include <cuda_bf16.h>
using namespace nvcuda;
template <typename T> __device__ T make(int v) { return T(float(v)); }
template <> __device__ signed char make(int v) { return (signed char)v; }
template <> __device__ unsigned char make(int v) { return (unsigned char)(v & 255); }
template <> __device__ int make(int v) { return v; }
template <typename T, int COUNT> __device__ void fill(T *p, int salt)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < COUNT; i += 32) p[i] = make<T>((i * 7 + salt) % 13 - 6);
}
template <typename F, typename T, typename U, typename V, int M, int N, int K, typename LA, typename LB, wmma::layout_t LC>
__device__ void product(U *out)
{
    constexpr int lda = std::is_same<LA, wmma::row_major>::value ? K + 16 : M + 16;
    constexpr int ldb = std::is_same<LB, wmma::row_major>::value ? N + 16 : K + 16;
    constexpr int ldc = LC == wmma::mem_row_major ? N : M;
    __shared__ __align__(32) T a[48 * 48], b[48 * 48];
    __shared__ __align__(32) V c[32 * 32];
    fill<T, 48 * 48>(a, 3);
    fill<T, 48 * 48>(b, 5);
    fill<V, M * N>(c, 1);
    __syncthreads();
    wmma::fragment<wmma::matrix_a, M, N, K, F, LA> fa;
    wmma::fragment<wmma::matrix_b, M, N, K, F, LB> fb;
    wmma::fragment<wmma::accumulator, M, N, K, V> fc;
    wmma::fragment<wmma::accumulator, M, N, K, U> fd;
    wmma::load_matrix_sync(fa, a, lda);
    wmma::load_matrix_sync(fb, b, ldb);
    wmma::load_matrix_sync(fc, c, ldc, LC);
    for (int i = 0; i < fa.num_elements; i++) fa.x[i] = fa.x[i];
    for (int i = 0; i < fc.num_elements; i++) fc.x[i] = fc.x[i] + fc.x[i];
    wmma::mma_sync(fd, fa, fb, fc);
    for (int i = 0; i < fd.num_elements; i++) fd.x[i] = fd.x[i] + U(fc.x[i]);
    wmma::store_matrix_sync(out, fd, ldc, LC);
}
#define P(name, F, T, U, V, M, N, K, LA, LB, LC) \
    extern "C" __global__ void name(U *out) { product<F, T, U, V, M, N, K, wmma::LA, wmma::LB, wmma::LC>(out); }
#define SHAPES(n, F, T, U, V) \
    P(n##_m16n16k16, F, T, U, V, 16, 16, 16, row_major, col_major, mem_row_major) \
    P(n##_m32n8k16, F, T, U, V, 32, 8, 16, col_major, row_major, mem_row_major) \
    P(n##_m8n32k16, F, T, U, V, 8, 32, 16, row_major, row_major, mem_col_major)
SHAPES(f16_f32, half, half, float, float)
SHAPES(f16_f16, half, half, half, half)
SHAPES(f16_mixed, half, half, float, half)
SHAPES(bf16_f32, __nv_bfloat16, __nv_bfloat16, float, float)
SHAPES(s8_s32, signed char, signed char, int, int)
SHAPES(u8_s32, unsigned char, unsigned char, int, int)
P(tf32_m16n16k8, wmma::precision::tf32, float, float, float, 16, 16, 8, row_major, col_major, mem_row_major)
P(tf32_m16n16k8_turned, wmma::precision::tf32, float, float, float, 16, 16, 8, col_major, row_major, mem_col_major)
P(f64_m8n8k4, double, double, double, double, 8, 8, 4, row_major, col_major, mem_row_major)
P(f64_m8n8k4_turned, double, double, double, double, 8, 8, 4, col_major, row_major, mem_col_major)
// Elements of 4 bits and 1 bit: words of any bits.
template <typename F, int K> __device__ void narrow(int *out)
{
    constexpr int per = K / 4;
    __shared__ __align__(32) unsigned a[8 * 8], b[8 * 8];
    for (int i = threadIdx.x; i < 64; i += 32) a[i] = i * 0x9e3779b1u, b[i] = i * 0x85ebca77u + 0x1234567;
    __syncthreads();
    wmma::fragment<wmma::matrix_a, 8, 8, K, F, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 8, 8, K, F, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 8, 8, K, int> fc;
    wmma::fill_fragment(fc, 100);
    wmma::load_matrix_sync(fa, a, 8 * per);
    wmma::load_matrix_sync(fb, b, 8 * per);
    if constexpr (K == 128) wmma::bmma_sync(fc, fa, fb, fc); else wmma::mma_sync(fc, fa, fb, fc);
    wmma::store_matrix_sync(out, fc, 8, wmma::mem_row_major);
}
extern "C" __global__ void s4_m8n8k32(int *out) { narrow<wmma::experimental::precision::s4, 32>(out); }
extern "C" __global__ void u4_m8n8k32(int *out) { narrow<wmma::experimental::precision::u4, 32>(out); }
extern "C" __global__ void b1_m8n8k128(int *out) { narrow<wmma::experimental::precision::b1, 128>(out); }
