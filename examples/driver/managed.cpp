// Managed memory and managed variables of a module that the program loads itself: one address for kernels, for the
// program and for the system calls that it makes right after waiting for the device.

#include <fcntl.h>
#include <unistd.h>

#include "driver.h"

static const char text[] = R"(
.version 7.0
.target sm_80
.address_size 64

.visible .global .attribute(.managed) .align 4 .u32 total = 40;
.visible .global .attribute(.managed) .align 4 .b8 table[40000];
.global .align 8 .u64 where = generic(total);

.visible .entry step(.param .u64 values, .param .u32 count, .param .u32 addend)
{
    .reg .pred %p<3>;
    .reg .b32 %r<12>;
    .reg .b64 %rd<8>;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    ld.param.u64 %rd1, [values];
    ld.param.u32 %r5, [count];
    ld.param.u32 %r6, [addend];
    setp.ge.u32 %p1, %r4, %r5;
    @%p1 bra END;
    mul.wide.u32 %rd2, %r4, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.u32 %r7, [%rd3];
    add.u32 %r8, %r7, %r6;
    st.u32 [%rd3], %r8;
    setp.ne.u32 %p2, %r4, 0;
    @%p2 bra END;
    ld.global.u64 %rd4, [where];
    ld.u32 %r9, [%rd4];
    add.u32 %r10, %r9, %r6;
    st.global.u32 [total], %r10;
END:
    ret;
}
)";

static void run(CUfunction step, CUdeviceptr values, unsigned count, unsigned addend)
{
    void *parameters[] = {&values, &count, &addend};
    CHECK(cuLaunchKernel(step, (count + 255) / 256, 1, 1, 256, 1, 1, 0, nullptr, parameters, nullptr));
}

// Writes memory to a file as one system call, and reads it back into other memory.
static void through_a_file(const void *from, void *to, size_t bytes)
{
    char name[] = "/tmp/managed-XXXXXX";
    int file = mkstemp(name);
    EXPECT(file >= 0, "a file");
    unlink(name);
    ssize_t written = write(file, from, bytes);
    EXPECT(written == ssize_t(bytes), "write: %zd of %zu: %s", written, bytes, std::strerror(errno));
    EXPECT(lseek(file, 0, SEEK_SET) == 0, "the file's start");
    ssize_t seen = read(file, to, bytes);
    EXPECT(seen == ssize_t(bytes), "read: %zd of %zu: %s", seen, bytes, std::strerror(errno));
    close(file);
}

int main()
{
    CHECK(cuInit(0));
    CUcontext context;
    CHECK(make_context(&context, 0));
    const unsigned count = 10000;

    // Variables of a module: the address is the program's as well.
    CUmodule module;
    CHECK(cuModuleLoadData(&module, text));
    CUfunction step = function(module, "step");
    CUdeviceptr total_at = 0, table_at = 0;
    size_t bytes = 0;
    CHECK(cuModuleGetGlobal(&total_at, &bytes, module, "total"));
    EXPECT(bytes == 4, "%zu bytes", bytes);
    CHECK(cuModuleGetGlobal(&table_at, &bytes, module, "table"));
    EXPECT(bytes == 4 * count, "%zu bytes", bytes);
    unsigned *total = reinterpret_cast<unsigned *>(total_at), *table = reinterpret_cast<unsigned *>(table_at);
    EXPECT(*total == 40 && table[count - 1] == 0, "%u and %u before any kernel", *total, table[count - 1]);
    for (unsigned i = 0; i < count; ++i) table[i] = i;
    run(step, table_at, count, 2);
    CHECK(cuCtxSynchronize());
    EXPECT(*total == 42, "the total is %u", *total);
    for (unsigned i = 0; i < count; ++i) EXPECT(table[i] == i + 2, "table[%u] is %u", i, table[i]);
    unsigned is_managed = 0;
    CHECK(cuPointerGetAttribute(&is_managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, table_at));
    EXPECT(is_managed == 1, "managed");
    CHECK(cuModuleUnload(module));

    // The same in a library.
    CUlibrary library;
    CHECK(cuLibraryLoadData(&library, text, nullptr, nullptr, 0, nullptr, nullptr, 0));
    CHECK(cuLibraryGetManaged(&total_at, &bytes, library, "total"));
    EXPECT(bytes == 4 && *reinterpret_cast<unsigned *>(total_at) == 40, "a variable of the library's own");
    EXPECT(cuLibraryGetManaged(&table_at, &bytes, library, "where") == CUDA_ERROR_NOT_FOUND, "not managed");
    CUkernel kernel;
    CHECK(cuLibraryGetKernel(&kernel, library, "step"));
    step = reinterpret_cast<CUfunction>(kernel);

    // System calls on managed memory, right after the device was waited for: they fail where a fault would be needed.
    CUdeviceptr from = 0, to = 0;
    CHECK(cuMemAllocManaged(&from, count * sizeof(unsigned), CU_MEM_ATTACH_GLOBAL));
    CHECK(cuMemAllocManaged(&to, count * sizeof(unsigned), CU_MEM_ATTACH_GLOBAL));
    unsigned *source = reinterpret_cast<unsigned *>(from), *target = reinterpret_cast<unsigned *>(to);
    for (unsigned i = 0; i < count; ++i) {
        source[i] = 3 * i;
        target[i] = 0;
    }
    CUstream stream;
    CUevent event;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DEFAULT));
    for (unsigned round = 0; round < 4; ++round) {
        run(step, from, count, 1);
        run(step, to, count, 5);
        if (round == 0) CHECK(cuCtxSynchronize());
        if (round == 1) CHECK(cuStreamSynchronize(nullptr));
        if (round == 2) {
            CHECK(cuEventRecord(event, nullptr));
            CHECK(cuEventSynchronize(event));
        }
        if (round == 3) {
            CUresult state = CUDA_ERROR_NOT_READY;
            while (state == CUDA_ERROR_NOT_READY) state = cuStreamQuery(nullptr);
            CHECK(state);
        }
        through_a_file(source, target, count * sizeof(unsigned));
        for (unsigned i = 0; i < count; ++i)
            EXPECT(target[i] == 3 * i + 1 + round, "round %u: target[%u] is %u", round, i, target[i]);
        // What read(2) has put there is the device's next.
        run(step, to, count, 100);
        CHECK(cuCtxSynchronize());
        for (unsigned i = 0; i < count; i += 97)
            EXPECT(target[i] == 3 * i + 101 + round, "round %u: target[%u] is %u on the device", round, i, target[i]);
    }
    EXPECT(*reinterpret_cast<unsigned *>(total_at) == 40 + 4 * 106, "the library's total is %u",
           *reinterpret_cast<unsigned *>(total_at));
    CHECK(cuMemFree(from));
    CHECK(cuMemFree(to));
    CHECK(cuLibraryUnload(library));
    CHECK(cuCtxDestroy(context));
    return passed("managed");
}
