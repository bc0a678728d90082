/* model: opens a model: configuration, weights, rotary frequencies, binding (model.h).
 *
 * Runs at open, in the caller's thread; the result is immutable but for the `packed` pointers of
 * its matrices, which belong to the device that loads them (forward.c). */
#include "engine/model.h"

#include <math.h>
#include <stdlib.h>

#include "engine/model_config.h"

/* The llama3 scaling of one frequency (Llama 3.1, reference code): wavelengths well inside the
 * original context stay, those well beyond are divided by factor, between them is a blend. */
static double scale_llama3(double frequency, const struct model_config *c)
{
    const double pi = 3.14159265358979323846;
    double original = (double)c->rope_original_context;
    double wavelength = 2 * pi / frequency;
    if (wavelength < original / c->rope_high)
        return frequency;
    if (wavelength > original / c->rope_low)
        return frequency / c->rope_factor;
    double smooth = (original / wavelength - c->rope_low) / (c->rope_high - c->rope_low);
    return (1 - smooth) * frequency / c->rope_factor + smooth * frequency;
}

/* The dimension that turns `rotations` times within the original context. */
static double yarn_dimension(const struct model_config *c, double theta, double rotations)
{
    const double pi = 3.14159265358979323846;
    double original = (double)c->rope_original_context;
    return (double)c->rotary_dims * log(original / (rotations * 2 * pi)) / (2 * log(theta));
}

/* YaRN (Peng et al. 2023, section 3.2): dimensions that turn often within the original context
 * keep their frequency, those that turn seldom are divided by factor, a ramp lies between. */
static double scale_yarn(double frequency, const struct model_config *c, double theta, int j)
{
    double low = yarn_dimension(c, theta, c->rope_high);
    double high = yarn_dimension(c, theta, c->rope_low);
    if (!c->rope_exact_range) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)c->rotary_dims - 1);
    if (low == high)
        high += 0.001; /* as the reference does: a step, not a division by zero */
    double ramp = fmin(fmax((j - low) / (high - low), 0), 1);
    return frequency / c->rope_factor * ramp + frequency * (1 - ramp);
}

/* inv_freq[j] = theta^(-2j / rotary_dims) (Su et al. 2021), then scaled. */
static int add_rope(struct model *m, const struct model_config *c, double theta, bool scaled,
                    struct err *err)
{
    struct model_rope *rope = &m->ropes[m->n_ropes++];
    rope->n_freq = (int)(c->rotary_dims / 2);
    rope->mscale = scaled && c->rope_scaling == ROPE_YARN ? (float)c->rope_mscale : 1;
    rope->inv_freq = arena_array(&m->arena, (size_t)rope->n_freq, sizeof *rope->inv_freq);
    if (!rope->inv_freq)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int j = 0; j < rope->n_freq; j++) {
        double frequency = pow(theta, -2.0 * j / (double)c->rotary_dims);
        if (scaled && c->rope_scaling == ROPE_LINEAR)
            frequency /= c->rope_factor;
        if (scaled && c->rope_scaling == ROPE_LLAMA3)
            frequency = scale_llama3(frequency, c);
        if (scaled && c->rope_scaling == ROPE_YARN)
            frequency = scale_yarn(frequency, c, theta, j);
        rope->inv_freq[j] = (float)frequency;
    }
    return 0;
}

static void take_config(struct model *m, const struct model_config *c)
{
    m->arch = c->arch;
    m->n_layers = (int)c->n_layers;
    m->dim = (int)c->dim;
    m->n_heads = (int)c->n_heads;
    m->n_kv_heads = (int)c->n_kv_heads;
    m->head_dim = (int)c->head_dim;
    m->ffn = (int)c->ffn;
    m->vocab = (int)c->vocab;
    m->n_experts = c->arch->moe ? (int)c->n_experts : 0;
    m->n_experts_used = c->arch->moe ? (int)c->n_experts_used : 0;
    m->context_length = (int)c->context_length;
    m->norm_eps = (float)c->norm_eps;
    m->attn_scale = (float)(1 / sqrt(c->query_scalar > 0 ? c->query_scalar : (double)c->head_dim));
    m->attn_softcap = (float)c->attn_softcap;
    m->logit_softcap = (float)c->logit_softcap;
    /* the checkpoints were trained with the factor in bfloat16 */
    m->embed_scale = !c->arch->embed_scale ? 1
                     : quant_bf16_to_f32(quant_f32_to_bf16((float)sqrt((double)c->dim)));
    /* Mistral's own files have q and k as they were trained, on neighbouring pairs */
    m->rope_interleaved = c->format == MODEL_MISTRAL ||
                          (c->format == MODEL_GGUF && c->arch->gguf_interleaved);
    m->query_scale_beta = c->query_scale_from ? (float)c->query_scale_beta : 0;
    m->query_scale_from = (int)c->query_scale_from;
    m->window_max = (int)c->window;
    for (int i = 0; i < m->n_layers; i++)
        if (!c->windowed[i])
            m->window_max = 0;
}

static int open_parts(struct model *m, struct model_config *c, const struct source *source,
                      const struct gguf *gguf, struct err *err)
{
    int rc;
    if (gguf)
        rc = model_config_gguf(c, m, gguf, err);
    else if (source_is_mistral(source))
        rc = model_config_mistral(c, m, source, err);
    else
        rc = model_config_hf(c, m, source, err);
    if (rc)
        return rc;
    take_config(m, c);
    rc = add_rope(m, c, c->rope_theta, true, err);
    if (!rc && c->rope_local_theta > 0)
        rc = add_rope(m, c, c->rope_local_theta, false, err);
    if (!rc)
        rc = weights_open(source, &m->weights, err);
    return rc ? rc : model_bind(m, c, err);
}

int model_open(const struct source *source, const struct gguf *gguf, struct model **out,
               struct err *err)
{
    int rc;
    *out = NULL;
    struct model *m = calloc(1, sizeof *m);
    struct model_config *c = calloc(1, sizeof *c);
    if (!m || !c) {
        rc = err_set(err, ERR_NOMEM, "%s: out of memory", source_path(source));
    } else {
        arena_init(&m->arena, 0);
        m->bos = m->default_top_k = -1;
        m->default_temperature = m->default_top_p = NAN;
        m->default_min_p = m->default_repetition_penalty = NAN;
        rc = open_parts(m, c, source, gguf, err);
        if (rc)
            err_prefix(err, "%s", source_path(source));
    }
    free(c);
    if (rc) {
        model_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    weights_close(m->weights);
    arena_free(&m->arena);
    free(m);
}
