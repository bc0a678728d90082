/* GGUF against Hugging Face: the golden checkpoints are rewritten as GGUF files (llama's q and k
 * rows permuted to interleaved pairs, experts in one tensor or one each, llama3's scaling as a
 * tensor of divisors) and must give the same logits. Then keys and tensors are made wrong. */
#include "tests/golden/rig.h"

#include <unistd.h>

#include "engine/base/buf.h"

enum { PROMPT = 40, TENSORS_MAX = 512 };

struct converted { /* one tensor of the GGUF file */
    char name[96];
    int n_dims;
    int64_t dims[3]; /* outermost first */
    uint32_t type;
    struct buf data;
};

struct conversion {
    struct rig hf;
    const char *arch;
    bool permute, experts_in_one;
    struct buf keys;
    uint64_t n_keys;
    struct converted *tensors;
    size_t n;
};

static void put(struct buf *b, uint64_t value, int n)
{
    for (int i = 0; i < n; i++)
        buf_byte(b, (char)(value >> (8 * i)));
}

static void put_text(struct buf *b, const char *text)
{
    put(b, strlen(text), 8);
    buf_text(b, text);
}

static void key_int(struct conversion *c, const char *key, int64_t value)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", c->arch, key);
    put_text(&c->keys, full);
    put(&c->keys, GGUF_U32, 4);
    put(&c->keys, (uint64_t)value, 4);
    c->n_keys++;
}

static void key_float(struct conversion *c, const char *key, float value)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", c->arch, key);
    put_text(&c->keys, full);
    put(&c->keys, GGUF_F32, 4);
    buf_add(&c->keys, &value, 4);
    c->n_keys++;
}

static struct converted *new_tensor(struct conversion *c, const char *name, int n_dims,
                                    const int64_t *dims, enum quant_type type)
{
    EXPECT(c->n < TENSORS_MAX);
    struct converted *t = &c->tensors[c->n++];
    *t = (struct converted){.n_dims = n_dims, .type = (uint32_t)quant_formats[type].gguf_type};
    snprintf(t->name, sizeof t->name, "%s", name);
    for (int i = 0; i < n_dims; i++)
        t->dims[i] = dims[i];
    return t;
}

/* Row r of a head's interleaved order, in half-split order: 2j from j, 2j + 1 from j + half. */
static int64_t source_row(int64_t r, int head_dim)
{
    int64_t head = r / head_dim, i = r % head_dim;
    return head * head_dim + i / 2 + (i % 2) * (head_dim / 2);
}

static void add_matrix(struct conversion *c, const char *name, const struct matrix *m,
                       bool permute)
{
    size_t row = quant_row_bytes(m->type, (size_t)m->cols);
    struct converted *t = new_tensor(c, name, 2, (int64_t[]){m->rows, m->cols}, m->type);
    for (int64_t r = 0; r < m->rows; r++) {
        int64_t from = permute && c->permute ? source_row(r, c->hf.m->head_dim) : r;
        buf_add(&t->data, (const uint8_t *)m->data + (size_t)from * row, row);
    }
}

static void add_vector(struct conversion *c, const char *name, const float *v, int64_t n)
{
    struct converted *t = new_tensor(c, name, 1, &n, QUANT_F32);
    buf_add(&t->data, v, (size_t)n * sizeof *v);
}

static void add_experts(struct conversion *c, int layer, const char *role, const struct matrix *e)
{
    char name[96];
    int n = c->hf.m->n_experts;
    if (!c->experts_in_one) {
        for (int i = 0; i < n; i++) {
            snprintf(name, sizeof name, "blk.%d.ffn_%s.%d.weight", layer, role, i);
            add_matrix(c, name, &e[i], false);
        }
        return;
    }
    snprintf(name, sizeof name, "blk.%d.ffn_%s_exps.weight", layer, role);
    struct converted *t = new_tensor(c, name, 3, (int64_t[]){n, e->rows, e->cols}, e->type);
    for (int i = 0; i < n; i++)
        buf_add(&t->data, e[i].data, (size_t)e->rows * quant_row_bytes(e->type, (size_t)e->cols));
}

static void add_layer(struct conversion *c, int i)
{
    const struct model *m = c->hf.m;
    const struct model_layer *l = &m->layers[i];
    char name[96];
#define NAME(rest) (snprintf(name, sizeof name, "blk.%d.%s", i, rest), name)
    add_vector(c, NAME("attn_norm.weight"), l->attn_norm, m->dim);
    add_vector(c, NAME("ffn_norm.weight"), l->ffn_norm, m->dim);
    add_matrix(c, NAME("attn_q.weight"), &l->wq, true);
    add_matrix(c, NAME("attn_k.weight"), &l->wk, true);
    add_matrix(c, NAME("attn_v.weight"), &l->wv, false);
    add_matrix(c, NAME("attn_output.weight"), &l->wo, false);
    if (l->bq) {
        add_vector(c, NAME("attn_q.bias"), l->bq, l->wq.rows);
        add_vector(c, NAME("attn_k.bias"), l->bk, l->wk.rows);
        add_vector(c, NAME("attn_v.bias"), l->bv, l->wv.rows);
    }
    if (l->q_norm) {
        add_vector(c, NAME("attn_q_norm.weight"), l->q_norm, m->head_dim);
        add_vector(c, NAME("attn_k_norm.weight"), l->k_norm, m->head_dim);
    }
    if (m->arch->moe) {
        add_matrix(c, NAME("ffn_gate_inp.weight"), &l->router, false);
        add_experts(c, i, "gate", l->expert_gate);
        add_experts(c, i, "up", l->expert_up);
        add_experts(c, i, "down", l->expert_down);
    } else {
        add_matrix(c, NAME("ffn_gate.weight"), &l->gate, false);
        add_matrix(c, NAME("ffn_up.weight"), &l->up, false);
        add_matrix(c, NAME("ffn_down.weight"), &l->down, false);
    }
#undef NAME
}

static void add_keys(struct conversion *c, float theta)
{
    const struct model *m = c->hf.m;
    put_text(&c->keys, "general.architecture");
    put(&c->keys, GGUF_STRING, 4);
    put_text(&c->keys, c->arch);
    c->n_keys = 1;
    key_int(c, "block_count", m->n_layers);
    key_int(c, "embedding_length", m->dim);
    key_int(c, "feed_forward_length", m->ffn);
    key_int(c, "attention.head_count", m->n_heads);
    key_int(c, "attention.head_count_kv", m->n_kv_heads);
    key_int(c, "attention.key_length", m->head_dim);
    key_int(c, "attention.value_length", m->head_dim);
    key_int(c, "rope.dimension_count", m->head_dim);
    key_int(c, "context_length", m->context_length);
    key_int(c, "vocab_size", m->vocab);
    if (m->window_max)
        key_int(c, "attention.sliding_window", m->window_max);
    key_float(c, "attention.layer_norm_rms_epsilon", m->norm_eps);
    key_float(c, "rope.freq_base", theta);
    if (m->arch->moe) {
        key_int(c, "expert_count", m->n_experts);
        key_int(c, "expert_used_count", m->n_experts_used);
    }
}

static struct conversion convert(const char *name, const char *arch, float theta,
                                 bool experts_in_one)
{
    char path[1200];
    struct conversion c = {.arch = arch, .permute = !strcmp(arch, "llama"),
                           .experts_in_one = experts_in_one};
    snprintf(path, sizeof path, "%s/%s", test_path("tests/golden/models"), name);
    EXPECT(rig_open(&c.hf, path, (struct rig_options){0}));
    c.tensors = calloc(TENSORS_MAX, sizeof *c.tensors);
    EXPECT(c.tensors != NULL);
    add_keys(&c, theta);
    add_matrix(&c, "token_embd.weight", &c.hf.m->embed, false);
    if (c.hf.m->head.data != c.hf.m->embed.data)
        add_matrix(&c, "output.weight", &c.hf.m->head, false);
    add_vector(&c, "output_norm.weight", c.hf.m->final_norm, c.hf.m->dim);
    for (int i = 0; i < c.hf.m->n_layers; i++)
        add_layer(&c, i);
    return c;
}

static void free_conversion(struct conversion *c)
{
    for (size_t i = 0; i < c->n; i++)
        buf_free(&c->tensors[i].data);
    free(c->tensors);
    buf_free(&c->keys);
    rig_close(&c->hf);
}

static struct buf file_of(const struct conversion *c)
{
    struct buf b = {0};
    uint64_t offset = 0;
    buf_text(&b, "GGUF");
    put(&b, 3, 4);
    put(&b, c->n, 8);
    put(&b, c->n_keys, 8);
    buf_add(&b, c->keys.data, c->keys.size);
    for (size_t i = 0; i < c->n; i++) {
        const struct converted *t = &c->tensors[i];
        put_text(&b, t->name);
        put(&b, (uint64_t)t->n_dims, 4);
        for (int d = t->n_dims - 1; d >= 0; d--)
            put(&b, (uint64_t)t->dims[d], 8);
        put(&b, t->type, 4);
        put(&b, offset, 8);
        offset += (t->data.size + 31) / 32 * 32;
    }
    for (size_t i = 0; i <= c->n; i++) {
        while (b.size % 32)
            buf_byte(&b, 0);
        if (i < c->n)
            buf_add(&b, c->tensors[i].data.data, c->tensors[i].data.size);
    }
    EXPECT_INT(b.failed, 0);
    return b;
}

/* The logits of the golden prompt: float32 sums in another order at most. */
static void check_same(struct conversion *c, const char *arch)
{
    char path[] = "/tmp/sirocco-gguf-XXXXXX.gguf";
    int32_t prompt[PROMPT];
    struct buf file = file_of(c);
    struct rig r;
    int fd = mkstemps(path, 5);
    EXPECT(fd >= 0 && write(fd, file.data, file.size) == (ssize_t)file.size);
    close(fd);
    buf_free(&file);
    EXPECT(rig_open(&r, path, (struct rig_options){0}));
    unlink(path);
    EXPECT_STR(r.m->arch->name, arch);
    EXPECT(r.m->rope_interleaved == c->permute);
    EXPECT_INT(r.m->window_max, c->hf.m->window_max);
    size_t n = PROMPT * (size_t)r.m->vocab;
    float *a = calloc(n, sizeof *a), *b = calloc(n, sizeof *b);
    EXPECT(a && b);
    for (int i = 0; i < PROMPT; i++)
        prompt[i] = (i * 89 + 5) % r.m->vocab;
    rig_run(&c->hf, prompt, PROMPT, 0, 64, c->hf.blocks, a);
    rig_run(&r, prompt, PROMPT, 0, 64, r.blocks, b);
    double most = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)a[i] - (double)b[i]);
        most = fmax(most, fabs((double)a[i]));
        worst = !(off <= worst) ? off : worst;
    }
    EXPECT(worst / most < 1e-5);
    free(a);
    free(b);
    rig_close(&r);
}

static void check_conversion(const char *name, const char *gguf, float theta, bool in_one,
                             const char *arch)
{
    struct conversion c = convert(name, gguf, theta, in_one);
    check_same(&c, arch);
    free_conversion(&c);
}

TEST(gguf_mistral_with_a_window) { check_conversion("mistral", "llama", 1e4f, false, "llama"); }
TEST(gguf_wide_heads) { check_conversion("mistral-nemo-style", "llama", 1e6f, false, "llama"); }
TEST(gguf_tied) { check_conversion("llama-tied", "llama", 1e4f, false, "llama"); }
TEST(gguf_mixtral_in_one) { check_conversion("mixtral", "llama", 1e6f, true, "mixtral"); }
TEST(gguf_mixtral_each) { check_conversion("mixtral", "llama", 1e6f, false, "mixtral"); }
TEST(gguf_qwen2) { check_conversion("qwen2", "qwen2", 1e6f, false, "qwen2"); }
TEST(gguf_qwen3) { check_conversion("qwen3", "qwen3", 1e6f, false, "qwen3"); }

TEST(gguf_llama3_divisors)
{
    struct conversion c = convert("llama3-rope", "llama", 1e4f, false);
    const struct model_rope *rope = &c.hf.m->ropes[0];
    float divisors[64];
    EXPECT(rope->n_freq <= 64);
    for (int i = 0; i < rope->n_freq; i++)
        divisors[i] = (float)(pow(1e4, -2.0 * i / (2 * rope->n_freq)) / rope->inv_freq[i]);
    EXPECT(divisors[rope->n_freq - 1] > 7.9f);
    add_vector(&c, "rope_freqs.weight", divisors, rope->n_freq);
    check_same(&c, "llama");
    free_conversion(&c);
}

static void refuse(struct conversion *c, const char *text)
{
    struct buf bytes = file_of(c);
    const struct source_file file = {.name = "t.gguf", .data = (const uint8_t *)bytes.data,
                                     .size = bytes.size};
    struct source *source;
    struct gguf *g;
    struct model *m;
    struct err err = {0};
    EXPECT_INT(source_open_memory("t", &file, 1, &source, NULL), 0);
    EXPECT_INT(gguf_open(&file, &g, &err), 0);
    int rc = model_open(source, g, &m, &err);
    if (!rc || !strstr(err.text, text))
        printf("    wanted \"%s\", got %s: %s\n", text, err_name(rc), err.text);
    EXPECT_INT(rc, ERR_FORMAT);
    EXPECT(strstr(err.text, text) != NULL);
    gguf_close(g);
    source_close(source);
    buf_free(&bytes);
    free_conversion(c);
}

/* The value of a U32 key, replaced where it lies. */
static void set_key(struct conversion *c, const char *key, uint32_t value)
{
    char *at = memmem(c->keys.data, c->keys.size, key, strlen(key));
    EXPECT(at != NULL);
    at += strlen(key) + 4;
    memcpy(at, &value, 4);
}

TEST(gguf_refuses_wrong_keys)
{
    static const struct {
        const char *key;
        uint32_t value;
        const char *text;
    } cases[] = {
        {"llama.block_count", 0, "key 'llama.block_count' is out of 1..1024"},
        {"llama.block_count", 1000000, "key 'llama.block_count'"},
        {"llama.block_count", 1, "is not part of a llama model of 1 layers"},
        {"llama.block_count", 4, "tensor 'blk.3.attn_norm.weight' is missing"},
        {"llama.embedding_length", 0, "key 'llama.embedding_length'"},
        {"llama.embedding_length", 65, "has the shape [288, 64], the configuration needs [288, 65]"},
        {"llama.attention.head_count", 0, "key 'llama.attention.head_count'"},
        {"llama.attention.head_count", 5, "do not divide"},
        {"llama.attention.head_count_kv", 3, "do not divide"},
        {"llama.attention.key_length", 15, "head_dim 15 is not even"},
        {"llama.attention.value_length", 8, "must be equal"},
        {"llama.rope.dimension_count", 7, "7 rotary dimensions"},
        {"llama.rope.dimension_count", 32, "32 rotary dimensions"},
        {"llama.context_length", 0, "key 'llama.context_length'"},
        {"llama.vocab_size", 0, "key 'llama.vocab_size'"},
        {"llama.vocab_size", 287, "the configuration needs [287, 64]"},
        {"llama.attention.layer_norm_rms_epsilon", 0, "rms_epsilon' is 0, not"},
        {"llama.attention.layer_norm_rms_epsilon", 0x7fc00000, "rms_epsilon' is nan, not"},
        {"llama.rope.freq_base", 0xbf800000, "freq_base' is -1, not"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct conversion c = convert("mistral", "llama", 1e4f, false);
        set_key(&c, cases[i].key, cases[i].value);
        refuse(&c, cases[i].text);
    }
}

TEST(gguf_refuses_wrong_models)
{
    struct conversion c = convert("mistral", "gpt2", 1e4f, false);
    refuse(&c, "architecture 'gpt2' is not supported (known: mistral, ministral");
    c = convert("mistral", "llama", 1e4f, false);
    buf_free(&c.tensors[--c.n].data);
    refuse(&c, "tensor 'blk.2.ffn_down.weight' is missing");
    c = convert("mistral", "llama", 1e4f, false);
    key_int(&c, "expert_count", 8);
    key_int(&c, "expert_used_count", 2);
    refuse(&c, "tensor 'blk.0.ffn_gate_inp.weight' is missing");
    c = convert("mistral", "llama", 1e4f, false);
    add_vector(&c, "blk.0.attn_q.bias", c.hf.m->final_norm, 64);
    refuse(&c, "tensor 'blk.0.attn_q.bias' is not part of a llama model");
    c = convert("mistral", "llama", 1e4f, false);
    float divisors[8] = {1, 1, 1, 0, 1, 1, 1, 1};
    add_vector(&c, "rope_freqs.weight", divisors, 8);
    refuse(&c, "tensor 'rope_freqs.weight' holds a value");
    c = convert("mistral", "llama", 1e4f, false);
    c.tensors[0].type = 25; /* I16 has the size of BF16 */
    refuse(&c, "tensor 'token_embd.weight': type I16 is not supported");
}
