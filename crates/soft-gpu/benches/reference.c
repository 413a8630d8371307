// What the kernels of kernels.cu compute, in plain C, on `threads` threads: the other side of speed.rs.
//
//   reference count side threads
//
// It reads lines: `run KERNEL` is answered with the milliseconds that it took, `dump FILE` writes the result to a file.
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static size_t count, side;
static int threads;
static float *buffers[5];

static void vecadd(const float *a, const float *b, float *sum, size_t first, size_t last);
static void transpose(const float *in, float *out, size_t side, size_t first, size_t last);
static float reduce(const float *in, size_t first, size_t last);
static void price(const float *share, const float *strike, const float *years, float *call, float *put, size_t first, size_t last);

struct part {
    const char *kernel;
    int index;
    float sum;
};

static void *work(void *argument)
{
    struct part *part = argument;
    const size_t first = count * part->index / threads, last = count * (part->index + 1) / threads;
    float **b = buffers;
    if (!strcmp(part->kernel, "vecadd")) vecadd(b[0], b[1], b[3], first, last);
    if (!strcmp(part->kernel, "transpose")) transpose(b[0], b[3], side, side * part->index / threads, side * (part->index + 1) / threads);
    if (!strcmp(part->kernel, "reduce")) part->sum = reduce(b[0], first, last);
    if (!strcmp(part->kernel, "price")) price(b[0], b[1], b[2], b[3], b[4], first, last);
    return NULL;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec * 1e-6;
}

static double run(const char *kernel)
{
    pthread_t running[64];
    struct part parts[64];
    const double start = now();
    for (int i = 0; i < threads; i++) {
        parts[i] = (struct part){kernel, i, 0};
        if (i > 0) pthread_create(&running[i], NULL, work, &parts[i]);
    }
    work(&parts[0]);
    float sum = parts[0].sum;
    for (int i = 1; i < threads; i++) {
        pthread_join(running[i], NULL);
        sum += parts[i].sum;
    }
    const double time = now() - start;
    if (!strcmp(kernel, "reduce")) buffers[3][0] = sum;
    return time;
}

int main(int argc, char **argv)
{
    if (argc != 4) return 1;
    count = strtoul(argv[1], NULL, 10), side = strtoul(argv[2], NULL, 10), threads = atoi(argv[3]);
    if (threads > 64) threads = 64;
    for (int b = 0; b < 5; b++) {
        // Numbers between 0.5 and 1.5, as speed.rs makes them.
        buffers[b] = malloc(count * sizeof(float));
        unsigned state = b + 1;
        for (size_t i = 0; i < count; i++) {
            state = state * 1664525u + 1013904223u;
            buffers[b][i] = 0.5f + (float)(state >> 16) / 65536.0f;
        }
    }
    char line[4096];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, "run ", 4)) printf("%f\n", run(line + 4));
        if (!strncmp(line, "dump ", 5)) {
            FILE *file = fopen(line + 5, "wb");
            if (!file || fwrite(buffers[3], sizeof(float), count, file) != count || fclose(file)) return 1;
            puts("dumped");
        }
        fflush(stdout);
    }
    return 0;
}

static void vecadd(const float *a, const float *b, float *sum, size_t first, size_t last)
{
    for (size_t i = first; i < last; i++) sum[i] = a[i] + b[i];
}

// Rows from `first` to `last`.
static void transpose(const float *in, float *out, size_t side, size_t first, size_t last)
{
    for (size_t y = first; y < last; y++)
        for (size_t x = 0; x < side; x++) out[x * side + y] = in[y * side + x];
}

static float reduce(const float *in, size_t first, size_t last)
{
    float sum = 0;
    for (size_t i = first; i < last; i++) sum += in[i];
    return sum;
}

static float normal(float d)
{
    const float k = 1.0f / (1.0f + 0.2316419f * fabsf(d));
    const float tail = 0.39894228040143267794f * expf(-0.5f * d * d) *
                       (k * (0.31938153f + k * (-0.356563782f + k * (1.781477937f + k * (-1.821255978f + k * 1.330274429f)))));
    return d > 0 ? 1.0f - tail : tail;
}

static void price(const float *share, const float *strike, const float *years, float *call, float *put, size_t first, size_t last)
{
    const float rate = 0.02f, volatility = 0.30f;
    for (size_t i = first; i < last; i++) {
        const float root = sqrtf(years[i]);
        const float d1 =
            (logf(share[i] / strike[i]) + (rate + 0.5f * volatility * volatility) * years[i]) / (volatility * root);
        const float d2 = d1 - volatility * root;
        const float discounted = strike[i] * expf(-rate * years[i]);
        const float below1 = normal(d1), below2 = normal(d2);
        call[i] = share[i] * below1 - discounted * below2;
        put[i] = discounted * (1.0f - below2) - share[i] * (1.0f - below1);
    }
}
