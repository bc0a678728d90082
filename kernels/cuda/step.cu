/* step: how host arrays reach the device, and the capture of decode steps.
 *
 * Engine thread only. A pinned ring and its twin on the device carry small arrays: an array is
 * written to the ring, its copy enqueued, and the ops behind it read the twin; at the ring's end
 * the stream is waited for once and it starts over. The arrays of a step lie in one place that
 * depends on nothing but the step's shape, so that a captured graph finds the next step's arrays
 * where it found its own.
 *
 * A decode step of n sequences:  first time  ops are enqueued one by one
 *                                second      ops are captured (cuda_step_begin .. cuda_step_end),
 *                                            the graph instantiated and launched
 *                                later       cuda_step_begin launches the graph
 * What the runtime refuses to capture is run once more, one by one, and nothing is captured after
 * that. */
#include "kernels/cuda/cuda.cuh"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    RING_BYTES = 32 << 20,
    STEP_BYTES = 24 << 20,
    SMALL_BYTES = 64 << 10, /* uploads up to here go through the ring unwaited */
    COPIERS = 8,            /* threads that fill the ring from a mapped file */
    COPY_EACH_MIN = 1 << 20,
    ROWS_FEW = 16 /* attention: parts of fewer query rows (times group) run query by query */
};

/* ---- the ring */

static size_t aligned(size_t bytes)
{
    return (bytes + CUDA_ALIGN - 1) / CUDA_ALIGN * CUDA_ALIGN;
}

/* Room for bytes; its offset. -1: latched. */
static int ring_room(struct device *d, size_t bytes, size_t *at)
{
    if (d->capturing)
        return cuda_fail(d, "a captured step was given a host array of its own");
    if (bytes > d->ring_bytes)
        return cuda_fail(d, "a host array of %zu bytes", bytes);
    if (d->ring_at + bytes > d->ring_bytes) {
        if (cuda_check(d, cudaStreamSynchronize(d->stream), "the GPU failed"))
            return -1;
        d->ring_at = 0;
    }
    *at = d->ring_at;
    d->ring_at += aligned(bytes);
    return 0;
}

static int ring_send(struct device *d, size_t at, void *to, size_t bytes)
{
    return cuda_check(d,
                      cudaMemcpyAsync(to, d->ring_host + at, bytes, cudaMemcpyHostToDevice,
                                      d->stream),
                      "upload");
}

const void *cuda_stage(struct device *d, const void *from_host, size_t bytes)
{
    const struct step_args *s = &d->step;
    size_t at = 0;
    if (d->in_step && from_host == s->tokens && bytes == (size_t)s->n * sizeof *s->tokens)
        return d->step_tokens;
    if (d->in_step && from_host == s->pos && bytes == (size_t)s->n * sizeof *s->pos)
        return d->step_pos;
    if (d->in_step && from_host == s->slots && bytes == (size_t)s->n * sizeof *s->slots)
        return d->step_slots;
    if (d->in_step && from_host == s->q_scale && bytes == (size_t)s->n * sizeof *s->q_scale)
        return d->step_q_scale;
    if (d->in_step && s->draw && from_host == s->rows &&
        bytes == (size_t)s->draw->n * sizeof *s->rows)
        return d->step_rows;
    if (ring_room(d, bytes, &at))
        return NULL;
    memcpy(d->ring_host + at, from_host, bytes);
    return ring_send(d, at, d->ring_device + at, bytes) ? NULL : d->ring_device + at;
}

const struct cuda_draw *cuda_draw_stage(struct device *d, const struct draw_args *a)
{
    size_t at = 0, rows = aligned((size_t)a->n * sizeof(struct cuda_draw));
    if (d->in_step && d->step.draw && a->rows == d->step.draw->rows && a->n == d->step.draw->n &&
        a->vocab == d->step.draw->vocab)
        return d->step_draws;
    if (cuda_draw_check(d, a, 0))
        return NULL;
    size_t bytes = rows + cuda_draw_extra(a);
    if (ring_room(d, bytes, &at))
        return NULL;
    char *host = d->ring_host + at, *device = d->ring_device + at;
    cuda_draw_fill(a, NULL, (struct cuda_draw *)host, host + rows, device + rows);
    return ring_send(d, at, device, bytes) ? NULL : (const struct cuda_draw *)device;
}

/* ---- large uploads */

struct copy_part {
    char *to;
    const char *from;
    size_t bytes;
};

static void *copy_run(void *arg)
{
    const struct copy_part *p = (const struct copy_part *)arg;
    memcpy(p->to, p->from, p->bytes);
    return NULL;
}

/* memcpy by several threads: one alone cannot take in a mapped file as fast as the link sends. */
static void copy_wide(char *to, const char *from, size_t bytes)
{
    struct copy_part parts[COPIERS];
    pthread_t threads[COPIERS];
    size_t each = aligned(bytes / COPIERS + 1), at = 0;
    int n = 0;
    if (each < COPY_EACH_MIN)
        each = COPY_EACH_MIN;
    for (; at + each < bytes && n < COPIERS - 1; at += each, n++) {
        parts[n] = (struct copy_part){to + at, from + at, each};
        if (pthread_create(&threads[n], NULL, copy_run, &parts[n]))
            break;
    }
    memcpy(to + at, from + at, bytes - at);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

/* The halves of the ring take turns: one is filled while the other is on its way. */
static int upload_large(struct device *d, char *to, const char *from, size_t bytes)
{
    size_t half = d->ring_bytes / 2;
    cudaEvent_t sent[2] = {};
    int rc = cuda_check(d, cudaStreamSynchronize(d->stream), "the GPU failed");
    for (int i = 0; !rc && i < 2; i++)
        rc = cuda_check(d, cudaEventCreateWithFlags(&sent[i], cudaEventDisableTiming), "an event");
    for (size_t at = 0, turn = 0; !rc && at < bytes; at += half, turn++) {
        size_t n = bytes - at < half ? bytes - at : half, place = turn % 2 * half;
        if (turn > 1)
            rc = cuda_check(d, cudaEventSynchronize(sent[turn % 2]), "the GPU failed");
        if (rc)
            break;
        copy_wide(d->ring_host + place, from + at, n);
        rc = ring_send(d, place, to + at, n);
        if (!rc)
            rc = cuda_check(d, cudaEventRecord(sent[turn % 2], d->stream), "an event");
    }
    if (!rc)
        rc = cuda_check(d, cudaStreamSynchronize(d->stream), "the GPU failed");
    d->ring_at = 0;
    for (int i = 0; i < 2; i++)
        if (sent[i])
            cudaEventDestroy(sent[i]);
    return rc;
}

int cuda_upload(struct device *d, void *to, const void *from_host, size_t bytes)
{
    size_t at = 0;
    if (cuda_failed(d) || !cuda_owns(d, to, bytes, "upload"))
        return -1;
    if (!bytes)
        return 0;
    if (bytes > SMALL_BYTES)
        return upload_large(d, (char *)to, (const char *)from_host, bytes);
    if (ring_room(d, bytes, &at))
        return -1;
    memcpy(d->ring_host + at, from_host, bytes);
    return ring_send(d, at, to, bytes);
}

/* ---- attention's plan */

/* Offsets in a step's place, in this order; of all but the last two a function of the counts. */
struct layout {
    size_t tokens, pos, slots, q_scale, logits_rows, draws, seqs, rows, tiles, blocks, extra, end;
};

static bool by_tiles(const struct device *d, const struct attention_seq *s, int n_heads)
{
    int group = n_heads / d->kv.o.n_kv_heads;
    bool few = s->q_len == 1 || s->q_len * group < ROWS_FEW;
    return (d->deterministic || !few) && cuda_flash_fits(d, n_heads);
}

static int tiles_of(const struct device *d, const struct attention_seq *s, int group)
{
    int rows = cuda_flash_tile_rows(d->kv.o.head_dim);
    return (s->q_len * group + rows - 1) / rows;
}

static int count(const struct device *d, const struct attention_seq *seqs, int n_seqs, int n_heads,
                 struct cuda_plan *p, size_t *n_blocks)
{
    *p = (struct cuda_plan){};
    p->group = n_heads / d->kv.o.n_kv_heads;
    p->n_seqs = n_seqs;
    *n_blocks = 0;
    for (int i = 0; i < n_seqs; i++) {
        if (by_tiles(d, &seqs[i], n_heads))
            p->n_tiles += tiles_of(d, &seqs[i], p->group);
        else
            p->n_rows += seqs[i].q_len;
        *n_blocks += ((size_t)seqs[i].kv_len + (size_t)d->kv.o.block_size - 1) >>
                     d->kv.block_shift;
    }
    return p->n_rows + p->n_tiles;
}

static struct layout lay_out(size_t n, const struct draw_args *draw, const struct cuda_plan *p,
                             size_t n_blocks)
{
    size_t n_draws = draw ? (size_t)draw->n : 0;
    struct layout l = {};
    l.pos = aligned(n * sizeof(int32_t));
    l.slots = l.pos + aligned(n * sizeof(int32_t));
    l.q_scale = l.slots + aligned(n * sizeof(int64_t));
    l.logits_rows = l.q_scale + aligned(n * sizeof(float));
    l.draws = l.logits_rows + aligned(n_draws * sizeof(int32_t));
    l.seqs = l.draws + aligned(n_draws * sizeof(struct cuda_draw));
    l.rows = l.seqs + aligned((size_t)p->n_seqs * sizeof(struct cuda_seq));
    l.tiles = l.rows + aligned((size_t)p->n_rows * sizeof(struct cuda_row));
    l.blocks = l.tiles + aligned((size_t)p->n_tiles * sizeof(struct cuda_tile));
    l.extra = l.blocks + aligned(n_blocks * sizeof(int32_t));
    l.end = l.extra + (draw ? aligned(cuda_draw_extra(draw)) : 0);
    return l;
}

/* Fill the plan's arrays at host + l and point the plan to their copies at device + l. */
static void fill(const struct device *d, const struct attention_seq *seqs, int n_heads, char *host,
                 char *device, const struct layout *l, struct cuda_plan *p)
{
    struct cuda_seq *to = (struct cuda_seq *)(host + l->seqs);
    struct cuda_row *row = (struct cuda_row *)(host + l->rows);
    struct cuda_tile *tile = (struct cuda_tile *)(host + l->tiles);
    int32_t *blocks = (int32_t *)(host + l->blocks);
    int at = 0;
    for (int i = 0; i < p->n_seqs; i++) {
        const struct attention_seq *s = &seqs[i];
        int n = (s->kv_len + d->kv.o.block_size - 1) >> d->kv.block_shift;
        to[i] = (struct cuda_seq){s->q_start, s->q_len, s->kv_len, at};
        memcpy(blocks + at, s->blocks, (size_t)n * sizeof *blocks);
        at += n;
        if (by_tiles(d, s, n_heads))
            for (int j = 0; j < tiles_of(d, s, p->group); j++)
                *tile++ = (struct cuda_tile){i, j * cuda_flash_tile_rows(d->kv.o.head_dim)};
        else
            for (int j = 0; j < s->q_len; j++)
                *row++ = (struct cuda_row){i, j};
    }
    p->seqs = (struct cuda_seq *)(device + l->seqs);
    p->rows = (struct cuda_row *)(device + l->rows);
    p->tiles = (struct cuda_tile *)(device + l->tiles);
    p->blocks = (int32_t *)(device + l->blocks);
}

int cuda_plan_get(struct device *d, const struct attention_seq *seqs, int n_seqs, int n_heads,
                  struct cuda_plan *plan)
{
    size_t n_blocks, at = 0;
    if (d->in_step && d->plan_made && seqs == d->step.seqs && n_seqs == d->step.n_seqs &&
        n_heads == d->plan_heads) {
        *plan = d->plan;
        return 0;
    }
    d->plan_heads = n_heads;
    count(d, seqs, n_seqs, n_heads, plan, &n_blocks);
    struct layout l = lay_out(0, NULL, plan, n_blocks);
    if (ring_room(d, l.end, &at))
        return -1;
    fill(d, seqs, n_heads, d->ring_host + at, d->ring_device + at, &l, plan);
    return ring_send(d, at, d->ring_device + at, l.end);
}

/* ---- the step */

/* Send all arrays of the step to its place. */
static int send_step(struct device *d, const struct step_args *a)
{
    size_t n_blocks = 0, at = 0, n = (size_t)a->n;
    bool planned = d->plan_heads && d->kv.k;
    d->plan = (struct cuda_plan){};
    if (planned)
        count(d, a->seqs, a->n_seqs, d->plan_heads, &d->plan, &n_blocks);
    struct layout l = lay_out(n, a->draw, &d->plan, n_blocks);
    if (l.end > d->step_bytes)
        return cuda_fail(d, "a step's arrays take %zu bytes of %zu", l.end, d->step_bytes);
    if (ring_room(d, l.end, &at))
        return -1;
    char *host = d->ring_host + at, *device = d->step_device;
    memcpy(host + l.tokens, a->tokens, n * sizeof *a->tokens);
    memcpy(host + l.pos, a->pos, n * sizeof *a->pos);
    memcpy(host + l.slots, a->slots, n * sizeof *a->slots);
    if (a->q_scale)
        memcpy(host + l.q_scale, a->q_scale, n * sizeof *a->q_scale);
    if (a->draw) {
        memcpy(host + l.logits_rows, a->rows, (size_t)a->draw->n * sizeof *a->rows);
        cuda_draw_fill(a->draw, (int32_t *)(device + l.tokens),
                       (struct cuda_draw *)(host + l.draws), host + l.extra, device + l.extra);
    }
    if (planned)
        fill(d, a->seqs, d->plan_heads, host, device, &l, &d->plan);
    d->plan_made = planned;
    d->step_tokens = (int32_t *)(device + l.tokens);
    d->step_pos = (int32_t *)(device + l.pos);
    d->step_slots = (int64_t *)(device + l.slots);
    d->step_q_scale = (float *)(device + l.q_scale);
    d->step_rows = (int32_t *)(device + l.logits_rows);
    d->step_draws = (struct cuda_draw *)(device + l.draws);
    return ring_send(d, at, device, l.end);
}

/* The graph that this step may use, or NULL. */
static struct cuda_graph *graph_of(struct device *d, const struct step_args *a)
{
    bool decode = a->n == a->n_seqs && a->n <= CUDA_GRAPHS_MAX;
    if (decode && a->draw)
        decode = a->draw->n == a->n;
    for (int i = 0; decode && a->draw && i < a->n; i++)
        decode = a->rows[i] == i;
    return decode && d->plan_made && a->n < d->host_bound ? &d->graphs[a->draw != NULL][a->n]
                                                          : NULL;
}

/* rope_store refuses slots outside the pool; a graph's copy of it cannot. */
static int check_slots(struct device *d, const struct step_args *a)
{
    int64_t n_slots = (int64_t)d->kv.o.n_blocks * d->kv.o.block_size;
    for (int i = 0; i < a->n; i++)
        if (a->slots[i] < 0 || a->slots[i] >= n_slots)
            return cuda_fail(d, "slot %lld is outside the KV pool", (long long)a->slots[i]);
    return 0;
}

static __global__ void fill_tokens(int32_t *tokens, const struct draw_result *drawn, int n)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n || tokens[i] >= 0)
        return;
    int32_t token = drawn[~tokens[i]].token;
    tokens[i] = token < 0 ? 0 : token;
}

/* Tokens that only the device knows are put in their places. */
static int resolve_tokens(struct device *d, const struct step_args *a)
{
    enum { THREADS = 256 };
    int last = -1;
    for (int i = 0; i < a->n; i++)
        if (a->tokens[i] < 0 && ~a->tokens[i] > last)
            last = ~a->tokens[i];
    if (last < 0)
        return 0;
    if (!cuda_owns(d, a->drawn, ((size_t)last + 1) * sizeof *a->drawn, "drawn tokens"))
        return -1;
    CUDA_LAUNCH(fill_tokens, dim3((unsigned)(a->n + THREADS - 1) / THREADS), dim3(THREADS), 0,
                d->stream, d->step_tokens, a->drawn, a->n);
    return cuda_launched(d, "drawn tokens");
}

/* What a capture met may be no error but of capturing: what is one comes again. */
static void give_up_captures(struct device *d)
{
    cudaGetLastError();
    d->error[0] = 0;
    d->host_bound = 0; /* steps of no size are captured */
}

int cuda_step_begin(struct device *d, const struct step_args *a)
{
    if (cuda_failed(d))
        return -1;
    if (d->in_step)
        return cuda_fail(d, "a step began inside a step");
    d->made.of = NULL;
    /* the runtime knows a current GPU per thread, and open ran on another one */
    if (cuda_check(d, cudaSetDevice(d->gpu), "the GPU"))
        return -1;
    if (check_slots(d, a) || (a->draw && cuda_draw_check(d, a->draw, a->n)) || send_step(d, a) ||
        resolve_tokens(d, a))
        return -1;
    struct cuda_graph *g = graph_of(d, a);
    if (g && g->exec)
        return cuda_check(d, cudaGraphLaunch(g->exec, d->stream), "a captured step") ? -1 : 1;
    d->step = *a;
    d->in_step = true;
    if (g && g->seen) {
        d->capturing = !cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal);
        d->capture = g;
        if (!d->capturing)
            give_up_captures(d);
    }
    if (g)
        g->seen = true;
    return 0;
}

/* 1: there is no graph, and nothing was enqueued. */
static int end_capture(struct device *d)
{
    cudaGraph_t graph = NULL;
    struct cuda_graph *g = d->capture;
    d->capturing = false;
    cudaError_t e = cudaStreamEndCapture(d->stream, &graph);
    bool captured = e == cudaSuccess && !cuda_failed(d) &&
                    cudaGraphInstantiate(&g->exec, graph, 0) == cudaSuccess;
    if (graph)
        cudaGraphDestroy(graph);
    if (captured)
        return cuda_check(d, cudaGraphLaunch(g->exec, d->stream), "a captured step");
    g->exec = NULL;
    give_up_captures(d);
    return 1;
}

int cuda_step_end(struct device *d)
{
    int rc = d->capturing ? end_capture(d) : 0;
    d->in_step = false;
    d->plan_made = false;
    return cuda_failed(d) ? -1 : rc;
}

/* ---- open and close */

int cuda_step_open(struct device *d)
{
    void *pinned = NULL;
    if (cuda_check(d, cudaHostAlloc(&pinned, RING_BYTES, cudaHostAllocDefault), "pinned memory"))
        return -1;
    d->ring_host = (char *)pinned;
    d->ring_bytes = RING_BYTES;
    d->step_bytes = STEP_BYTES;
    d->ring_device = (char *)cuda_take(d, RING_BYTES, false);
    d->step_device = (char *)cuda_take(d, STEP_BYTES, false);
    return d->ring_device && d->step_device ? 0 : cuda_fail(d, "too little GPU memory");
}

void cuda_step_close(struct device *d)
{
    for (int i = 0; i < 2 * (CUDA_GRAPHS_MAX + 1); i++) {
        struct cuda_graph *g = &d->graphs[i / (CUDA_GRAPHS_MAX + 1)][i % (CUDA_GRAPHS_MAX + 1)];
        if (g->exec)
            cudaGraphExecDestroy(g->exec);
    }
    if (d->ring_host)
        cudaFreeHost(d->ring_host);
}
