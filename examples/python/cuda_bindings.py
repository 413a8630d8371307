"""cuda-python's bindings: a kernel in CUDA C++ is compiled by NVRTC, loaded, launched twice and checked."""

import ctypes

import numpy
from cuda.bindings import driver, nvrtc

SOURCE = b"""
extern "C" __global__ void saxpy(float a, const float *x, float *y, size_t n)
{
    size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"""


def checked(answer):
    """The values behind the error code of a call; ends the program if there was an error."""
    if int(answer[0]) != 0:
        raise SystemExit(f"cuda_bindings: {answer[0]}")
    return answer[1] if len(answer) == 2 else answer[1:]


def compiled():
    """The PTX of the kernel."""
    program = checked(nvrtc.nvrtcCreateProgram(SOURCE, b"saxpy.cu", 0, [], []))
    checked(nvrtc.nvrtcCompileProgram(program, 1, [b"--gpu-architecture=compute_80"]))
    ptx = b" " * checked(nvrtc.nvrtcGetPTXSize(program))
    checked(nvrtc.nvrtcGetPTX(program, ptx))
    return ptx


def main():
    checked(driver.cuInit(0))
    device = checked(driver.cuDeviceGet(0))
    context = checked(driver.cuDevicePrimaryCtxRetain(device))
    checked(driver.cuCtxSetCurrent(context))
    module = checked(driver.cuModuleLoadData(compiled()))
    kernel = checked(driver.cuModuleGetFunction(module, b"saxpy"))

    count = 100_003
    x = numpy.arange(count, dtype=numpy.float32) % 1000
    y = numpy.full(count, 0.25, dtype=numpy.float32)
    device_x, device_y = (checked(driver.cuMemAlloc(x.nbytes)) for _ in range(2))
    checked(driver.cuMemcpyHtoD(device_x, x.ctypes.data, x.nbytes))
    checked(driver.cuMemcpyHtoD(device_y, y.ctypes.data, y.nbytes))
    stream = checked(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    types = (ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    for factor in (2.0, -0.5):
        values = (factor, int(device_x), int(device_y), count)
        checked(driver.cuLaunchKernel(kernel, (count + 127) // 128, 1, 1, 128, 1, 1, 0, stream, (values, types), 0))
        y += numpy.float32(factor) * x
    checked(driver.cuStreamSynchronize(stream))
    found = numpy.empty_like(y)
    checked(driver.cuMemcpyDtoH(found.ctypes.data, device_y, found.nbytes))
    if not (found == y).all():
        raise SystemExit(f"cuda_bindings: expected {y[:4]}..., found {found[:4]}...")
    checked(driver.cuMemFree(device_x))
    checked(driver.cuMemFree(device_y))
    checked(driver.cuModuleUnload(module))
    print("cuda_bindings: ok")


main()
