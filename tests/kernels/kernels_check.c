/* kernels_check: every op x format x ISA level against its definition, batch invariance bit by bit,
 * the worker pool, and --bench. One thread besides the pools under test.
 *
 *   check             all checks; the last line is `N passed, N failed, N skipped`
 *   check OP...       those of the named files (linear, attention, ...)
 *   check --plugin PATH [OP...]   the ops of the plugin at PATH instead; skipped without a GPU
 *   check --plugin PATH --deterministic [OP...]   on a device opened so: a row is the same bit by
 *                                 bit whatever is computed beside it
 *   check --plugin PATH [--deterministic] --type NAME [OP...]   only cases of that storage format,
 *                                 of ops that loop over formats: which of them is it?
 *   check --bench     GB/s and GFLOP/s per op, format and level */
#include "tests/kernels/check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 64, BUFFERS_MAX = 64, SHOWN_MAX = 3 };

const char *const check_level_names[CHECK_LEVELS] = {"base", "avx2", "avx512", "avx512-bf16",
                                                     "cuda"};

static struct {
    char name[200];
    bool open, failed, emulated, deterministic;
    int shown, n_passed, n_failed, n_skipped, n_buffers;
    struct {
        unsigned char *raw;
        size_t bytes;
    } buffers[BUFFERS_MAX];
    uint64_t random;
    int type; /* the only one that is wanted; -1: all */
    int gpu;  /* of check_device_new */
    struct device *devices[CHECK_LEVELS][CHECK_THREADS_MAX + 1];
    const struct kernels *plugin; /* NULL: the levels of the CPU are checked */
} state = {.type = -1};

/* ---- random numbers (SplitMix64, Steele et al. 2014) ---- */

uint32_t check_random(void)
{
    uint64_t z = state.random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

int check_int(int low, int high)
{
    return low + (int)(check_random() % (uint32_t)(high - low + 1));
}

float check_uniform(float low, float high)
{
    return low + (high - low) * (float)(check_random() >> 8) * 0x1p-24f;
}

float check_normal(void)
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += check_uniform(-1, 1);
    return sum * 0.87f;
}

void check_fill(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = check_normal();
}

/* ---- cases ---- */

static void end_case(void)
{
    if (!state.open)
        return;
    for (int i = 0; i < state.n_buffers; i++) {
        unsigned char *raw = state.buffers[i].raw;
        size_t bytes = state.buffers[i].bytes;
        for (size_t j = 0; j < GUARD; j++)
            if (!check_expect(raw[j] == 0xa5 && raw[GUARD + bytes + j] == 0xa5,
                              "buffer %d of %zu bytes: a guard byte was overwritten", i, bytes))
                break;
        free(raw);
    }
    state.n_buffers = 0;
    state.open = false;
    *(state.failed ? &state.n_failed : &state.n_passed) += 1;
}

void check_case(const char *format, ...)
{
    va_list list;

    end_case();
    va_start(list, format);
    vsnprintf(state.name, sizeof state.name, format, list);
    va_end(list);
    state.open = true;
    state.failed = false;
    state.shown = 0;
    state.random = 88172645463325252u;
    for (const char *c = state.name; *c; c++)
        state.random = (state.random ^ (unsigned char)*c) * 0x100000001b3u;
}

bool check_expect(bool ok, const char *format, ...)
{
    va_list list;

    if (ok)
        return true;
    state.failed = true;
    if (state.shown++ >= SHOWN_MAX)
        return false;
    printf("FAILED %s: ", state.name);
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    printf("\n");
    return false;
}

void check_skip(const char *format, ...)
{
    va_list list;

    end_case();
    printf("skipped ");
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    printf("\n");
    state.n_skipped++;
}

void *check_bytes(size_t n)
{
    unsigned char *raw = malloc(n + 2 * GUARD);

    if (!raw || state.n_buffers == BUFFERS_MAX) {
        fprintf(stderr, "no memory for a buffer of %zu bytes\n", n);
        exit(2);
    }
    memset(raw, 0xa5, n + 2 * GUARD);
    memset(raw + GUARD, 0xff, n); /* as floats: NaN */
    state.buffers[state.n_buffers].raw = raw;
    state.buffers[state.n_buffers++].bytes = n;
    return raw + GUARD;
}

float *check_floats(size_t n)
{
    return check_bytes(n * sizeof(float));
}

float *check_normals(size_t n)
{
    float *x = check_floats(n);
    check_fill(x, n);
    return x;
}

bool check_same(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (!check_expect(!memcmp(&a[i], &b[i], sizeof *a),
                          "%s: value %zu of %zu is %.9g, not %.9g", what, i, n, (double)a[i],
                          (double)b[i]))
            return false;
    return true;
}

/* ---- devices and matrices ---- */

const struct kernels *check_kernels(int level)
{
    return level == CHECK_CUDA ? state.plugin : kernels_cpu();
}

bool check_varies(int level)
{
    return level == CHECK_CUDA && !state.deterministic;
}

bool check_wants(enum quant_type type)
{
    return state.type < 0 || (int)type == state.type;
}

bool check_emulated(int level)
{
    return level == CHECK_CUDA && state.emulated;
}

double check_cuda_linear(enum quant_type type, int n)
{
    bool tiled = type == QUANT_Q8_0 || type == QUANT_Q4_0 || type == QUANT_Q4_K ||
                 type == QUANT_Q5_K || type == QUANT_Q6_K || type >= QUANT_G4;
    if (state.deterministic) /* few inputs are taken as many are */
        n = 64;
    if (type == QUANT_F16)
        return n <= 16 ? 0x1p-20 : 0x1.1p-11;
    if (type == QUANT_BF16)
        return n <= 16 ? 0x1p-16 : 0x1.1p-9;
    if (tiled) /* few: inputs in two parts; many: weights and inputs as F16 */
        return n <= 8 ? 0x1p-16 : 0x1.2p-10;
    return type == QUANT_F32 || n <= 8 ? 0 : 0x1.2p-10;
}

double check_cuda_attention(enum quant_type type, int n)
{
    if (type == QUANT_F32)
        return 0;
    if (state.deterministic)
        n = 64;
    if (type == QUANT_Q8_0) /* int8 times its scale is rounded to F16 */
        return n == 1 ? 0x1.1p-11 : 0x1.1p-10;
    if (type == QUANT_F16 || type == QUANT_FP8)
        return n == 1 ? 0x1p-20 : 0x1.1p-11;
    return n == 1 ? 0x1p-16 : 0x1.1p-8;
}

void check_gpu(int gpu)
{
    state.gpu = state.emulated ? gpu : 0;
}

struct device *check_device_new(int level, int n_threads)
{
    struct device_options options = {
        .n_threads = n_threads, .cpu_isa = check_level_names[level], .gpu_memory_fraction = 0.05,
        .gpu = state.gpu, .deterministic = state.deterministic};
    const struct kernels *k = check_kernels(level);
    if (!k || (level != CHECK_CUDA && state.plugin))
        return NULL;
    struct device *d;
    char error[128];
    size_t length = strlen(check_level_names[level]);

    if (k->open(&options, &d, error, sizeof error)) {
        fprintf(stderr, "open: %s\n", error);
        exit(2);
    }
    if (level != CHECK_CUDA && (strncmp(k->describe(d), check_level_names[level], length) ||
        k->describe(d)[length] == '-')) {
        k->close(d);
        return NULL;
    }
    if (k->reserve(d, CHECK_N_MAX, CHECK_COLS_MAX)) {
        fprintf(stderr, "reserve: %s\n", k->device_error(d));
        exit(2);
    }
    return d;
}

struct device *check_device(int level, int n_threads)
{
    struct device **d = &state.devices[level][level == CHECK_CUDA ? 0 : n_threads];

    if (!*d)
        *d = check_device_new(level, n_threads);
    return *d;
}

/* Where a block has its float16 scales; blocks of 256 multiply them by up to 63 or 127. */
static const struct {
    int at[2];
    float by;
} block_scales[QUANT_COUNT] = {
    [QUANT_Q8_0] = {{0, 0}, 0.01f},   [QUANT_Q4_0] = {{0, 0}, 0.1f},
    [QUANT_Q4_1] = {{0, 2}, 0.1f},    [QUANT_Q5_0] = {{0, 0}, 0.1f},
    [QUANT_Q5_1] = {{0, 2}, 0.1f},    [QUANT_IQ4_NL] = {{0, 0}, 0.01f},
    [QUANT_Q2_K] = {{80, 82}, 0.05f}, [QUANT_Q3_K] = {{108, 108}, 0.02f},
    [QUANT_Q4_K] = {{0, 2}, 0.01f},   [QUANT_Q5_K] = {{0, 2}, 0.01f},
    [QUANT_Q6_K] = {{208, 208}, 0.002f}, [QUANT_IQ4_XS] = {{0, 0}, 0.001f},
};

/* G4, G8 and F8_128 begin with a float32 scale, and G4 and G8 with a zero point behind it. */
static void group_head(enum quant_type type, uint8_t *at, float scale)
{
    bool four = type == QUANT_G4 || type == QUANT_G4_128;
    float d = check_normal() * scale * (type == QUANT_F8_128 ? 0.01f : four ? 0.1f : 0.01f);
    int16_t z = (int16_t)(four ? check_int(0, 16) : check_int(-128, 127));

    memcpy(at, &d, sizeof d);
    if (type != QUANT_F8_128)
        memcpy(at + sizeof d, &z, sizeof z);
}

const int (*check_scales_at(enum quant_type type))[2]
{
    return &block_scales[type].at;
}

void check_blocks(enum quant_type type, void *row, size_t n, float scale)
{
    const struct quant_format *f = &quant_formats[type];
    uint8_t *at = row;

    for (size_t b = 0; b < n / (size_t)f->block; b++, at += f->block_bytes) {
        for (int i = 0; i < f->block_bytes; i++)
            at[i] = (uint8_t)check_random();
        if (f->gguf_type < 0)
            group_head(type, at, scale);
        for (int k = 0; k < 2 && type != QUANT_MXFP4 && f->gguf_type >= 0; k++) {
            uint16_t h = quant_f32_to_f16(check_normal() * scale * block_scales[type].by);
            memcpy(at + block_scales[type].at[k], &h, sizeof h);
        }
        if (type == QUANT_MXFP4) /* 2^-8 to 2^-5 */
            at[0] = (uint8_t)(120 + at[0] % 4);
    }
}

struct matrix check_matrix(enum quant_type type, int64_t rows, int64_t cols, float scale,
                           float **decoded)
{
    size_t bytes = quant_row_bytes(type, (size_t)cols), n = (size_t)(rows * cols);
    char *data = (char *)check_bytes((size_t)rows * bytes + 2) + 2; /* not aligned */
    float *values = check_floats(n);

    for (size_t i = 0; i < n && quant_encodes(type); i++)
        values[i] = check_normal() * scale;
    if (quant_encodes(type))
        quant_encode(type, values, data, n);
    else
        check_blocks(type, data, n, scale);
    quant_formats[type].decode(data, values, n);
    if (decoded)
        *decoded = values;
    return (struct matrix){type, rows, cols, data, NULL};
}

/* ---- main ---- */

static const struct {
    const char *name;
    void (*run)(void);
    bool any_level; /* not about the CPU backend alone */
} checks[] = {
    {"quant", check_quant, false},  {"pool", check_pool, false},
    {"device", check_device_rules, false}, {"plugin", check_plugin, true},
    {"readers", check_readers, true}, {"gated", check_gated, true},
    {"embed", check_embed, true},   {"norm", check_norm, true},
    {"linear", check_linear, true}, {"rope", check_rope, true},
    {"act", check_act, true},       {"attention", check_attention, true},
    {"moe", check_moe, true},       {"gather", check_gather, true},
    {"pick", check_pick, true},     {"draw", check_draw, true},
    {"sanitize", check_sanitize, true},
};

/* False: no plugin or no GPU, which is said as a skipped case. */
static bool open_plugin(const char *path)
{
    char error[300] = "";
    struct device *d = NULL;
    struct device_options options = {.gpu_memory_fraction = 0.05};
    state.plugin = hosted_kernels(path, error, sizeof error);
    if (state.plugin && !state.plugin->open(&options, &d, error, sizeof error)) {
        printf("%s\n", state.plugin->describe(d));
        state.emulated = strstr(state.plugin->describe(d), "emulated") != NULL;
        state.plugin->close(d);
        return true;
    }
    check_skip("level cuda: %s", error);
    return false;
}

int main(int argc, char **argv)
{
    bool plugin = argc > 2 && !strcmp(argv[1], "--plugin");

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (plugin && !open_plugin(argv[2])) {
        printf("0 passed, 0 failed, 1 skipped\n");
        return 0;
    }
    argc -= plugin ? 2 : 0;
    argv += plugin ? 2 : 0;
    if (plugin && argc > 1 && !strcmp(argv[1], "--deterministic")) {
        state.deterministic = true;
        argc--;
        argv++;
    }
    if (plugin && argc > 2 && !strcmp(argv[1], "--type")) {
        state.type = quant_from_name(argv[2]);
        if (state.type < 0) {
            fprintf(stderr, "check: %s is no storage format\n", argv[2]);
            return 2;
        }
        argc -= 2;
        argv += 2;
    }
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        check_bench();
        return 0;
    }
    for (int level = 0; level < CHECK_CUDA && !plugin; level++)
        if (!check_device(level, 1))
            check_skip("level %s: this machine lacks it", check_level_names[level]);
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        bool wanted = argc == 1;
        for (int j = 1; j < argc; j++)
            wanted |= !strcmp(argv[j], checks[i].name);
        if (wanted && (!plugin || checks[i].any_level))
            checks[i].run();
        end_case();
    }
    for (int level = 0; level < CHECK_LEVELS; level++)
        for (int n = 0; n <= CHECK_THREADS_MAX; n++)
            if (state.devices[level][n])
                check_kernels(level)->close(state.devices[level][n]);
    printf("%d passed, %d failed, %d skipped\n", state.n_passed, state.n_failed, state.n_skipped);
    return state.n_failed ? 1 : 0;
}
