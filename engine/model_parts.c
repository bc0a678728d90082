/* model_parts: the tensors of a model under GGUF's names (model_parts.h): THE TABLE of what the
 * fields of a layer are called there, and the table of finer types. Pure functions over a model
 * that the caller owns. */
#include "engine/model_parts.h"

#include <stddef.h>
#include <stdio.h>

enum where { DENSE = 1, MOE = 2, ALWAYS = DENSE | MOE };

#define AT(field) offsetof(struct model_layer, field)
static const struct matrix_row {
    const char *name;
    size_t at; /* of a struct matrix, with MOE of the experts' array unless router */
    enum where where;
    bool rotated, router;
} matrix_rows[] = {
    {"attn_q", AT(wq), ALWAYS, true, false},
    {"attn_k", AT(wk), ALWAYS, true, false},
    {"attn_v", AT(wv), ALWAYS, false, false},
    {"attn_output", AT(wo), ALWAYS, false, false},
    {"ffn_gate", AT(gate), DENSE, false, false},
    {"ffn_up", AT(up), DENSE, false, false},
    {"ffn_down", AT(down), DENSE, false, false},
    {"ffn_gate_inp", AT(router), MOE, false, true},
    {"ffn_gate_exps", AT(expert_gate), MOE, false, false},
    {"ffn_up_exps", AT(expert_up), MOE, false, false},
    {"ffn_down_exps", AT(expert_down), MOE, false, false},
};

enum size { OF_DIM, OF_HEAD, OF_Q, OF_KV };

static const struct vector_row {
    const char *name;
    size_t at; /* of a float * */
    enum size size;
} vector_rows[] = {
    {"attn_norm.weight", AT(attn_norm), OF_DIM},
    {"attn_q.bias", AT(bq), OF_Q},
    {"attn_k.bias", AT(bk), OF_KV},
    {"attn_v.bias", AT(bv), OF_KV},
    {"attn_q_norm.weight", AT(q_norm), OF_HEAD},
    {"attn_k_norm.weight", AT(k_norm), OF_HEAD},
    {"post_attention_norm.weight", AT(post_attn_norm), OF_DIM},
    {"ffn_norm.weight", AT(ffn_norm), OF_DIM},
    {"post_ffw_norm.weight", AT(post_ffn_norm), OF_DIM},
};
#undef AT

static int visit_global(const char *name, enum model_part part, struct matrix *matrix,
                        int (*visit)(void *, const struct model_matrix *), void *user)
{
    struct model_matrix out = {.part = part, .layer = -1, .first = matrix, .n = 1};
    snprintf(out.name, sizeof out.name, "%s.weight", name);
    return visit(user, &out);
}

int model_parts_matrices(struct model *m, int (*visit)(void *, const struct model_matrix *),
                         void *user)
{
    bool tied = m->head.data == m->embed.data;
    int rc = visit_global("token_embd", MODEL_PART_EMBED, &m->embed, visit, user);
    if (!rc && !tied)
        rc = visit_global("output", MODEL_PART_HEAD, &m->head, visit, user);
    for (int i = 0; i < m->n_layers; i++) {
        for (size_t k = 0; !rc && k < sizeof matrix_rows / sizeof *matrix_rows; k++) {
            const struct matrix_row *row = &matrix_rows[k];
            char *at = (char *)&m->layers[i] + row->at;
            bool experts = row->where == MOE && !row->router;
            struct model_matrix out = {.part = row->router ? MODEL_PART_ROUTER : MODEL_PART_BODY,
                                       .layer = i,
                                       .rotated = row->rotated,
                                       .experts = experts,
                                       .n = experts ? m->n_experts : 1};
            if (!(row->where & (m->arch->moe ? MOE : DENSE)))
                continue;
            out.first = experts ? *(struct matrix **)(void *)at : (struct matrix *)(void *)at;
            snprintf(out.name, sizeof out.name, "blk.%d.%s.weight", i, row->name);
            rc = visit(user, &out);
        }
    }
    return rc;
}

int model_parts_vectors(const struct model *m, int (*visit)(void *, const struct model_vector *),
                        void *user)
{
    const int64_t sizes[] = {[OF_DIM] = m->dim, [OF_HEAD] = m->head_dim,
                             [OF_Q] = (int64_t)m->n_heads * m->head_dim,
                             [OF_KV] = (int64_t)m->n_kv_heads * m->head_dim};
    struct model_vector out = {.name = "output_norm.weight", .values = m->final_norm, .n = m->dim};
    int rc = visit(user, &out);
    for (int i = 0; i < m->n_layers; i++) {
        for (size_t k = 0; !rc && k < sizeof vector_rows / sizeof *vector_rows; k++) {
            const struct vector_row *row = &vector_rows[k];
            const char *at = (const char *)&m->layers[i] + row->at;
            out.values = *(float *const *)(const void *)at;
            out.n = sizes[row->size];
            snprintf(out.name, sizeof out.name, "blk.%d.%s", i, row->name);
            if (out.values)
                rc = visit(user, &out);
        }
    }
    return rc;
}

/* finer: of embeddings and head; whole: what takes its place in rows of no whole blocks */
static const struct {
    enum quant_type finer, whole;
} steps[QUANT_COUNT] = {
    [QUANT_F32] = {QUANT_F32, QUANT_F32},     [QUANT_F16] = {QUANT_F16, QUANT_F16},
    [QUANT_BF16] = {QUANT_BF16, QUANT_BF16},  [QUANT_Q8_0] = {QUANT_Q8_0, QUANT_F16},
    [QUANT_Q4_0] = {QUANT_Q5_0, QUANT_F16},   [QUANT_Q4_1] = {QUANT_Q5_1, QUANT_F16},
    [QUANT_Q5_0] = {QUANT_Q8_0, QUANT_F16},   [QUANT_Q5_1] = {QUANT_Q8_0, QUANT_F16},
    [QUANT_IQ4_NL] = {QUANT_Q5_0, QUANT_F16}, [QUANT_MXFP4] = {QUANT_Q5_0, QUANT_F16},
    [QUANT_Q2_K] = {QUANT_Q3_K, QUANT_IQ4_NL}, [QUANT_Q3_K] = {QUANT_Q4_K, QUANT_IQ4_NL},
    [QUANT_Q4_K] = {QUANT_Q5_K, QUANT_Q5_0},  [QUANT_Q5_K] = {QUANT_Q6_K, QUANT_Q5_1},
    [QUANT_Q6_K] = {QUANT_Q8_0, QUANT_Q8_0},  [QUANT_IQ4_XS] = {QUANT_Q5_K, QUANT_IQ4_NL},
};

enum quant_type model_parts_type(enum quant_type wanted, enum model_part part, int64_t cols)
{
    enum quant_type type = wanted;
    if (part == MODEL_PART_ROUTER)
        return QUANT_F32;
    if (part == MODEL_PART_EMBED || part == MODEL_PART_HEAD)
        type = steps[wanted].finer;
    while (cols % quant_formats[type].block)
        type = steps[type].whole;
    return type;
}
