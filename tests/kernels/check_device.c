/* check_device: the device's own rules: options, memory, reserve, the latched error. */
#include "tests/kernels/check.h"

#include <string.h>

static void options(void)
{
    const struct kernels *k = kernels_cpu();
    struct device *d = NULL;
    char error[100] = "";

    check_case("device: options");
    struct device_options bad = {.n_threads = 1, .cpu_isa = "sse9"};
    check_expect(k->open(&bad, &d, error, sizeof error) == -1 && !d && error[0], "unknown level");
    bad = (struct device_options){.n_threads = -1, .cpu_isa = "auto"};
    check_expect(k->open(&bad, &d, NULL, 0) == -1, "negative threads");
    struct device_options automatic = {0};
    check_expect(k->open(&automatic, &d, error, sizeof error) == 0 && d, "defaults: %s", error);
    check_expect(strstr(k->describe(d), "thread") != NULL, "describe: %s", k->describe(d));
    check_expect(k->memory_free(d) > 1 << 20, "free memory");
    k->close(d);
    k->close(NULL);
}

static void memory(void)
{
    const struct kernels *k = kernels_cpu();
    struct device *d = check_device_new(0, 1);

    check_case("device: memory");
    for (size_t n = 1; n < 3000000; n = n * 3 + 1) {
        unsigned char *m = k->alloc(d, n), sum = 0, back[8];
        check_expect(m && (uintptr_t)m % 64 == 0, "%zu bytes, aligned", n);
        for (size_t i = 0; i < n; i++)
            sum |= m[i];
        check_expect(sum == 0, "zeroed");
        memset(m, 1, n);
        size_t part = n < 8 ? n : 8;
        check_expect(!k->upload(d, m, "abcdefgh", part) && !k->download(d, back, m, part) &&
                         !memcmp(back, "abcdefgh", part),
                     "upload, download");
        k->free(d, m);
    }
    k->free(d, NULL);
    check_expect(k->alloc(d, SIZE_MAX - 8) == NULL, "too much");
    check_expect(k->linear_workspace(64, 4096) >= 64 * 4096, "workspace");
    k->close(d);
}

static void latch(void)
{
    const struct kernels *k = kernels_cpu();
    struct device *d = check_device_new(0, 1);
    float x[4] = {1, 2, 3, 4}, y[4], cos_sin[4] = {1, 0, 1, 0};
    int64_t slot = 99;

    check_case("device: errors latch");
    struct kv_options kv = {1, 1, 4, 2, 8, QUANT_F32};
    struct norm_args norm = {y, x, x, 1, 4, 1e-5f, false, {0}};
    check_expect(k->kv_bytes_per_block(&kv) == 2 * 8 * 4 * 4, "bytes per block");
    check_expect(!k->kv_open(d, &kv) && !k->norm(d, &norm) && !k->sync(d), "good calls");
    check_expect(k->device_error(d)[0] == 0, "no error yet");
    struct rope_store_args store = {x, x, x, cos_sin, &slot, 1, 1, 2, 0, false, NULL};
    check_expect(k->rope_store(d, &store) == -1 && strstr(k->device_error(d), "99"), "slot 99: %s",
                 k->device_error(d));
    check_expect(k->norm(d, &norm) == -1 && k->sync(d) == -1, "later ops fail");
    k->close(d);

    d = check_device_new(0, 1);
    kv.block_size = 24;
    check_expect(k->kv_bytes_per_block(&kv) == 0 && k->kv_open(d, &kv) == -1, "block size 24");
    k->close(d);
    d = check_device_new(0, 1);
    struct matrix m = {QUANT_Q4_0, 1, 33, x, NULL};
    check_expect(k->matrix_load(d, &m) == -1, "Q4_0 of 33 columns");
    k->close(d);
}

/* Every level reads and multiplies at some speed, and says with what. */
static void limits(void)
{
    static const char *const int8[CHECK_LEVELS] = {"float32", "int8", "int8", "int8"};
    static const char *const bf16[CHECK_LEVELS] = {"float32", "float32", "float32", "bfloat16"};

    for (int level = 0; level < CHECK_LEVELS; level++) {
        struct device *d = check_device(level, 1);
        struct device_limits l;
        if (!d)
            continue;
        check_case("device: limits of %s", check_level_names[level]);
        check_expect(!kernels_cpu()->limits(d, QUANT_Q4_0, &l) && l.read_bytes > 1e8 &&
                         l.read_bytes < 1e13 && l.operations > 1e8 && l.operations < 1e14,
                     "%g bytes, %g operations per second", l.read_bytes, l.operations);
        check_expect(!strcmp(l.instruction, int8[level]), "Q4_0: %s", l.instruction);
        check_expect(!kernels_cpu()->limits(d, QUANT_BF16, &l) &&
                         !strcmp(l.instruction, bf16[level]),
                     "BF16: %s", l.instruction);
    }
}

void check_device_rules(void)
{
    options();
    limits();
    memory();
    latch();
}
