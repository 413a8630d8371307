"""CuPy: arrays, elementwise and reduction kernels, a kernel in CUDA C++, sorting."""

import cupy
import numpy


def same(found, expected, what):
    if not numpy.array_equal(cupy.asnumpy(found), expected):
        raise SystemExit(f"cupy_kernels: {what}: expected {expected}, found {found}")


def main():
    count = 5_000
    host = numpy.arange(count, dtype=numpy.float32)
    device = cupy.arange(count, dtype=cupy.float32)
    same(device * 2 + 1, host * 2 + 1, "elementwise")
    same(cupy.where(device % 3 == 0, device, -device), numpy.where(host % 3 == 0, host, -host), "where")
    whole = cupy.arange(count, dtype=cupy.int64)
    same(whole.sum(), numpy.arange(count).sum(), "sum")
    same(whole.reshape(50, 100).max(axis=1), numpy.arange(count).reshape(50, 100).max(axis=1), "max of rows")
    same(cupy.cumsum(whole), numpy.cumsum(numpy.arange(count)), "running sum")
    shuffled = (whole * 7919) % 5003
    same(cupy.sort(shuffled), numpy.sort(cupy.asnumpy(shuffled)), "sort")

    square = cupy.RawKernel(
        r"""
        extern "C" __global__ void square(const float *x, float *y, int n)
        {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) y[i] = x[i] * x[i];
        }
        """,
        "square",
    )
    squares = cupy.zeros_like(device)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        square(((count + 127) // 128,), (128,), (device, squares, numpy.int32(count)))
        stream.synchronize()
    same(squares, host * host, "a kernel in CUDA C++")
    print("cupy_kernels: ok")


main()
