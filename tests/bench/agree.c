/* agree: does another device say what the CPU says? The CPU writes N tokens greedily, over several
 * prompts; the device then decodes the same, and where its token differs, the difference is
 * counted and it goes on from the CPU's. Sums in another order turn ties: a disagreement counts as
 * explained when the CPU itself found the device's token almost as likely.
 *
 *     agree [--model PATH] [--tokens N] [--device cuda] [--cuda-plugin FILE] [--gap LOGITS]
 *           [--cpu-isa NAME]    (with --device cpu: of the other side, avx512-bf16 for example)
 *
 * Every disagreement is printed with how far apart the CPU's logits of the two tokens are. Last
 * line: `N passed, N failed, N skipped` (tokens). 0: none failed. 1: one did. 2: nothing was
 * compared. One thread beside the engine's. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "config/demo.h"
#include "engine/engine.h"
#include "server/cmd.h"

#define CPU_ISA "avx512" /* or what the machine has: all up to here keep inputs in float32 */
#define GAP_MAX 0.05 /* linear rounds inputs to 16 bits on the device, not on the CPU */
enum { EACH = 200, TOPS = 5, PROMPT_MAX = 256, LEN_MAX = PROMPT_MAX + EACH };

static const char *const forms[] = {"Tell me a story about ",   "What is ",
                                    "Write a short poem about ", "Explain to a child what is ",
                                    "Make a list of facts about "};
static const char *const subjects[] = {"a fox",     "the sea",   "an old king", "two cats",
                                       "a robot",   "rain",      "the moon",    "a red boat",
                                       "a lost key", "the forest"};

struct text { /* a prompt and what follows it */
    int32_t tokens[LEN_MAX];
    int n_prompt, n, n_end;
    int32_t top[EACH][TOPS]; /* the CPU's best after each place, and their log probabilities */
    float logprob[EACH][TOPS];
    int n_top[EACH];
    bool left; /* the device went elsewhere: what still comes of it is not looked at */
};

struct side {
    int wake, n_top; /* n_top: log probabilities that are asked for; -1: none */
    struct engine *engine;
};

struct count {
    long same, explained, failed;
    double gap_max, widest; /* in logits: of what is explained, and of those that were */
};

static void on_wake(void *user)
{
    uint64_t one = 1;
    ssize_t n = write(((struct side *)user)->wake, &one, sizeof one);
    (void)n;
}

static int open_side(struct side *s, const struct source *source, const char *device,
                     const char *plugin, const char *isa, int n_texts, struct err *err)
{
    struct engine_options o = {.source = source, .device = device, .cuda_plugin = plugin,
                               .gpu_memory_fraction = 0.2, .cpu_isa = isa, .max_seqs = 64,
                               .max_batch_tokens = 512, .max_model_len = LEN_MAX + 1,
                               .block_size = 16, .kv_cache_fraction = 0.3, .kv_cache_type = "f16",
                               .max_queue = n_texts + 64, .pause_ms_max = 60000, .wake = on_wake,
                               .user = s};
    s->wake = eventfd(0, EFD_CLOEXEC);
    return s->wake < 0 ? err_set(err, ERR_IO, "eventfd") : engine_open(&o, &s->engine, err);
}

/* What to do with a token that a side gives for a text. False: what follows is of no use. */
typedef bool take_token(struct text *t, const struct event *e, struct count *n);

/* Ask for what follows the text's first n tokens. */
static int ask(struct side *s, struct text *t, struct err *err)
{
    struct channel *c;
    struct engine_request r = {.tokens = t->tokens, .n_tokens = t->n, .ignore_eos = true,
                               .max_tokens = t->n_end - t->n, .prompt_logprobs = -1};
    sample_params_init(&r.params);
    r.params.temperature = 0;
    r.params.logprobs = s->n_top;
    t->left = false;
    return engine_submit(s->engine, &r, t, &c, err);
}

/* Every event of a channel that is there. True: it was released. */
static bool drain(struct channel *c, struct text *t, take_token *take, struct count *n, int *rc,
                  struct err *err)
{
    struct event e;
    while (engine_next(c, &e)) {
        if (e.kind == EVENT_TOKEN && !t->left && !take(t, &e, n)) {
            t->left = true;
            engine_cancel(c);
        }
        if (e.kind == EVENT_FAILED)
            *rc = err_set(err, e.error, "%s", e.error_text);
        if (e.kind == EVENT_DONE || e.kind == EVENT_FAILED) {
            engine_release(c);
            return true;
        }
    }
    return false;
}

/* All texts to their ends, at once; one that was left is asked for again. */
static int run_texts(struct side *s, struct text *texts, int n_texts, take_token *take,
                     struct count *n, struct err *err)
{
    int rc = 0, live = 0;
    for (int i = 0; i < n_texts && !rc; i++)
        live += !(rc = ask(s, &texts[i], err));
    while (live) {
        uint64_t count;
        void *user;
        if (read(s->wake, &count, sizeof count) != sizeof count)
            return err_set(err, ERR_IO, "the eventfd cannot be read");
        for (struct channel *c; (c = engine_poll(s->engine, &user)) != NULL;) {
            struct text *t = user;
            if (!drain(c, t, take, n, &rc, err))
                continue;
            live--;
            if (!rc && t->n < t->n_end)
                live += !(rc = ask(s, t, err));
        }
    }
    return rc;
}

/* ---- the CPU's turn */

static bool take_written(struct text *t, const struct event *e, struct count *n)
{
    int at = t->n - t->n_prompt;
    (void)n;
    t->n_top[at] = e->n_top < TOPS ? e->n_top : TOPS;
    for (int k = 0; k < t->n_top[at]; k++) {
        t->top[at][k] = e->top[k].token;
        t->logprob[at][k] = e->top[k].logprob;
    }
    t->tokens[t->n++] = e->token;
    return true;
}

/* ---- the device's turn */

static void differ(const struct text *t, int at, int32_t token, struct count *n)
{
    int place = at - t->n_prompt;
    double gap = -1; /* not among the CPU's best */
    for (int k = 0; k < t->n_top[place]; k++)
        if (t->top[place][k] == token)
            gap = (double)t->logprob[place][0] - (double)t->logprob[place][k];
    bool explained = gap >= 0 && gap <= n->gap_max;
    printf("%s: after %d tokens: CPU %d, device %d, ", explained ? "near-tie" : "FAIL", at,
           t->tokens[at], token);
    if (gap >= 0)
        printf("%.5f logits apart\n", gap);
    else
        printf("not among the CPU's best %d, which differ by %.5f\n", t->n_top[place],
               (double)t->logprob[place][0] - (double)t->logprob[place][t->n_top[place] - 1]);
    n->explained += explained;
    n->failed += !explained;
    if (explained && gap > n->widest)
        n->widest = gap;
}

static bool take_compared(struct text *t, const struct event *e, struct count *n)
{
    int at = t->n++;
    if (e->token == t->tokens[at]) {
        n->same++;
        return true;
    }
    differ(t, at, e->token, n);
    return false;
}

static int make_prompts(const struct engine *e, struct text *texts, int n_texts, int n_tokens,
                        struct err *err)
{
    for (int i = 0; i < n_texts; i++) {
        char words[160];
        struct token_list list = {0};
        snprintf(words, sizeof words, "%s%s. %d", forms[i % 5], subjects[i / 5 % 10], i / 50);
        int rc = tokenizer_encode(engine_tokenizer(e), words, strlen(words), true, NULL, 0, &list,
                                  err);
        if (!rc && list.n > PROMPT_MAX)
            rc = err_set(err, ERR_INTERNAL, "a prompt of %zu tokens", list.n);
        if (!rc)
            memcpy(texts[i].tokens, list.ids, list.n * sizeof *list.ids);
        texts[i].n_prompt = texts[i].n = rc ? 0 : (int)list.n;
        texts[i].n_end = texts[i].n + (n_tokens < EACH ? n_tokens : EACH);
        n_tokens -= EACH;
        token_list_free(&list);
        if (rc)
            return rc;
    }
    return 0;
}

static int run(const struct source *source, const char *device, const char *plugin, const char *isa,
               int n_tokens, struct count *n, struct err *err)
{
    int n_texts = (n_tokens + EACH - 1) / EACH;
    struct text *texts = calloc((size_t)n_texts, sizeof *texts);
    struct side cpu = {.n_top = TOPS}, other = {.n_top = -1};
    int rc = texts ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    if (!rc)
        rc = open_side(&cpu, source, "cpu", NULL, CPU_ISA, n_texts, err);
    if (!rc)
        rc = make_prompts(cpu.engine, texts, n_texts, n_tokens, err);
    if (!rc)
        rc = run_texts(&cpu, texts, n_texts, take_written, n, err);
    if (!rc)
        rc = open_side(&other, source, device, plugin, isa, n_texts, err);
    if (!rc)
        printf("%s against %s\n", engine_info(other.engine)->device,
               engine_info(cpu.engine)->device);
    for (int i = 0; i < n_texts && !rc; i++)
        texts[i].n = texts[i].n_prompt; /* from here on: how far the device got */
    if (!rc)
        rc = run_texts(&other, texts, n_texts, take_compared, n, err);
    engine_close(other.engine);
    engine_close(cpu.engine);
    free(texts);
    return rc;
}

static int open_model(const char *path, struct source **out, struct err *err)
{
    static struct source_file files[16];
    if (path)
        return source_open(path, out, err);
    for (size_t i = 0; i < demo_n_files && i < 16; i++)
        files[i] =
            (struct source_file){demo_files[i].name, demo_files[i].data, demo_files[i].size};
    return source_open_memory("sirocco-demo", files, demo_n_files, out, err);
}

int main(int argc, char **argv)
{
    const char *model = NULL, *device = "cuda", *plugin = NULL, *tokens = NULL, *gap = NULL,
               *isa = CPU_ISA;
    const struct cmd_option options[] = {{"--model", &model, NULL},
                                         {"--device", &device, NULL},
                                         {"--cuda-plugin", &plugin, NULL},
                                         {"--cpu-isa", &isa, NULL},
                                         {"--tokens", &tokens, NULL},
                                         {"--gap", &gap, NULL}};
    struct count n = {0};
    struct source *source = NULL;
    struct err err = {0};
    int n_tokens = 10000;
    setvbuf(stdout, NULL, _IOLBF, 0);
    int rc = cmd_options(argc, argv, options, sizeof options / sizeof *options, &err);
    if (!rc)
        rc = cmd_count("agree", "--tokens", tokens, 1, 1000000, &n_tokens, &err);
    n.gap_max = gap ? strtod(gap, NULL) : GAP_MAX;
    if (!rc)
        rc = open_model(model, &source, &err);
    if (!rc)
        rc = run(source, device, plugin, isa, n_tokens, &n, &err);
    source_close(source);
    if (rc)
        fprintf(stderr, "agree: %s\n", *err.text ? err.text : err_text(rc));
    printf("%ld tokens the same, %ld near-ties (%.5f logits apart at most), %ld different\n",
           n.same, n.explained, n.widest, n.failed);
    printf("%ld passed, %ld failed, 0 skipped\n", n.same + n.explained, n.failed);
    return rc || !n.same ? 2 : n.failed ? 1 : 0;
}
