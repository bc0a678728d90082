/* check: what the files of tests/kernels share: random numbers, guarded buffers, devices, counting.
 *
 * A case is one op at one shape, format and level; check_case names it, check_expect may fail it.
 * One thread. Output buffers come poisoned with NaN and with guard values on both sides. */
#ifndef SIROCCO_TESTS_KERNELS_CHECK_H
#define SIROCCO_TESTS_KERNELS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

enum { CHECK_LEVELS = 5, CHECK_THREADS_MAX = 3, CHECK_N_MAX = 256, CHECK_COLS_MAX = 8192 };
/* base, avx2, avx512, avx512-bf16, cuda */
extern const char *const check_level_names[CHECK_LEVELS];

/* random numbers: one seeded sequence per case, so that a case fails alone as it fails in the run */
uint32_t check_random(void);
int check_int(int low, int high); /* inclusive */
float check_uniform(float low, float high);
float check_normal(void);
void check_fill(float *x, size_t n); /* normal */

void check_case(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Record a failure of the current case when ok is false; at most a few lines per case are shown. */
bool check_expect(bool ok, const char *format, ...) __attribute__((format(printf, 2, 3)));
void check_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Buffers of the current case: freed at the next check_case, after their guards were compared. */
float *check_floats(size_t n); /* poisoned */
void *check_bytes(size_t n);   /* poisoned with 0xff */
float *check_normals(size_t n);

/* A device of the level with so many threads, kept open; NULL when the machine lacks the level.
 * reserve was called with CHECK_N_MAX and CHECK_COLS_MAX. */
struct device *check_device(int level, int n_threads);
struct device *check_device_new(int level, int n_threads); /* the caller closes it */
/* Devices of an emulated plugin are of this GPU from now on: 0 is of 8.0, 1 of 9.0, 3 of 9.0 with
 * wrong wgmma. */
void check_gpu(int gpu);
const struct kernels *check_kernels(int level); /* whose ops take plain memory at any level */

/* The level that rounds the inputs of BF16 weights to BF16. */
enum { CHECK_ROUNDS_BF16 = 3 };

/* The plugin's level: results depend on what is computed together, within these shares of the
 * products that are summed (kernels.h, "Exactness"). */
enum { CHECK_CUDA = 4 };
bool check_varies(int level); /* false for a deterministic device: bit by bit, as on the CPU */
/* Are cases of this storage format to be run? */
bool check_wants(enum quant_type type);
/* Kernels run on the host, thread by thread: cases are fewer. */
bool check_emulated(int level);
double check_cuda_linear(enum quant_type type, int n);    /* of linear */
double check_cuda_attention(enum quant_type type, int n); /* a sequence's part of n queries */

/* hosted.c: the plugin at path behind a table for plain memory; NULL and one sentence in error. */
const struct kernels *hosted_kernels(const char *path, char *error, size_t error_bytes);
const struct kernels *hosted_plugin(void); /* the plugin's own table */
void *hosted_symbol(const char *name); /* of the plugin, or NULL */

/* Byte offsets of a block's float16 scales, the only one twice; none in MXFP4. */
const int (*check_scales_at(enum quant_type type))[2];

/* Fill n values' worth of blocks with random bits and scales that keep values below about `scale`:
 * for the formats that quant_encode does not write. */
void check_blocks(enum quant_type type, void *row, size_t n, float scale);


/* A random matrix of the type; *decoded (if not NULL) gets its values. Both live for the case. */
struct matrix check_matrix(enum quant_type type, int64_t rows, int64_t cols, float scale,
                           float **decoded);

/* FP8 with one scale per row and no NaN: what a library may multiply as FP8. */
struct matrix check_fp8_rows(int rows, int cols, float **decoded);

bool check_same(const float *a, const float *b, size_t n, const char *what); /* bit by bit */

void check_quant(void);
void check_pool(void);
void check_device_rules(void);
void check_embed(void);
void check_norm(void);
void check_linear(void);
void check_rope(void);
void check_attention(void);
void check_act(void);
void check_moe(void);
void check_gather(void);
void check_pick(void);
void check_draw(void);
void check_sanitize(void);
void check_plugin(void);
void check_readers(void);
void check_gated(void);
void check_bench(void);

#endif
