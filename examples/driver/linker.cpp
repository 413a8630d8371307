// Two texts that call each other are linked: by cuLink, and the image is loaded as a module and as a library.

#include "driver.h"

static const char *caller = R"(
.version 7.0
.target sm_75
.address_size 64
.extern .func (.param .u32 result) triple(.param .u32 value);
.visible .entry run(.param .u64 out, .param .u32 value)
{
    .reg .u32 %r<3>;
    .reg .u64 %rd<3>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [value];
    .param .u32 argument;
    .param .u32 answer;
    st.param.u32 [argument], %r1;
    call (answer), triple, (argument);
    ld.param.u32 %r2, [answer];
    cvta.to.global.u64 %rd2, %rd1;
    st.global.u32 [%rd2], %r2;
    ret;
}
)";

static const char *callee = R"(
.version 7.0
.target sm_75
.address_size 64
.visible .func (.param .u32 result) triple(.param .u32 value)
{
    .reg .u32 %r<3>;
    ld.param.u32 %r1, [value];
    mul.lo.u32 %r2, %r1, 3;
    st.param.u32 [result], %r2;
    ret;
}
)";

static void run(CUfunction kernel, unsigned value, const char *what)
{
    CUdeviceptr out = poisoned<unsigned>(1);
    void *parameters[] = {&out, &value};
    CHECK(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr));
    unsigned found = download<unsigned>(out, 1)[0];
    EXPECT(found == 3 * value, "%s: %u", what, found);
    CHECK(cuMemFree(out));
}

int main(int, char **argv)
{
    CUcontext context;
    begin(argv[0], &context);
    // One text alone misses a function, and says so.
    CUlinkState link;
    char words[256] = "";
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {words, reinterpret_cast<void *>(sizeof words)};
    CHECK(cuLinkCreate(2, options, values, &link));
    CHECK(cuLinkAddData(link, CU_JIT_INPUT_PTX, const_cast<char *>(caller), std::strlen(caller) + 1, "caller", 0, nullptr, nullptr));
    void *image;
    size_t bytes;
    CUresult result = cuLinkComplete(link, &image, &bytes);
    EXPECT(result != CUDA_SUCCESS, "triple is missing");
    EXPECT(std::strlen(words) > 0, "the log says why");
    CHECK(cuLinkDestroy(link));

    CHECK(cuLinkCreate(0, nullptr, nullptr, &link));
    CHECK(cuLinkAddData(link, CU_JIT_INPUT_PTX, const_cast<char *>(caller), std::strlen(caller) + 1, "caller", 0, nullptr, nullptr));
    CHECK(cuLinkAddData(link, CU_JIT_INPUT_PTX, const_cast<char *>(callee), std::strlen(callee) + 1, "callee", 0, nullptr, nullptr));
    CHECK(cuLinkComplete(link, &image, &bytes));
    EXPECT(bytes > 0, "%zu bytes", bytes);
    std::vector<char> kept(static_cast<char *>(image), static_cast<char *>(image) + bytes);
    CHECK(cuLinkDestroy(link));

    CUmodule module;
    CHECK(cuModuleLoadData(&module, kept.data()));
    run(function(module, "run"), 14, "a module");
    CHECK(cuModuleUnload(module));

    CUlibrary library;
    CUkernel kernel;
    CHECK(cuLibraryLoadData(&library, kept.data(), nullptr, nullptr, 0, nullptr, nullptr, 0));
    CHECK(cuLibraryGetKernel(&kernel, library, "run"));
    run(reinterpret_cast<CUfunction>(kernel), 100, "a kernel in the place of a function");
    CUfunction of_kernel;
    CHECK(cuKernelGetFunction(&of_kernel, kernel));
    run(of_kernel, 101, "a function of a kernel");
    CUmodule of_library;
    CHECK(cuLibraryGetModule(&of_library, library));
    run(function(of_library, "run"), 102, "a function of a library's module");
    const char *name;
    CHECK(cuKernelGetName(&name, kernel));
    EXPECT(std::strcmp(name, "run") == 0, "%s", name);
    unsigned count = 0;
    CHECK(cuLibraryGetKernelCount(&count, library));
    EXPECT(count == 1, "%u kernels", count);
    // In another context the library is loaded at its first use.
    CUcontext other;
    CHECK(make_context(&other, 0));
    run(reinterpret_cast<CUfunction>(kernel), 103, "in another context");
    CHECK(cuCtxDestroy(other));
    run(reinterpret_cast<CUfunction>(kernel), 104, "and in the first one again");
    CHECK(cuLibraryUnload(library));
    EXPECT(cuKernelGetName(&name, kernel) == CUDA_ERROR_INVALID_HANDLE, "the library is unloaded");
    return passed("linker");
}
