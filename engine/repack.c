/* repack: which tensors of a checkpoint belong together, and what they become (repack.h).
 *
 * Owns the jobs and the room of their results: one anonymous mapping that takes no memory before it
 * is filled. The plan's list is the reader's, with the sources of each job taken out and the result
 * put in. Runs at open, in the caller's thread; filling adds threads that end before it returns,
 * each with panels of rows of its own. */
#include "engine/repack.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/size.h"
#include "engine/repack_cache.h"
#include "engine/repack_config.h"

enum { THREADS_MAX = 16, NAME_BYTES = 256, ROOM_ALIGN = 64, PANELS_AT_ONCE = 4 };

struct repack {
    const struct source *source;
    struct repack_config config;
    struct repack_job *jobs;
    size_t n_jobs, capacity;
    uint8_t *room;
    size_t room_bytes;
};

struct planner {
    struct repack *r;
    struct weights_list *list; /* sorted by name while the plan is made */
    bool *gone;                /* [list->n]: the source of a job, or left aside */
    struct err *err;
    int rc;
};

/* ---- finding what belongs together */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct weights_tensor *)a)->name,
                  ((const struct weights_tensor *)b)->name);
}

/* The tensor whose name is that of `one` with its end replaced; it is taken. NULL: no such. */
static const struct weights_tensor *partner(struct planner *p, const struct weights_tensor *one,
                                            const char *end, const char *instead)
{
    char name[NAME_BYTES];
    size_t stem = strlen(one->name) - strlen(end);
    if (stem + strlen(instead) >= sizeof name)
        return NULL;
    memcpy(name, one->name, stem);
    memcpy(name + stem, instead, strlen(instead) + 1);
    struct weights_tensor key = {.name = name};
    const struct weights_tensor *found =
        bsearch(&key, p->list->tensors, p->list->n, sizeof key, by_name);
    if (found)
        p->gone[found - p->list->tensors] = true;
    return found;
}

static void fail(struct planner *p, const struct weights_tensor *t, const char *what)
{
    if (!p->rc)
        p->rc = err_set(p->err, ERR_FORMAT, "%s: tensor '%s' %s", t->file, t->name, what);
}

static bool is_type(const struct weights_tensor *t, const char *name)
{
    return !strcmp(t->type_name, name);
}

static bool is_shape(const struct weights_tensor *t, int n_dims, int64_t a, int64_t b)
{
    return t->n_dims == n_dims && (n_dims < 1 || t->dims[0] == a) &&
           (n_dims < 2 || t->dims[1] == b);
}

static bool is_word_matrix(const struct weights_tensor *t)
{
    return is_type(t, "I32") && t->n_dims == 2 && t->dims[0] >= 1 && t->dims[1] >= 1 &&
           t->dims[0] <= INT32_MAX && t->dims[1] <= INT32_MAX;
}

/* Take `t` into the job, which needs it of the dtype and shape [a, b]. */
static void take(struct planner *p, struct weights_tensor *into, const struct weights_tensor *one,
                 const struct weights_tensor *t, const char *missing, const char *type, int64_t a,
                 int64_t b)
{
    if (p->rc)
        return;
    if (!t)
        fail(p, one, missing);
    else if (!is_type(t, type))
        fail(p, t, "is not of the type that its quantization has");
    else if (!is_shape(t, 2, a, b))
        fail(p, t, "is not of the shape that its quantized values need");
    else
        *into = *t;
}

/* ---- jobs */

/* A group of columns that share a scale; every scale_cols of FP8 that does not end with a row. */
static bool fits(const struct repack_job *job, int64_t block)
{
    return job->cols % block == 0 && (job->scale_cols >= job->cols || job->scale_cols % block == 0);
}

/* The nearest format that holds the values exactly. */
static enum quant_type type_of(const struct repack_job *job)
{
    bool half_scales = job->scale.type == QUANT_F16;
    bool symmetric = job->symmetric || !job->zero.name;
    if (job->kind == REPACK_FP8)
        return fits(job, 128) ? QUANT_F8_128 : QUANT_F32;
    if (!repack_in_order(job))
        return QUANT_F32;
    if (symmetric && half_scales && fits(job, 32))
        return job->bits == 4 ? QUANT_Q4_0 : QUANT_Q8_0;
    if (fits(job, 128))
        return job->bits == 4 ? QUANT_G4_128 : QUANT_G8_128;
    if (fits(job, 32))
        return job->bits == 4 ? QUANT_G4 : QUANT_G8;
    return QUANT_F32;
}

static void add_job(struct planner *p, const struct repack_job *job)
{
    struct repack *r = p->r;
    size_t row, bytes;
    if (p->rc)
        return;
    if (job->scale.type > QUANT_BF16) {
        fail(p, &job->scale, "is not of a float type that is known");
        return;
    }
    if (r->n_jobs == r->capacity) {
        size_t capacity = r->capacity ? 2 * r->capacity : 64;
        struct repack_job *jobs = reallocarray(r->jobs, capacity, sizeof *jobs);
        if (!jobs) {
            p->rc = err_set(p->err, ERR_NOMEM, "out of memory");
            return;
        }
        r->jobs = jobs;
        r->capacity = capacity;
    }
    r->jobs[r->n_jobs] = *job;
    r->jobs[r->n_jobs].type = type_of(job);
    row = quant_row_bytes(r->jobs[r->n_jobs].type, (size_t)job->cols);
    r->n_jobs++;
    if (!row || !size_mul(row, (size_t)job->rows, &bytes) ||
        !size_add(bytes, ROOM_ALIGN, &bytes) || !size_add(r->room_bytes, bytes, &r->room_bytes))
        fail(p, &job->data, "is too large");
    r->room_bytes &= ~(size_t)(ROOM_ALIGN - 1);
}

/* P.qweight, P.qzeros, P.scales, P.g_idx: GPTQ's [cols / 8][rows], AWQ's [cols][rows / 8] */
static void plan_words(struct planner *p, const struct weights_tensor *w)
{
    static const char end[] = ".qweight";
    const struct repack_config *c = &p->r->config;
    const int per_word = 32 / c->bits;
    const struct weights_tensor *scales = partner(p, w, end, ".scales");
    const struct weights_tensor *zeros = partner(p, w, end, ".qzeros");
    const struct weights_tensor *order = partner(p, w, end, ".g_idx");
    struct repack_job job = {.kind = c->awq ? REPACK_AWQ : REPACK_GPTQ, .bits = c->bits,
                             .zero_plus = c->zero_plus, .symmetric = c->symmetric,
                             .scale_rows = 1, .data = *w};
    if (!is_word_matrix(w)) {
        fail(p, w, "is no matrix of I32");
        return;
    }
    job.rows = w->dims[1] * (c->awq ? per_word : 1);
    job.cols = w->dims[0] * (c->awq ? 1 : per_word);
    job.scale_cols = c->group ? c->group : job.cols;
    job.n_groups = (job.cols + job.scale_cols - 1) / job.scale_cols;
    if (job.rows % per_word)
        fail(p, w, "has rows that do not fill words of zero points");
    if (!p->rc && !scales)
        fail(p, w, "has no .scales beside it");
    if (!p->rc && !is_shape(scales, 2, job.n_groups, job.rows))
        fail(p, scales, "has not one value per group and row");
    if (!p->rc)
        job.scale = *scales;
    take(p, &job.zero, w, zeros, "has no .qzeros beside it", "I32", job.n_groups,
         job.rows / per_word);
    if (!p->rc && order) {
        if (!is_type(order, "I32") || !is_shape(order, 1, job.cols, 0))
            fail(p, order, "has not one I32 per column");
        job.order = *order;
    }
    add_job(p, &job);
}

/* A scale for all, for each row, for each group of columns of a row, or for each block. */
static void plan_scales(struct planner *p, struct repack_job *job, const struct weights_tensor *s)
{
    const struct repack_config *c = &p->r->config;
    int64_t block_rows = (job->rows + c->block_rows - 1) / c->block_rows;
    int64_t block_cols = (job->cols + c->block_cols - 1) / c->block_cols;
    if (p->rc)
        return;
    job->scale = *s;
    job->scale_rows = 1;
    job->scale_cols = job->cols;
    job->n_groups = 1;
    if (s->n_dims == 0 || is_shape(s, 1, 1, 0) || is_shape(s, 2, 1, 1)) {
        job->scale_rows = job->rows;
        return;
    }
    if (is_shape(s, 1, job->rows, 0) || is_shape(s, 2, job->rows, 1))
        return;
    if (job->kind == REPACK_FP8 && is_shape(s, 2, block_rows, block_cols)) {
        job->scale_rows = c->block_rows;
        job->scale_cols = c->block_cols;
        job->n_groups = block_cols;
    } else if (s->n_dims == 2 && s->dims[0] == job->rows && s->dims[1] > 0 &&
               job->cols % s->dims[1] == 0) {
        job->scale_cols = job->cols / s->dims[1];
        job->n_groups = s->dims[1];
    } else {
        fail(p, s, "has not one value in all, per row, per group or per block");
    }
}

/* P.weight_packed [rows][cols / 8], P.weight_scale, P.weight_shape and, not always,
 * P.weight_zero_point [rows / 8][groups] and P.weight_g_idx */
static void plan_packed(struct planner *p, const struct weights_tensor *w)
{
    static const char end[] = ".weight_packed";
    const struct weights_tensor *scale = partner(p, w, end, ".weight_scale");
    const struct weights_tensor *zero = partner(p, w, end, ".weight_zero_point");
    const struct weights_tensor *shape = partner(p, w, end, ".weight_shape");
    const struct weights_tensor *order = partner(p, w, end, ".weight_g_idx");
    int64_t dims[2] = {0, 0};
    struct repack_job job = {.kind = REPACK_PACKED, .data = *w};
    if (!is_word_matrix(w))
        fail(p, w, "is no matrix of I32");
    else if (!scale)
        fail(p, w, "has no .weight_scale beside it");
    else if (!shape || !is_type(shape, "I64") || !is_shape(shape, 1, 2, 0))
        fail(p, w, "has no .weight_shape of two I64 beside it");
    if (p->rc)
        return;
    memcpy(dims, shape->data, sizeof dims);
    job.rows = dims[0];
    job.cols = dims[1];
    job.bits = job.cols == 8 * w->dims[1] ? 4 : 8;
    if (job.rows != w->dims[0] || job.rows < 1 || job.cols < 1 || job.cols > INT32_MAX ||
        job.cols * job.bits != 32 * w->dims[1]) {
        fail(p, w, "holds not 4 or 8 bits for each value of its .weight_shape");
        return;
    }
    plan_scales(p, &job, scale);
    if (zero)
        take(p, &job.zero, w, zero, "", "I32", (job.rows * job.bits + 31) / 32, job.n_groups);
    if (!p->rc && order) {
        if (!is_type(order, "I32") || !is_shape(order, 1, job.cols, 0))
            fail(p, order, "has not one I32 per column");
        job.order = *order;
    }
    if (!p->rc && zero && job.scale_rows != 1)
        fail(p, zero, "stands beside a scale for all rows");
    add_job(p, &job);
}

/* P.weight of FP8 or int8, with P.weight_scale and what else it is called */
static void plan_bytes(struct planner *p, const struct weights_tensor *w)
{
    static const char end[] = ".weight";
    static const char *const scales[] = {".weight_scale", ".weight_scale_inv", ".qscale_weight"};
    struct repack_job job = {.kind = is_type(w, "I8") ? REPACK_INT8 : REPACK_FP8, .bits = 8,
                             .rows = w->dims[0], .cols = w->dims[1], .data = *w};
    const struct weights_tensor *scale = NULL, *zero = NULL;
    if (w->n_dims != 2 || job.rows < 1 || job.cols < 1 || job.cols > INT32_MAX ||
        job.rows > INT64_MAX / job.cols) {
        fail(p, w, "is no matrix");
        return;
    }
    for (size_t i = 0; !scale && i < sizeof scales / sizeof *scales; i++)
        scale = partner(p, w, end, scales[i]);
    if (!scale) {
        fail(p, w, "has no .weight_scale (.weight_scale_inv, .qscale_weight) beside it");
        return;
    }
    plan_scales(p, &job, scale);
    if (job.kind == REPACK_INT8 && (zero = partner(p, w, end, ".weight_zero_point"))) {
        if (!is_type(zero, "I8") || zero->bytes != job.scale.bytes /
                                        (size_t)quant_formats[job.scale.type].block_bytes)
            fail(p, zero, "has not one I8 per scale");
        job.zero = *zero;
    }
    add_job(p, &job);
}

/* What such checkpoints say about activations and the KV cache, which are not quantized so here. */
static bool is_aside(const char *name)
{
    static const char *const ends[] = {
        ".input_scale", ".activation_scale", ".qscale_act",   ".input_zero_point", ".k_scale",
        ".v_scale",     ".q_scale",          ".output_scale", ".kv_scale"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(name, ends[i]))
            return true;
    return false;
}

static void plan_one(struct planner *p, size_t i)
{
    const struct weights_tensor *t = &p->list->tensors[i];
    size_t jobs = p->r->n_jobs;
    if (p->r->config.words && ends_with(t->name, ".qweight"))
        plan_words(p, t);
    else if (ends_with(t->name, ".weight_packed"))
        plan_packed(p, t);
    else if (ends_with(t->name, ".weight") && (is_type(t, "F8_E4M3") || is_type(t, "I8")))
        plan_bytes(p, t);
    p->gone[i] |= p->r->n_jobs > jobs || is_aside(t->name);
}

/* ---- the list with the results in it */

static const char *result_name(struct weights_list *list, const struct weights_tensor *data)
{
    const char *dot = strrchr(data->name, '.');
    size_t stem = (size_t)(dot - data->name);
    char *name = arena_alloc(&list->arena, stem + sizeof ".weight");
    if (name) {
        memcpy(name, data->name, stem);
        memcpy(name + stem, ".weight", sizeof ".weight");
    }
    return name;
}

static int put_results(struct planner *p)
{
    struct weights_list *list = p->list;
    struct repack *r = p->r;
    size_t kept = 0, at = 0;
    for (size_t i = 0; i < list->n; i++)
        if (!p->gone[i])
            list->tensors[kept++] = list->tensors[i];
    list->n = kept;
    for (size_t i = 0; i < r->n_jobs; i++) {
        struct repack_job *job = &r->jobs[i];
        struct weights_tensor *t = weights_list_add(list);
        const char *name = t ? result_name(list, &job->data) : NULL;
        if (!name)
            return err_set(p->err, ERR_NOMEM, "out of memory");
        job->out = r->room + at;
        *t = (struct weights_tensor){
            .name = name, .file = job->data.file, .type = job->type,
            .type_name = quant_formats[job->type].name, .n_dims = 2,
            .dims = {job->rows, job->cols}, .data = job->out,
            .bytes = (size_t)job->rows * quant_row_bytes(job->type, (size_t)job->cols)};
        at += (t->bytes + ROOM_ALIGN - 1) & ~(size_t)(ROOM_ALIGN - 1);
    }
    qsort(list->tensors, list->n, sizeof *list->tensors, by_name);
    for (size_t i = 1; i < list->n; i++)
        if (!by_name(&list->tensors[i - 1], &list->tensors[i]))
            return err_set(p->err, ERR_FORMAT, "%s: tensor '%s' is there as it is and quantized",
                           list->tensors[i].file, list->tensors[i].name);
    return 0;
}

static int reserve(struct repack *r, struct err *err)
{
    void *room = mmap(NULL, r->room_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return err_set(err, ERR_NOMEM, "no room for %zu bytes of repacked weights", r->room_bytes);
    madvise(room, r->room_bytes, MADV_HUGEPAGE);
    r->room = room;
    return 0;
}

int repack_plan(const struct source *source, struct weights_list *list, struct repack **out,
                struct err *err)
{
    struct repack *r = calloc(1, sizeof *r);
    struct planner p = {.r = r, .list = list, .err = err, .gone = calloc(list->n + 1, 1)};
    *out = NULL;
    if (!r || !p.gone) {
        p.rc = err_set(err, ERR_NOMEM, "out of memory");
    } else {
        r->source = source;
        p.rc = repack_config_read(source, &r->config, err);
        for (size_t i = 0; !p.rc && *r->config.method && i < list->n; i++)
            plan_one(&p, i);
        if (!p.rc && r->n_jobs)
            p.rc = reserve(r, err);
        if (!p.rc && r->n_jobs)
            p.rc = put_results(&p);
    }
    free(p.gone);
    if (p.rc || !r->n_jobs) {
        repack_free(r);
        return p.rc;
    }
    *out = r;
    return 0;
}

void repack_free(struct repack *r)
{
    if (!r)
        return;
    if (r->room)
        munmap(r->room, r->room_bytes);
    free(r->jobs);
    free(r);
}

const char *repack_method(const struct repack *r)
{
    return r->config.method;
}

size_t repack_disordered(const struct repack *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_jobs; i++)
        n += !repack_in_order(&r->jobs[i]);
    return n;
}

/* ---- filling the room */

struct worker {
    const struct repack_job *job;
    uint8_t *scratch; /* REPACK_PANEL rows */
    int no, n;        /* this worker and how many there are */
    struct err err;
    int rc;
};

/* Every n-th run of panels. */
static void *work(void *arg)
{
    struct worker *w = arg;
    const int64_t step = REPACK_PANEL * PANELS_AT_ONCE, rows = w->job->rows;
    for (int64_t row = w->no * step; !w->rc && row < rows; row += w->n * step)
        w->rc = repack_fill(w->job, row, row + step < rows ? row + step : rows, w->scratch,
                            &w->err);
    return NULL;
}

static int cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : n;
}

/* A job on all threads; a thread that can not be started is this one's to do. */
static int run_job(struct worker *workers, int n, struct err *err)
{
    pthread_t threads[THREADS_MAX];
    bool started[THREADS_MAX] = {false};
    for (int i = 1; i < n; i++)
        started[i] = !pthread_create(&threads[i], NULL, work, &workers[i]);
    for (int i = 0; i < n; i++)
        if (!started[i])
            work(&workers[i]);
    for (int i = 1; i < n; i++)
        if (started[i])
            pthread_join(threads[i], NULL);
    for (int i = 0; i < n; i++)
        if (workers[i].rc) {
            *err = workers[i].err;
            return workers[i].rc;
        }
    return 0;
}

static int fill_room(struct repack *r, struct err *err)
{
    int n = cores(), rc = 0;
    size_t bytes = 0;
    struct worker workers[THREADS_MAX] = {{0}};
    for (size_t i = 0; i < r->n_jobs; i++)
        if ((size_t)r->jobs[i].cols * REPACK_PANEL > bytes)
            bytes = (size_t)r->jobs[i].cols * REPACK_PANEL;
    uint8_t *scratch = reallocarray(NULL, (size_t)n, bytes);
    if (!scratch)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (size_t i = 0; !rc && i < r->n_jobs; i++) {
        const struct repack_job *job = &r->jobs[i];
        int64_t runs = job->rows / (REPACK_PANEL * PANELS_AT_ONCE) + 1;
        int used = runs < n ? (int)runs : n;
        for (int k = 0; k < used; k++)
            workers[k] = (struct worker){.job = job, .scratch = scratch + (size_t)k * bytes,
                                         .no = k, .n = used};
        rc = repack_check(job, err);
        if (!rc)
            rc = run_job(workers, used, err);
        source_release(r->source, job->data.data, job->data.bytes);
    }
    free(scratch);
    return rc;
}

/* What the result depends on; false: the source has no identity. */
static bool key_of(const struct repack *r, struct repack_cache_key *key)
{
    uint64_t identity = source_identity(r->source);
    repack_cache_key_init(key);
    repack_cache_key_add(key, &identity, sizeof identity);
    for (size_t i = 0; i < r->n_jobs; i++) {
        const struct repack_job *job = &r->jobs[i];
        const int64_t parts[] = {job->kind, job->bits, job->zero_plus, job->symmetric, job->rows,
                                 job->cols, job->scale_rows, job->scale_cols, job->type};
        repack_cache_key_add(key, job->data.name, strlen(job->data.name));
        repack_cache_key_add(key, parts, sizeof parts);
    }
    return identity != 0;
}

int repack_run(struct repack *r, const char *kept, struct err *err)
{
    struct repack_cache_key key;
    bool keeps = kept && *kept && key_of(r, &key);
    if (keeps && repack_cache_read(kept, &key, r->room, r->room_bytes))
        return 0;
    int rc = fill_room(r, err);
    if (rc)
        err_prefix(err, "%s", source_path(r->source));
    if (!rc && keeps)
        repack_cache_write(kept, &key, r->room, r->room_bytes);
    return rc;
}
