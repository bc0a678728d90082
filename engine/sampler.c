/* sampler: one token out of one row of logits (the chain of engine/sample.h).
 *
 * Owns the sampler's scratch, allocated once (R4). Engine thread only.
 *
 * Invariants: marks[] is all zero between draws (every touched token is on the list of changes and
 * the list is walked to clean up); only logits[0, n_tokens_valid) is looked at; a NaN counts as
 * masked, because every comparison here is false for it. All choices are total orders (ties go to
 * the lower id), so that a draw depends on its input alone and not on the path taken.
 *
 * Speed: whole-vocabulary passes work in blocks of BLOCK lanes without branches, which the compiler
 * turns into vector code. The filters gather what lies near the maximum, widen the margin until the
 * wanted count or mass is inside, and find the cut by quickselect: nothing ever sorts. */
#include "engine/sample.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    LANES = 4,   /* of what every x86-64 has; the compiler knows what to do elsewhere */
    BLOCK = 16,  /* values per turn of a loop over the vocabulary */
    CHUNK = 1024 /* weights per partial sum */
};

typedef float floats __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t ints __attribute__((vector_size(LANES * sizeof(int32_t))));

/* Below this temperature the second best token would have to be within 1e-4 of the best to have any
 * chance: greedy, without dividing by almost nothing. */
static const float GREEDY_BELOW = 1e-5f;

/* The log-probability reported for what the raw logits exclude: JSON knows no infinity. */
static const float LOGPROB_MIN = -9999.0f;

/* Margins below the maximum, in units of the temperature, tried in turn by the filters. */
static const float MARGINS[] = {4.0f, 8.0f, 16.0f, 32.0f};
enum { N_MARGINS = sizeof MARGINS / sizeof *MARGINS };

struct change { /* a logit that bias, a penalty or a mask concerns */
    int32_t token;
    float raw; /* its value before */
};

struct candidate {
    int32_t token;
    float logit, weight;
    float key; /* the order of the filter at work, ascending */
};

struct sampler {
    int vocab, n_changes;
    uint32_t *marks;         /* [vocab]: 0, or TOUCHED | IN_TEXT | COUNT_ONE * uses in output */
    struct change *changes;  /* [vocab] */
    float *weights;          /* [vocab rounded up to CHUNK]: exp((logit - max) / temperature) */
    double *chunk_sums;      /* of weights, per CHUNK */
    struct candidate *kept;  /* [vocab + 1]: what passed the filters so far, ascending ids */
    struct candidate *work;  /* [vocab]: quickselect's own copy */
};

enum { TOUCHED = 1, IN_TEXT = 2, COUNT_ONE = 4 };

/* ---- passes over the vocabulary ---- */

/* BLOCK values from x[i]; at the end of x a copy filled up with -inf. */
static const float *block_at(const float *x, int n, int i, float tail[BLOCK])
{
    if (i + BLOCK <= n)
        return x + i;
    for (int j = 0; j < BLOCK; j++)
        tail[j] = i + j < n ? x[i + j] : -INFINITY;
    return tail;
}

static float max_of(const float *x, int n)
{
    float lanes[BLOCK], tail[BLOCK], max = -INFINITY;
    for (int j = 0; j < BLOCK; j++)
        lanes[j] = -INFINITY;
    for (int i = 0; i < n; i += BLOCK) {
        const float *block = block_at(x, n, i, tail);
        for (int j = 0; j < BLOCK; j++)
            lanes[j] = block[j] > lanes[j] ? block[j] : lanes[j];
    }
    for (int j = 0; j < BLOCK; j++)
        max = lanes[j] > max ? lanes[j] : max;
    return max;
}

static int count_between(const float *block, float low, float high)
{
    int hits = 0;
    for (int j = 0; j < BLOCK; j++)
        hits += (block[j] >= low) & (block[j] <= high);
    return hits;
}

static int32_t first_at_least(const float *x, int n, float low)
{
    float tail[BLOCK];
    for (int i = 0; i < n; i += BLOCK) {
        const float *block = block_at(x, n, i, tail);
        if (count_between(block, low, INFINITY) == 0)
            continue;
        for (int j = 0; j < BLOCK; j++)
            if (block[j] >= low)
                return i + j;
    }
    return -1;
}

/* exp(z) for z <= 0, relative error below 2e-7, exactly 1 at 0; 0 below -87 and for NaN.
 * 2^k * exp(r) with k = round(z / ln 2) and the Taylor series of exp on |r| <= ln(2) / 2. What is
 * out of range is masked to 0 on the way in and out. */
static inline floats exp_below(floats z)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    ints mask = z >= -87.0f;
    floats inside = (floats)((ints)z & mask);
    floats shifted = inside * 1.44269504f + magic;
    floats k = shifted - magic;
    floats r = inside - k * 0.693359375f + k * 2.12194440e-4f; /* ln 2 in two parts */
    floats p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    ints power = ((ints)shifted - 0x4B400000 + 127) << 23; /* magic's low bits hold k */
    return p * (floats)(power & mask);
}

/* weights[i] = exp((x[i] - max) * scale); returns their sum. */
static double weigh(struct sampler *s, const float *x, int n, float max, float scale)
{
    double total = 0;
    float tail[BLOCK];
    for (int start = 0; start < n; start += CHUNK) {
        double lanes[BLOCK] = {0}, sum = 0;
        int end = n - start < CHUNK ? n : start + CHUNK;
        for (int i = start; i < end; i += BLOCK) {
            const float *block = block_at(x, n, i, tail);
            float *weights = s->weights + i;
            for (int j = 0; j < BLOCK; j += LANES) {
                floats z;
                memcpy(&z, block + j, sizeof z);
                z = exp_below((z - max) * scale);
                memcpy(weights + j, &z, sizeof z);
            }
            for (int j = 0; j < BLOCK; j++)
                lanes[j] += (double)weights[j];
        }
        for (int j = 0; j < BLOCK; j++)
            sum += lanes[j];
        s->chunk_sums[start / CHUNK] = sum;
        total += sum;
    }
    return total;
}

/* kept = every token with low <= logit <= high; returns how many. */
static int gather(struct sampler *s, const float *x, int n, float low, float high)
{
    int n_kept = 0;
    float tail[BLOCK];
    for (int i = 0; i < n; i += BLOCK) {
        const float *block = block_at(x, n, i, tail);
        if (count_between(block, low, high) == 0)
            continue;
        int n_block = n - i < BLOCK ? n - i : BLOCK;
        for (int j = 0; j < n_block; j++) { /* no branch to mispredict: write all, keep some */
            s->kept[n_kept] = (struct candidate){i + j, block[j], s->weights[i + j], 0};
            n_kept += (block[j] >= low) & (block[j] <= high);
        }
    }
    return n_kept;
}

static double mass_of(const struct candidate *list, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)list[i].weight;
    return sum;
}

static float logprob_of(float logit, float log_sum_exp)
{
    float logprob = logit - log_sum_exp;
    if (!(logprob > LOGPROB_MIN))
        return LOGPROB_MIN;
    return logprob > 0 ? 0 : logprob;
}

/* The best n_top by raw logit, descending, by insertion: most blocks hold nothing above the worst
 * of the list. */
static int top_fill(const float *x, int n, float log_sum_exp, int n_top, struct sample_top *top)
{
    int n_found = 0;
    float tail[BLOCK], worst = -FLT_MAX;
    for (int i = 0; n_top > 0 && i < n; i += BLOCK) {
        const float *block = block_at(x, n, i, tail);
        if (count_between(block, worst, FLT_MAX) == 0)
            continue;
        for (int j = 0; j < BLOCK; j++) {
            float value = block[j];
            bool full = n_found == n_top;
            if (!(value >= -FLT_MAX && value <= FLT_MAX) ||
                (full && value <= top[n_top - 1].logprob))
                continue;
            int at = full ? n_top - 1 : n_found++;
            for (; at > 0 && top[at - 1].logprob < value; at--)
                top[at] = top[at - 1];
            top[at] = (struct sample_top){i + j, value};
            if (n_found == n_top)
                worst = top[n_top - 1].logprob;
        }
    }
    for (int i = 0; i < n_found; i++)
        top[i].logprob = logprob_of(top[i].logprob, log_sum_exp);
    return n_found;
}

/* ---- bias, penalties, mask ---- */

/* Puts a token on the list of changes once. False for an id outside the logits. */
static bool touch(struct sampler *s, const float *x, int n, int32_t token)
{
    if (token < 0 || token >= n)
        return false;
    if (s->marks[token] == 0) {
        s->marks[token] = TOUCHED;
        s->changes[s->n_changes++] = (struct change){token, x[token]};
    }
    return true;
}

static void untouch_all(struct sampler *s)
{
    for (int i = 0; i < s->n_changes; i++)
        s->marks[s->changes[i].token] = 0;
    s->n_changes = 0;
}

static float raw_logit(const struct sampler *s, const float *x, int32_t token)
{
    if (s->marks[token] == 0)
        return x[token];
    int i = 0;
    while (s->changes[i].token != token)
        i++;
    return s->changes[i].raw;
}

/* Huge logits must not become infinite here: the difference of two infinities is NaN. */
static float bounded(float x)
{
    return x > FLT_MAX ? FLT_MAX : x;
}

/* Repetition: Keskar et al., "CTRL" (2019), section 4.1, in the usual form that also pushes
 * negative logits down; over prompt and output. Presence and frequency: over the output alone. */
static void penalise(struct sampler *s, const struct sample_input *in, int n)
{
    const struct sample_params *p = in->params;
    bool repetition = p->repetition_penalty != 1.0f;
    if (!repetition && p->presence_penalty == 0 && p->frequency_penalty == 0)
        return;
    for (int i = repetition ? 0 : in->n_prompt; i < in->n; i++) {
        if (!touch(s, in->logits, n, in->tokens[i]))
            continue;
        s->marks[in->tokens[i]] |= IN_TEXT;
        if (i >= in->n_prompt)
            s->marks[in->tokens[i]] += COUNT_ONE;
    }
    for (int i = 0; i < s->n_changes; i++) {
        int32_t token = s->changes[i].token;
        uint32_t mark = s->marks[token], count = mark / COUNT_ONE;
        float x = in->logits[token];
        if (mark & IN_TEXT)
            x = x > 0 ? x / p->repetition_penalty : x * p->repetition_penalty;
        if (count > 0)
            x -= p->presence_penalty + (float)count * p->frequency_penalty;
        in->logits[token] = bounded(x);
    }
}

static void adjust(struct sampler *s, const struct sample_input *in, int n)
{
    const struct sample_params *p = in->params;
    for (int i = 0; i < p->n_bias; i++)
        if (touch(s, in->logits, n, p->bias[i].token))
            in->logits[p->bias[i].token] = bounded(in->logits[p->bias[i].token] + p->bias[i].bias);
    penalise(s, in, n);
    if (in->n - in->n_prompt < p->min_tokens)
        for (int i = 0; i < in->n_stop_ids; i++)
            if (touch(s, in->logits, n, in->stop_ids[i]))
                in->logits[in->stop_ids[i]] = -INFINITY;
}

/* ---- filters ---- */

static inline bool before(const struct candidate *a, const struct candidate *b)
{
    return a->key < b->key || (a->key == b->key && a->token < b->token);
}

/* The last candidate, in the order of keys, of the shortest prefix of list[0, n) whose mass (or
 * count) reaches the limit: at least the first, at most all. Quickselect with a fixed sequence of
 * pivots; list is permuted. Moving right keeps the last pivot: should rounding make the sums of one
 * range differ between two orders of adding, it is the range's end. */
static struct candidate prefix_end(struct candidate *list, int n, double limit, bool by_count)
{
    int low = 0, high = n;
    double base = 0;
    uint32_t pivots = 1;
    struct candidate end = list[0];
    while (low < high) {
        pivots = pivots * 1664525u + 1013904223u;
        int at = low + (int)((uint64_t)pivots * (uint32_t)(high - low) >> 32);
        struct candidate pivot = list[at];
        list[at] = list[high - 1];
        int split = low;
        double left = 0;
        for (int i = low; i < high - 1; i++) {
            if (!before(&list[i], &pivot))
                continue;
            struct candidate moved = list[i];
            list[i] = list[split];
            list[split++] = moved;
            left += by_count ? 1.0 : (double)moved.weight;
        }
        list[high - 1] = list[split];
        list[split] = pivot;
        if (split > low && base + left >= limit) {
            high = split;
            continue;
        }
        end = pivot;
        base += left + (by_count ? 1.0 : (double)pivot.weight);
        if (base >= limit)
            break;
        low = split + 1;
    }
    return end;
}

/* Keeps the shortest prefix of kept[0, n), in the order of keys, that reaches the limit; the order
 * of ids stays. Returns how many are left. */
static int keep_prefix(struct sampler *s, int n, double limit, bool by_count)
{
    memcpy(s->work, s->kept, (size_t)n * sizeof *s->work);
    struct candidate end = prefix_end(s->work, n, limit, by_count);
    int n_left = 0;
    for (int i = 0; i < n; i++)
        if (!before(&end, &s->kept[i]))
            s->kept[n_left++] = s->kept[i];
    return n_left;
}

static void key_by_logit(struct candidate *list, int n)
{
    for (int i = 0; i < n; i++)
        list[i].key = -list[i].logit;
}

/* What the filters need to know of the distribution they start from. */
struct shape {
    const float *x;
    int n;
    float max, temperature;
    double total; /* of weights */
};

/* Gathers the fewest margins' worth of best tokens that hold the wanted count, or mass. */
static int gather_best(struct sampler *s, const struct shape *d, double limit, bool by_count)
{
    for (int i = 0; i < N_MARGINS; i++) {
        int n = gather(s, d->x, d->n, d->max - MARGINS[i] * d->temperature, INFINITY);
        if ((by_count ? (double)n : mass_of(s->kept, n)) >= limit)
            return n;
    }
    return gather(s, d->x, d->n, -FLT_MAX, INFINITY);
}

static float surprise_key(const struct shape *d, float logit, double usual)
{
    return (float)fabs(((double)d->max - (double)logit) / (double)d->temperature - usual);
}

/* sum of weight * distance below the maximum, for the entropy */
static double distance_mass(const struct sampler *s, const struct shape *d)
{
    double sum = 0;
    for (int i = 0; i < d->n; i++)
        if (s->weights[i] > 0)
            sum += (double)s->weights[i] * ((double)d->max - (double)d->x[i]);
    return sum / (double)d->temperature;
}

/* Locally typical sampling (Meister, Pimentel, Wiher, Cotterell 2022): order by how far a token's
 * surprise -log p lies from the entropy. With distances z below the maximum, -log p = z + log total
 * and the entropy is mean(z) + log total: the order is that of |z - mean(z)|. */
static int keep_typical(struct sampler *s, const struct shape *d, int n_kept, float typical_p)
{
    double total = d->total, usual;
    if (n_kept < 0) {
        usual = distance_mass(s, d) / total;
        for (int i = 0; i < N_MARGINS && n_kept < 0; i++) {
            /* the range of logits is a little wide: rounding must lose no key inside the margin */
            double margin = (double)MARGINS[i] * 1.001 + 0.001, t = (double)d->temperature;
            double low = (double)d->max - (usual + margin) * t;
            double high = (double)d->max - (usual - margin) * t;
            int n = gather(s, d->x, d->n, (float)low - fabsf((float)low) * 1e-6f,
                           (float)high + fabsf((float)high) * 1e-6f), n_inside = 0;
            for (int j = 0; j < n; j++) {
                s->kept[j].key = surprise_key(d, s->kept[j].logit, usual);
                if (s->kept[j].key <= MARGINS[i])
                    s->kept[n_inside++] = s->kept[j];
            }
            if (n_inside > 0 && mass_of(s->kept, n_inside) >= (double)typical_p * total)
                n_kept = n_inside;
        }
        if (n_kept < 0)
            n_kept = gather(s, d->x, d->n, -FLT_MAX, INFINITY);
    } else {
        double sum = 0;
        total = mass_of(s->kept, n_kept);
        for (int i = 0; i < n_kept; i++)
            sum += (double)s->kept[i].weight * ((double)d->max - (double)s->kept[i].logit);
        usual = sum / (double)d->temperature / total;
    }
    for (int i = 0; i < n_kept; i++)
        s->kept[i].key = surprise_key(d, s->kept[i].logit, usual);
    return keep_prefix(s, n_kept, (double)typical_p * total, false);
}

/* Nucleus sampling: Holtzman, Buys, Du, Forbes, Choi (2019), section 3.1. */
static int keep_top_p(struct sampler *s, const struct shape *d, int n_kept, float top_p)
{
    double total = n_kept < 0 ? d->total : mass_of(s->kept, n_kept);
    if (n_kept < 0)
        n_kept = gather_best(s, d, (double)top_p * total, false);
    key_by_logit(s->kept, n_kept);
    return keep_prefix(s, n_kept, (double)top_p * total, false);
}

static int keep_top_k(struct sampler *s, const struct shape *d, int top_k)
{
    int n_kept = gather_best(s, d, top_k, true);
    if (n_kept <= top_k)
        return n_kept;
    key_by_logit(s->kept, n_kept);
    return keep_prefix(s, n_kept, top_k, true);
}

/* Nguyen et al., "Turning up the heat: min-p sampling" (2024), section 3. In logits: p >= a * best
 * is logit >= best's logit + T log a. */
static int keep_min_p(struct sampler *s, const struct shape *d, int n_kept, float min_p)
{
    float best = d->max;
    for (int i = 0; i < n_kept; i++)
        best = i == 0 || s->kept[i].logit > best ? s->kept[i].logit : best;
    float low = (float)((double)best + (double)d->temperature * log((double)min_p));
    if (n_kept < 0)
        return gather(s, d->x, d->n, low, INFINITY);
    int n_left = 0;
    for (int i = 0; i < n_kept; i++)
        if (s->kept[i].logit >= low)
            s->kept[n_left++] = s->kept[i];
    return n_left;
}

/* ---- the draw ---- */

/* The first token whose cumulative weight exceeds u * total; should rounding leave none, the last
 * one with a weight. */
static int32_t draw_from_all(const struct sampler *s, const struct shape *d, double u)
{
    double target = u * d->total, sum = 0;
    int32_t last = -1;
    for (int start = 0; start < d->n; start += CHUNK) {
        double chunk = s->chunk_sums[start / CHUNK];
        if (chunk <= 0 || (sum + chunk <= target && d->n - start > CHUNK)) {
            sum += chunk;
            continue;
        }
        int end = d->n - start < CHUNK ? d->n : start + CHUNK;
        double inside = sum;
        for (int i = start; i < end; i++) {
            inside += (double)s->weights[i];
            if (s->weights[i] > 0) {
                last = i;
                if (inside > target)
                    return i;
            }
        }
        sum += chunk;
    }
    if (last >= 0)
        return last;
    for (last = d->n - 1; last > 0 && !(s->weights[last] > 0); last--)
        continue;
    return last;
}

static int32_t draw_from_kept(const struct sampler *s, int n_kept, double u)
{
    double target = u * mass_of(s->kept, n_kept), sum = 0;
    int32_t last = s->kept[0].token;
    for (int i = 0; i < n_kept; i++) {
        sum += (double)s->kept[i].weight;
        if (s->kept[i].weight > 0)
            last = s->kept[i].token;
        if (sum > target)
            break;
    }
    return last;
}

static int32_t draw(struct sampler *s, const struct sample_input *in, int n, float max)
{
    const struct sample_params *p = in->params;
    struct shape d = {in->logits, n, max, p->temperature, 0};
    d.total = weigh(s, d.x, n, max, 1.0f / p->temperature);
    int n_kept = -1; /* everything, ungathered */
    if (p->top_k > 0 && p->top_k < n)
        n_kept = keep_top_k(s, &d, p->top_k);
    if (p->typical_p < 1.0f)
        n_kept = keep_typical(s, &d, n_kept, p->typical_p);
    if (p->top_p < 1.0f)
        n_kept = keep_top_p(s, &d, n_kept, p->top_p);
    if (p->min_p > 0.0f)
        n_kept = keep_min_p(s, &d, n_kept, p->min_p);
    double u = sample_uniform(in->seed, (uint64_t)in->n);
    return n_kept < 0 ? draw_from_all(s, &d, u) : draw_from_kept(s, n_kept, u);
}

/* Greedy, most requests' case: pick has found the maximum already, unless something changed it. */
static bool pick_holds(const struct sampler *s, const struct sample_input *in, int n)
{
    const struct pick_result *pick = in->pick;
    return s->n_changes == 0 && !pick->bad && pick->best >= 0 && pick->best < n &&
           pick->best_logit > -INFINITY && in->logits[pick->best] == pick->best_logit;
}

static int32_t choose(struct sampler *s, const struct sample_input *in, int n)
{
    bool greedy = in->params->temperature < GREEDY_BELOW;
    if (greedy && pick_holds(s, in, n))
        return in->pick->best;
    float max = max_of(in->logits, n);
    if (max == -INFINITY)
        return -1;
    if (max > FLT_MAX) {
        for (int i = 0; i < n; i++)
            in->logits[i] = bounded(in->logits[i]);
        max = FLT_MAX;
    }
    return greedy ? first_at_least(in->logits, n, max) : draw(s, in, n, max);
}

/* ---- public ---- */

int sampler_open(int vocab, struct sampler **out)
{
    *out = NULL;
    if (vocab <= 0 || vocab > INT32_MAX - CHUNK)
        return ERR_VALUE;
    struct sampler *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_NOMEM;
    size_t n = (size_t)vocab, n_chunks = (n + CHUNK - 1) / CHUNK;
    s->vocab = vocab;
    s->marks = calloc(n, sizeof *s->marks);
    s->changes = calloc(n, sizeof *s->changes);
    s->weights = calloc(n_chunks, CHUNK * sizeof *s->weights);
    s->chunk_sums = calloc(n_chunks, sizeof *s->chunk_sums);
    s->kept = calloc(n + 1, sizeof *s->kept); /* gather writes one ahead */
    s->work = calloc(n, sizeof *s->work);
    if (!s->marks || !s->changes || !s->weights || !s->chunk_sums || !s->kept || !s->work) {
        sampler_close(s);
        return ERR_NOMEM;
    }
    *out = s;
    return 0;
}

void sampler_close(struct sampler *s)
{
    if (!s)
        return;
    free(s->marks);
    free(s->changes);
    free(s->weights);
    free(s->chunk_sums);
    free(s->kept);
    free(s->work);
    free(s);
}

int sampler_draw(struct sampler *s, const struct sample_input *in, struct sample_result *out)
{
    int n = in->n_tokens_valid < s->vocab ? in->n_tokens_valid : s->vocab;
    int n_top = in->params->logprobs < SAMPLE_TOP_MAX ? in->params->logprobs : SAMPLE_TOP_MAX;
    float log_sum_exp = in->pick->log_sum_exp;
    *out = (struct sample_result){.token = -1, .logprob = LOGPROB_MIN};
    if (n <= 0)
        return ERR_VALUE;
    out->n_top = top_fill(in->logits, n, log_sum_exp, n_top, out->top);
    adjust(s, in, n);
    int32_t token = choose(s, in, n);
    if (token >= 0) {
        out->token = token;
        out->logprob = logprob_of(raw_logit(s, in->logits, token), log_sum_exp);
    }
    untouch_all(s);
    return token >= 0 ? 0 : ERR_VALUE;
}

int sampler_drawn(const struct draw_result *draw, struct sample_result *out)
{
    float log_sum_exp = draw->pick.log_sum_exp;
    *out = (struct sample_result){.token = draw->token, .logprob = LOGPROB_MIN};
    out->n_top = draw->n_top;
    for (int i = 0; i < draw->n_top; i++)
        out->top[i] = (struct sample_top){draw->top[i].token,
                                          logprob_of(draw->top[i].logit, log_sum_exp)};
    if (draw->token < 0)
        return ERR_VALUE;
    out->logprob = logprob_of(draw->logit, log_sum_exp);
    return 0;
}

void sampler_logprobs(struct sampler *s, const float *logits, const struct pick_result *pick,
                      int32_t token, int n_top, struct sample_result *out)
{
    n_top = n_top < SAMPLE_TOP_MAX ? n_top : SAMPLE_TOP_MAX;
    *out = (struct sample_result){.token = token, .logprob = LOGPROB_MIN};
    if (token >= 0 && token < s->vocab)
        out->logprob = logprob_of(logits[token], pick->log_sum_exp);
    out->n_top = top_fill(logits, s->vocab, pick->log_sum_exp, n_top, out->top);
}
