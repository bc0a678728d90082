/* attention: causal softmax attention over the paged KV pool, and its plain loop.
 *
 * Engine thread; slices on the pool. A row is a query of one head. Its positions are cut into parts
 * of CPU_ATTENTION_PART at absolute positions; each part has its own maximum and sums, and parts
 * are merged in order. So a row's arithmetic depends on its own query and its own positions alone,
 * not on block sizes, the batch, or who computes which part:
 *
 *   item: up to CPU_ATTENTION_ROWS rows of one sequence and one KV head. Row r is query r / group
 *         and head kv_head * group + r % group, group = n_heads / n_kv_heads.
 *   One slice an item: it goes through the parts and merges each as it comes.
 *   Where few items hold most of the work (a decode at a long context) one slice a part: the parts'
 *   sums go to partials[part][kv_head][row], and a second pass merges them (the split of
 *   flash-decoding, Dao et al. 2023).
 *
 * Reader of the KV layout (writer: rope.c):
 *   k[layer][block][kv_head][head_dim][block_size], v[layer][block][kv_head][block_size][head_dim]
 * and the scales of Q8_0, for both: d[layer][block][kv_head][head_dim / CPU_KV_GROUP][block_size].
 */
#include "kernels/cpu/cpu.h"

#include <math.h>

enum { PART = CPU_ATTENTION_PART, ROWS = CPU_ATTENTION_ROWS, SLICES_PER_THREAD = 4 };

/* ---- the plain loop ---- */

/* Value i of k or v; with Q8_0, scale is the index of its scale. */
static float kv_value(const struct cpu_kv *kv, const char *values, size_t i,
                      const uint16_t *scales, size_t scale)
{
    if (kv->o.type == QUANT_Q8_0)
        return (float)((const int8_t *)values)[i] * quant_f16_to_f32(scales[scale]);
    if (kv->o.type == QUANT_FP8)
        return quant_fp8_to_f32(((const uint8_t *)values)[i]);
    if (kv->o.type == QUANT_F32)
        return ((const float *)values)[i];
    uint16_t h = ((const uint16_t *)values)[i];
    return kv->o.type == QUANT_F16 ? quant_f16_to_f32(h) : quant_bf16_to_f32(h);
}

/* Index in k_scales and v_scales of element j of a position of the block at base. */
static size_t scale_at(const struct cpu_kv *kv, size_t base, int j, size_t offset)
{
    return base / CPU_KV_GROUP + (size_t)(j / CPU_KV_GROUP) * (size_t)kv->o.block_size + offset;
}

static float score(const struct cpu_attention_item *item, const float *q, int pos, size_t base)
{
    const struct cpu_kv *kv = item->kv;
    size_t offset = (size_t)(pos & (kv->o.block_size - 1));
    float sum = 0;

    for (int j = 0; j < kv->o.head_dim; j++)
        sum += q[j] * kv_value(kv, kv->k, base + (size_t)j * (size_t)kv->o.block_size + offset,
                               kv->k_scales, scale_at(kv, base, j, offset));
    sum *= item->args->scale;
    float cap = item->args->softcap;
    return cap > 0 ? cap * tanhf(sum / cap) : sum;
}

/* Softmax with a running maximum (Milakov and Gimelshein 2018), one position after the other. */
static void attention_row(const struct cpu_attention_item *item, struct cpu_attention_row *row)
{
    const struct cpu_kv *kv = item->kv;
    int head_dim = kv->o.head_dim;
    int begin = row->first > item->begin ? row->first : item->begin;
    int end = row->last + 1 < item->end ? row->last + 1 : item->end;

    for (int pos = begin; pos < end; pos++) {
        size_t block = (size_t)item->seq->blocks[pos >> kv->block_shift];
        size_t base = cpu_kv_base(kv, item->args->layer, block, item->kv_head);
        size_t offset = (size_t)(pos & (kv->o.block_size - 1));
        float s = score(item, row->q, pos, base);
        float new_most = s > row->most ? s : row->most;
        float keep = expf(row->most - new_most), p = expf(s - new_most);
        size_t v = base + offset * (size_t)head_dim;
        row->total = row->total * keep + p;
        for (int j = 0; j < head_dim; j++)
            row->out[j] =
                row->out[j] * keep + p * kv_value(kv, kv->v, v + (size_t)j, kv->v_scales,
                                                  scale_at(kv, base, j, offset));
        row->most = new_most;
    }
}

static void attention_item(const struct cpu_attention_item *item)
{
    for (int i = 0; i < item->n_rows; i++)
        attention_row(item, &item->rows[i]);
}

/* out[j] = out[j] * keep + sums[j] * take */
static void attention_merge(float *out, float keep, const float *sums, float take, int n)
{
    for (int j = 0; j < n; j++)
        out[j] = out[j] * keep + sums[j] * take;
}

void attention_base(struct cpu_variants *v)
{
    v->attention_merge = attention_merge;
    v->attention_item[QUANT_F32] = attention_item;
    v->attention_item[QUANT_F16] = attention_item;
    v->attention_item[QUANT_BF16] = attention_item;
    v->attention_item[QUANT_Q8_0] = attention_item;
    v->attention_item[QUANT_FP8] = attention_item;
}

/* ---- rows and parts ---- */

static void row_clear(struct cpu_attention_row *row, float *out, int head_dim)
{
    row->out = out;
    row->most = -INFINITY;
    row->total = 0;
    for (int j = 0; j < head_dim; j++)
        out[j] = 0;
}

/* row with a later part of its positions added: both brought to the greater maximum */
static void row_merge(const struct device *d, struct cpu_attention_row *row, float most,
                      float total, const float *sums)
{
    float new_most = most > row->most ? most : row->most;
    float keep = row->most == new_most ? 1 : expf(row->most - new_most);
    float take = most == new_most ? 1 : expf(most - new_most);

    d->ops.attention_merge(row->out, keep, sums, take, d->kv.o.head_dim);
    row->total = row->total * keep + total * take;
    row->most = new_most;
}

static void row_finish(struct cpu_attention_row *row, int head_dim)
{
    float factor = 1 / row->total;

    for (int j = 0; j < head_dim; j++)
        row->out[j] *= factor;
}

/* The rows of an item from row0 on, their outputs in place; returns how many. */
static int rows_make(const struct attention_args *a, const struct kv_options *o,
                     const struct attention_seq *seq, int kv_head, int row0,
                     struct cpu_attention_row *rows)
{
    int group = a->n_heads / o->n_kv_heads, n = seq->q_len * group - row0;

    n = n < ROWS ? n : ROWS;
    for (int i = 0; i < n; i++) {
        int query = (row0 + i) / group, head = kv_head * group + (row0 + i) % group;
        size_t at = ((size_t)(seq->q_start + query) * (size_t)a->n_heads + (size_t)head) *
                    (size_t)o->head_dim;
        int last = seq->kv_len - seq->q_len + query;
        int first = a->window > 0 && last >= a->window ? last - a->window + 1 : 0;
        rows[i] = (struct cpu_attention_row){a->q + at, a->out + at, first, last, -INFINITY, 0};
    }
    return n;
}

/* Parts in turn: the first goes to the outputs themselves, later ones through `sums`. */
static void item_whole(const struct device *d, struct cpu_attention_item *item, float *sums)
{
    struct cpu_attention_row parts[ROWS], *rows = item->rows;
    int n = item->n_rows, head_dim = item->kv->o.head_dim, end = rows[n - 1].last + 1;
    int start = rows[0].first / PART * PART;

    item->ahead = end;
    for (int i = 0; i < n; i++)
        row_clear(&rows[i], rows[i].out, head_dim);
    for (item->begin = start; item->begin < end; item->begin += PART) {
        item->end = item->begin + PART;
        if (item->begin == start) {
            d->ops.attention_item[d->kv.o.type](item);
            continue;
        }
        for (int i = 0; i < n; i++) {
            parts[i] = rows[i];
            row_clear(&parts[i], sums + (size_t)i * (size_t)head_dim, head_dim);
        }
        item->rows = parts;
        d->ops.attention_item[d->kv.o.type](item);
        item->rows = rows;
        for (int i = 0; i < n; i++)
            if (rows[i].first < item->end && rows[i].last >= item->begin)
                row_merge(d, &rows[i], parts[i].most, parts[i].total, parts[i].out);
    }
    for (int i = 0; i < n; i++)
        row_finish(&rows[i], head_dim);
}

/* ---- slices ---- */

struct attention_job {
    struct device *d;
    const struct attention_args *a;
    int group;
};

/* The last sequence whose first slice (or merge) is not after this one. */
static int plan_find(const struct attention_job *job, int slice, bool merge)
{
    const struct cpu_attention_plan *plan = job->d->attention_plan;
    int low = 0, high = job->a->n_seqs - 1;

    while (low < high) {
        int middle = (low + high + 1) / 2;
        if ((merge ? plan[middle].merge : plan[middle].slice) <= slice)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Index of the partial of row 0 of a part (counted from the plan's) and KV head. */
static size_t partial_at(const struct attention_job *job, int seq, int part, int kv_head)
{
    const struct cpu_attention_plan *plan = &job->d->attention_plan[seq];
    int n_rows = job->a->seqs[seq].q_len * job->group;

    return (size_t)plan->partial +
           (size_t)(part * job->d->kv.o.n_kv_heads + kv_head) * (size_t)n_rows;
}

static void attention_slice(void *arg, int slice, int thread)
{
    const struct attention_job *job = arg;
    const struct device *d = job->d;
    int at = plan_find(job, slice, false), head_dim = d->kv.o.head_dim;
    const struct cpu_attention_plan *plan = &d->attention_plan[at];
    const struct attention_seq *seq = &job->a->seqs[at];
    struct cpu_attention_row rows[ROWS];
    int part = (slice - plan->slice) % plan->n_parts, i = (slice - plan->slice) / plan->n_parts;
    int kv_head = i % d->kv.o.n_kv_heads, row0 = i / d->kv.o.n_kv_heads * ROWS;
    struct cpu_attention_item item = {.args = job->a, .seq = seq, .kv = &d->kv, .rows = rows,
                                      .kv_head = kv_head};

    item.n_rows = rows_make(job->a, &d->kv.o, seq, kv_head, row0, rows);
    if (plan->n_parts == 1) {
        item_whole(d, &item, cpu_scratch(d, thread));
        return;
    }
    size_t partial = partial_at(job, at, part, kv_head) + (size_t)row0;
    for (int r = 0; r < item.n_rows; r++)
        row_clear(&rows[r], d->partial_sums + (partial + (size_t)r) * (size_t)head_dim, head_dim);
    item.begin = (plan->part + part) * PART;
    item.end = item.ahead = item.begin + PART;
    d->ops.attention_item[d->kv.o.type](&item);
    for (int r = 0; r < item.n_rows; r++)
        d->partials[partial + (size_t)r] = (struct cpu_partial){rows[r].most, rows[r].total};
}

/* The parts of an item that was split, merged as item_whole does it. */
static void merge_slice(void *arg, int slice, int thread)
{
    const struct attention_job *job = arg;
    const struct device *d = job->d;
    int at = plan_find(job, slice, true), head_dim = d->kv.o.head_dim;
    const struct cpu_attention_plan *plan = &d->attention_plan[at];
    const struct attention_seq *seq = &job->a->seqs[at];
    struct cpu_attention_row rows[ROWS];
    int i = slice - plan->merge, kv_head = i % d->kv.o.n_kv_heads;
    int row0 = i / d->kv.o.n_kv_heads * ROWS;
    int n = rows_make(job->a, &d->kv.o, seq, kv_head, row0, rows);
    int start = rows[0].first / PART;

    (void)thread;
    for (int r = 0; r < n; r++) {
        row_clear(&rows[r], rows[r].out, head_dim);
        for (int part = start; part <= rows[r].last / PART; part++) {
            size_t partial = partial_at(job, at, part - plan->part, kv_head) + (size_t)(row0 + r);
            const float *sums = d->partial_sums + partial * (size_t)head_dim;
            struct cpu_partial p = d->partials[partial];
            if (part == start) {
                rows[r].most = p.most;
                rows[r].total = p.total;
                for (int j = 0; j < head_dim; j++)
                    rows[r].out[j] = sums[j];
            } else if (rows[r].first < (part + 1) * PART)
                row_merge(d, &rows[r], p.most, p.total, sums);
        }
        row_finish(&rows[r], head_dim);
    }
}

/* ---- the driver ---- */

/* Positions that a sequence's queries see, the first of them in *first. */
static int seen(const struct attention_args *a, const struct attention_seq *seq, int *first)
{
    *first = seq->kv_len - seq->q_len - a->window + 1;
    if (a->window <= 0 || *first < 0)
        *first = 0;
    return seq->kv_len - *first;
}

/* One slice a part for the sequences whose items are each more than a thread's fair share of `work`
 * (positions times rows), as far as the partials reach. */
static void plan_make(const struct attention_job *job, double work)
{
    const struct attention_args *a = job->a;
    struct device *d = job->d;
    struct cpu_attention_plan at = {0}, *plan = d->attention_plan;
    double share = work / (d->n_threads * SLICES_PER_THREAD);

    for (int i = 0; i < a->n_seqs; i++) {
        const struct attention_seq *seq = &a->seqs[i];
        int first, positions = seen(a, seq, &first), rows = seq->q_len * job->group;
        int items = (rows + ROWS - 1) / ROWS * d->kv.o.n_kv_heads;
        int n_parts = (seq->kv_len - 1) / PART - first / PART + 1;
        int64_t partials = (int64_t)n_parts * rows * d->kv.o.n_kv_heads;
        bool split = d->n_threads > 1 && n_parts > 1 &&
                     (double)(rows < ROWS ? rows : ROWS) * positions > share &&
                     partials <= d->n_partials - at.partial;
        at.part = first / PART;
        at.n_parts = split ? n_parts : 1;
        plan[i] = at;
        at.slice += items * at.n_parts;
        at.merge += split ? items : 0;
        at.partial += split ? (int32_t)partials : 0;
    }
    plan[a->n_seqs] = at;
}

int attention_run(struct device *d, const struct attention_args *a)
{
    const struct kv_options *o = &d->kv.o;
    double work = 0;
    int first;

    if (cpu_failed(d))
        return -1;
    if (!d->kv_bytes || a->layer < 0 || a->layer >= o->n_layers || a->n_heads < 1 ||
        a->n_heads % o->n_kv_heads || a->n_seqs > d->n_max)
        return cpu_fail(d, "attention does not fit the KV pool or the reserved scratch memory");
    for (int i = 0; i < a->n_seqs; i++)
        work += (double)a->seqs[i].q_len * seen(a, &a->seqs[i], &first);
    work *= a->n_heads;
    struct attention_job job = {d, a, a->n_heads / o->n_kv_heads};
    plan_make(&job, work);
    const struct cpu_attention_plan *all = &d->attention_plan[a->n_seqs];
    cpu_run(d, attention_slice, &job, all->slice, work * o->head_dim * 0.04);
    if (all->merge)
        cpu_run(d, merge_slice, &job, all->merge, (double)all->partial * o->head_dim * 0.1);
    return 0;
}
