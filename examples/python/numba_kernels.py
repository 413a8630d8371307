"""Numba: kernels in Python, with shared memory, atomics and a stream."""

import numpy
from numba import cuda


@cuda.jit
def add(a, b, c):
    i = cuda.grid(1)
    if i < c.size:
        c[i] = a[i] + b[i]


@cuda.jit
def sum_all(values, total):
    parts = cuda.shared.array(128, dtype="float32")
    thread = cuda.threadIdx.x
    i = cuda.grid(1)
    parts[thread] = values[i] if i < values.size else 0
    cuda.syncthreads()
    step = 64
    while step > 0:
        if thread < step:
            parts[thread] += parts[thread + step]
        cuda.syncthreads()
        step //= 2
    if thread == 0:
        cuda.atomic.add(total, 0, parts[0])


def main():
    count = 20_000
    blocks = (count + 127) // 128
    a = numpy.arange(count, dtype=numpy.float32)
    b = 3 * a + 1
    stream = cuda.stream()
    device_a, device_b = cuda.to_device(a, stream=stream), cuda.to_device(b, stream=stream)
    device_c = cuda.device_array_like(a)
    add[blocks, 128, stream](device_a, device_b, device_c)
    c = device_c.copy_to_host(stream=stream)
    stream.synchronize()
    if not (c == a + b).all():
        raise SystemExit(f"numba_kernels: expected {(a + b)[:4]}..., found {c[:4]}...")

    # Whole numbers below 2^24, so that every order of adding gives the same.
    values = numpy.arange(count, dtype=numpy.float32) % 100
    total = cuda.to_device(numpy.zeros(1, dtype=numpy.float32))
    sum_all[blocks, 128](cuda.to_device(values), total)
    found = total.copy_to_host()[0]
    if found != values.sum():
        raise SystemExit(f"numba_kernels: expected {values.sum()}, found {found}")
    print("numba_kernels: ok")


main()
