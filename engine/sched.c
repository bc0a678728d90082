/* sched: continuous batching by one rule: every step hands out tokens so that each sequence's
 * computed count catches up with its token count (scheduling as in Yu et al. 2022, Orca, and Kwon
 * et al. 2023, PagedAttention). There is no prefill phase and no decode phase. Engine thread only.
 *
 * Rank is (priority, arrival); both queues are kept in rank order, so the last of `running` is
 * always the one to give way. Why nothing can stand still:
 *   - submit refuses what the pool can not hold, and the sequence that ranks first among those that
 *     can run takes blocks from all others if it must: it computes at least a token each step;
 *   - when nothing runs, the first of `waiting` that may run is admitted;
 *   - a paused sequence loses its blocks as soon as another one needs them. */
#include "engine/sched.h"

#include <limits.h>
#include <stdlib.h>

/* A reader this late may be only slow to wake up: before that, a paused sequence loses its place
 * to one that runs, but not to one that waits to be admitted. */
static const uint64_t pause_patience_ns = 100 * 1000000ull;

/* ---- queues */

static bool ranks_before(const struct seq *x, const struct seq *y)
{
    if (x->request.priority != y->request.priority)
        return x->request.priority < y->request.priority;
    return x->arrival < y->arrival;
}

/* Preempted sequences belong near the front, new ones near the end: each walks from there. */
static void list_add(struct sched_list *list, struct seq *seq, bool from_front)
{
    struct seq *next = NULL;
    if (from_front) {
        for (next = list->first; next && ranks_before(next, seq);)
            next = next->next;
    } else {
        for (struct seq *p = list->last; p && ranks_before(seq, p); p = p->prev)
            next = p;
    }
    seq->next = next;
    seq->prev = next ? next->prev : list->last;
    *(seq->prev ? &seq->prev->next : &list->first) = seq;
    *(next ? &next->prev : &list->last) = seq;
    list->n++;
}

static void list_remove(struct sched_list *list, struct seq *seq)
{
    *(seq->prev ? &seq->prev->next : &list->first) = seq->next;
    *(seq->next ? &seq->next->prev : &list->last) = seq->prev;
    seq->prev = seq->next = NULL;
    list->n--;
}

/* ---- groups */

static bool prompt_pending(const struct seq *seq)
{
    return seq->n_computed < seq->n_prompt && !seq_n_output(seq);
}

static void find_leader(const struct sched *s, struct seq *seq)
{
    const struct sched_list *lists[] = {&s->running, &s->waiting};
    bool shares = s->options.prefix_cache && seq->n_prompt > s->kv->block_size;
    if (!seq->request.group || !shares || seq->request.prompt_logprobs >= 0)
        return;
    for (int i = 0; i < 2; i++)
        for (struct seq *other = lists[i]->first; other; other = other->next)
            if (other->request.group == seq->request.group && !other->leader &&
                other->request.cache_salt == seq->request.cache_salt && prompt_pending(other) &&
                (!seq->leader || other->arrival < seq->leader->arrival))
                seq->leader = other;
    if (seq->leader)
        seq->leader->n_followers++;
}

static void free_followers(struct sched *s, struct seq *leader)
{
    for (struct seq *seq = s->waiting.first; seq && leader->n_followers; seq = seq->next)
        if (seq->leader == leader) {
            seq->leader = NULL;
            leader->n_followers--;
        }
    CHECK(leader->n_followers == 0);
}

/* ---- blocks */

static int blocks_for(const struct sched *s, int n_tokens)
{
    return (int)(((int64_t)n_tokens + s->kv->block_size - 1) / s->kv->block_size);
}

int sched_blocks_min(int n_tokens, int block_size, int window)
{
    int64_t all = ((int64_t)n_tokens + block_size - 1) / block_size;
    /* `window` positions that end anywhere in a block */
    int64_t seen = ((int64_t)window + block_size - 1) / block_size + 1;
    return (int)(window > 0 && seen < all ? seen : all);
}

/* A model whose every layer has a window gives blocks back as it goes on: the pool bounds its
 * sequences only if it can not even hold the window. */
int sched_tokens_max(int max_model_len, int n_blocks, int block_size, int window)
{
    int64_t pool = (int64_t)n_blocks * block_size;
    if (sched_blocks_min(max_model_len, block_size, window) <= n_blocks)
        return max_model_len;
    return (int)pool;
}

static void unplan(struct sched *s, struct seq *seq)
{
    if (seq->item < 0)
        return;
    s->n_planned -= s->items[seq->item].n;
    struct seq *moved = s->items[--s->n_items].seq;
    s->items[seq->item] = s->items[s->n_items];
    moved->item = seq->item;
    seq->item = -1;
}

static void plan(struct sched *s, struct seq *seq, int n)
{
    CHECK(s->n_items < s->options.max_seqs && seq->item < 0 && n > 0);
    seq->item = s->n_items;
    s->items[s->n_items++] = (struct sched_item){seq, n};
    s->n_planned += n;
}

static void preempt(struct sched *s, struct seq *seq)
{
    unplan(s, seq);
    kv_release(s->kv, &seq->table, true);
    seq->n_computed = 0;
    seq->state = SEQ_PREEMPTED;
    list_remove(&s->running, seq);
    list_add(&s->waiting, seq, true);
    s->n_preemptions++;
    s->pressure = true;
}

/* Who gives up its blocks for seq (NULL: for one not running): a paused one, else the last in rank
 * if that is behind seq. */
static struct seq *find_victim(const struct sched *s, const struct seq *seq)
{
    for (struct seq *other = s->running.last; other; other = other->prev)
        if (other->paused && other != seq)
            return other;
    struct seq *last = s->running.last;
    return seq && last != seq ? last : NULL;
}

static int budget(const struct sched *s)
{
    return s->tokens_max - s->n_planned;
}

/* Tokens of seq that fit into the blocks it has and the free ones. */
static int64_t room(const struct sched *s, const struct seq *seq)
{
    return ((int64_t)seq->table.n + s->kv->n_free) * s->kv->block_size - seq->n_computed;
}

/* ---- the plan */

static int remaining(const struct seq *seq)
{
    int last = seq->n_tokens + seq->n_pending == seq->n_tokens_max;
    return seq->n_tokens - seq->n_computed + (last ? 0 : seq->n_pending);
}

static int smaller(int64_t x, int64_t y)
{
    return (int)(x < y ? x : y);
}

/* Up to n tokens for a running sequence: fewer if blocks are short, none if all blocks belong to
 * those ranked before it. That one keeps what it has and is tried again in the next step. */
static void run_on(struct sched *s, struct seq *seq, int n)
{
    if (s->options.window > 0 && seq->n_computed >= s->options.window)
        kv_release_window(s->kv, &seq->table, seq->n_computed - s->options.window + 1);
    while (room(s, seq) < 1) {
        struct seq *victim = find_victim(s, seq);
        if (!victim) {
            s->pressure = true;
            return;
        }
        preempt(s, victim);
    }
    n = smaller(n, room(s, seq));
    CHECK(kv_grant(s->kv, &seq->table, blocks_for(s, seq->n_computed + n)));
    plan(s, seq, n);
}

static void plan_running(struct sched *s, bool decodes)
{
    /* `next` is read after run_on, which may remove any but seq itself from the list */
    for (struct seq *seq = s->running.first; seq && budget(s) > 0; seq = seq->next)
        if (!seq->paused && remaining(seq) > 0 && (remaining(seq) == 1) == decodes &&
            seq->item < 0 && seq->n_chunk_max > 0)
            run_on(s, seq, smaller(smaller(remaining(seq), budget(s)), seq->n_chunk_max));
}

/* Blocks that those who run may soon ask for: the rest of prompts under way, and one for each. */
static int64_t promised(const struct sched *s)
{
    int64_t n = 0;
    for (const struct seq *seq = s->running.first; seq; seq = seq->next) {
        int whole = sched_blocks_min(seq->n_tokens, s->kv->block_size, s->options.window);
        int missing = whole - kv_held(&seq->table);
        n += 1 + (missing > 0 ? missing : 0);
    }
    return n;
}

/* All that is known of it must fit now, not just the first chunk: what is admitted gets on. */
static bool admit(struct sched *s, struct seq *seq, uint64_t now_ns)
{
    struct kv_match match = {0, 0, 0};
    if (s->options.prefix_cache && seq->request.prompt_logprobs < 0)
        match = kv_match(s->kv, &seq->table, seq->tokens, seq->n_tokens, s->options.window);
    int whole = sched_blocks_min(seq->n_tokens, s->kv->block_size, s->options.window);
    int missing = whole - (match.n_blocks - match.n_gone);
    if (missing < 1)
        missing = 1;
    if (s->kv->n_free - match.n_free < missing + promised(s))
        return false;
    kv_share(s->kv, &seq->table, &match);
    seq->n_computed = match.n_blocks * s->kv->block_size;
    list_remove(&s->waiting, seq);
    list_add(&s->running, seq, false);
    seq->state = SEQ_RUNNING;
    if (!seq->admitted) {
        seq->admitted = true;
        seq->admit_ns = now_ns;
        seq->n_cached = seq->n_computed;
        s->n_prefix_queries += (uint64_t)seq->n_prompt;
        s->n_prefix_hits += (uint64_t)seq->n_computed;
    }
    run_on(s, seq, smaller(smaller(remaining(seq), budget(s)), seq->n_chunk_max));
    return true;
}

/* A slow reader hurts nobody else: someone is kept from running, so one who can not run leaves. */
static void make_way(struct sched *s, uint64_t now_ns)
{
    struct seq *paused = find_victim(s, NULL);
    if (paused && now_ns - paused->pause_ns >= pause_patience_ns)
        preempt(s, paused);
}

static void plan_waiting(struct sched *s, uint64_t now_ns)
{
    struct seq *next;
    for (struct seq *seq = s->waiting.first; seq && budget(s) > 0; seq = next) {
        next = seq->next;
        if (seq->paused || seq->leader)
            continue;
        if (s->running.n == s->options.max_seqs || !admit(s, seq, now_ns)) {
            make_way(s, now_ns);
            return;
        }
    }
}

/* ---- public */

int sched_init(struct sched *s, struct kv *kv, const struct sched_options *options)
{
    CHECK(options->max_seqs >= 1 && options->max_batch_tokens >= 1);
    *s = (struct sched){.options = *options, .kv = kv};
    pace_init(&s->pace, options->step_ns_target);
    s->items = calloc((size_t)options->max_seqs, sizeof *s->items);
    return s->items ? 0 : ERR_NOMEM;
}

void sched_free(struct sched *s)
{
    if (s)
        free(s->items);
    if (s)
        *s = (struct sched){0};
}

void sched_add(struct sched *s, struct seq *seq)
{
    seq->arrival = s->next_arrival++;
    seq->state = SEQ_WAITING;
    find_leader(s, seq);
    list_add(&s->waiting, seq, false);
}

static void clear_plan(struct sched *s)
{
    for (int i = 0; i < s->n_items; i++)
        s->items[i].seq->item = -1;
    s->n_items = s->n_planned = 0;
}

int sched_plan(struct sched *s, uint64_t now_ns)
{
    clear_plan(s);
    s->pressure = false;
    s->tokens_max = s->options.max_batch_tokens;
    plan_running(s, true);
    int n_prompt = pace_prompt_tokens(&s->pace, s->n_items);
    if (n_prompt < s->tokens_max - s->n_planned)
        s->tokens_max = s->n_planned + n_prompt;
    plan_running(s, false);
    if (!s->pressure)
        plan_waiting(s, now_ns);
    s->n_decodes = 0;
    for (int i = 0; i < s->n_items; i++)
        s->n_decodes += remaining(s->items[i].seq) == 1;
    s->n_prompt = s->n_planned - s->n_decodes;
    return s->n_planned;
}

void sched_took(struct sched *s, int n_decodes, int n_prompt, uint64_t ns)
{
    pace_took(&s->pace, n_decodes, n_prompt, ns);
}

void sched_seal(struct sched *s, struct seq *seq)
{
    if (s->options.prefix_cache)
        kv_seal(s->kv, &seq->table, seq->tokens, seq->n_computed);
    if (seq->n_followers && seq->n_computed >= seq->n_prompt)
        free_followers(s, seq);
}

void sched_advance(struct sched *s)
{
    for (int i = 0; i < s->n_items; i++) {
        struct seq *seq = s->items[i].seq;
        seq->n_computed += s->items[i].n;
        if (!seq->n_pending)
            sched_seal(s, seq);
    }
}

void sched_commit(struct sched *s)
{
    for (int i = 0; i < s->n_items; i++) {
        struct seq *seq = s->items[i].seq;
        seq->n_computed += s->items[i].n;
        sched_seal(s, seq);
    }
}

void sched_finish(struct sched *s, struct seq *seq, bool findable)
{
    CHECK(seq->state == SEQ_WAITING || seq->state == SEQ_RUNNING || seq->state == SEQ_PREEMPTED);
    unplan(s, seq);
    list_remove(seq->state == SEQ_RUNNING ? &s->running : &s->waiting, seq);
    kv_release(s->kv, &seq->table, findable);
    seq->state = SEQ_FINISHED;
    if (seq->n_followers)
        free_followers(s, seq);
    if (seq->leader)
        seq->leader->n_followers--;
    seq->leader = NULL;
}

/* ---- the check */

static int check_list(const struct sched_list *list, bool running, struct err *err)
{
    const struct seq *prev = NULL;
    int n = 0;
    for (const struct seq *seq = list->first; seq; prev = seq, seq = seq->next, n++) {
        unsigned long long id = seq->arrival;
        if (seq->prev != prev || (prev && !ranks_before(prev, seq)))
            return err_set(err, ERR_INTERNAL, "sequence %llu is out of order", id);
        if ((seq->state == SEQ_RUNNING) != running || seq->state == SEQ_FINISHED)
            return err_set(err, ERR_INTERNAL, "sequence %llu has state %d", id, seq->state);
        if (!running && (seq->table.n || seq->n_computed || seq->item >= 0))
            return err_set(err, ERR_INTERNAL, "waiting sequence %llu has blocks", id);
        if (running && (seq->n_computed >= seq->n_tokens + seq->n_pending || seq->leader))
            return err_set(err, ERR_INTERNAL, "running sequence %llu has %d of %d tokens computed",
                           id, seq->n_computed, seq->n_tokens);
    }
    return list->last == prev && list->n == n ? 0 : err_set(err, ERR_INTERNAL, "list count %d",
                                                            list->n);
}

int sched_check(const struct sched *s, struct err *err)
{
    int result = check_list(&s->waiting, false, err);
    if (!result)
        result = check_list(&s->running, true, err);
    if (result)
        return result;
    int n = 0;
    for (int i = 0; i < s->n_items; i++) {
        const struct seq *seq = s->items[i].seq;
        n += s->items[i].n;
        if (seq->item != i || s->items[i].n < 1)
            return err_set(err, ERR_INTERNAL, "item %d of the plan is broken", i);
        if (seq->table.n * s->kv->block_size < seq->n_computed)
            return err_set(err, ERR_INTERNAL, "sequence %llu lacks blocks",
                           (unsigned long long)seq->arrival);
    }
    if (n != s->n_planned || n > s->options.max_batch_tokens)
        return err_set(err, ERR_INTERNAL, "%d tokens planned, %d counted", s->n_planned, n);
    if (s->running.n > s->options.max_seqs)
        return err_set(err, ERR_INTERNAL, "%d sequences run", s->running.n);
    return 0;
}
