/* sample: THE TABLE of sampling parameters with their ranges, and the counter-based RNG.
 *
 * Pure functions and constants; any thread. The chain of steps is sampler.c. */
#include "engine/sample.h"

#include <math.h>
#include <string.h>

#define FLOAT_ROW(field, other_name, low, high, usual, text)                                       \
    {#field, other_name, SAMPLE_FLOAT, offsetof(struct sample_params, field), low, high, usual,    \
     text}
#define INT_ROW(field, size, other_name, low, high, usual, text)                                   \
    {#field, other_name, SAMPLE_INT##size, offsetof(struct sample_params, field), low, high,       \
     usual, text}

const struct sample_param sample_param_table[] = {
    FLOAT_ROW(temperature, NULL, 0, 2, 1, "divides the logits; 0 takes the best token each time"),
    FLOAT_ROW(top_p, NULL, 0, 1, 1,
              "keeps the fewest best tokens whose probabilities reach this sum; 0 keeps one"),
    INT_ROW(top_k, 32, NULL, -1, INT32_MAX, 0,
            "keeps this many of the best tokens; 0 or -1 keeps all"),
    FLOAT_ROW(min_p, NULL, 0, 1, 0,
              "drops tokens less likely than this share of the best one's probability"),
    FLOAT_ROW(typical_p, NULL, 0, 1, 1,
              "keeps the fewest tokens of usual surprise whose probabilities reach this sum"),
    FLOAT_ROW(repetition_penalty, "repeat_penalty", 0.01, 2, 1,
              "above 1, makes tokens of the prompt and the output less likely"),
    FLOAT_ROW(presence_penalty, NULL, -2, 2, 0,
              "subtracted once from the logits of tokens in the output"),
    FLOAT_ROW(frequency_penalty, NULL, -2, 2, 0,
              "subtracted from a token's logit for each time it is in the output"),
    INT_ROW(min_tokens, 32, NULL, 0, INT32_MAX, 0, "no stop token before this many tokens"),
    INT_ROW(seed, 64, "random_seed", (double)INT64_MIN, (double)INT64_MAX, 0,
            "the same seed and request give the same tokens"),
};
const int sample_param_count = sizeof sample_param_table / sizeof *sample_param_table;

static double param_value(const struct sample_params *p, const struct sample_param *row)
{
    const char *at = (const char *)p + row->offset;
    if (row->kind == SAMPLE_FLOAT)
        return *(const float *)at;
    if (row->kind == SAMPLE_INT32)
        return *(const int32_t *)at;
    return (double)*(const int64_t *)at;
}

/* A bound as the field's type holds it: 0.01 as a float is less than 0.01. */
static double param_bound(const struct sample_param *row, double bound)
{
    return row->kind == SAMPLE_FLOAT ? (double)(float)bound : bound;
}

void sample_params_init(struct sample_params *p)
{
    memset(p, 0, sizeof *p);
    for (int i = 0; i < sample_param_count; i++) {
        const struct sample_param *row = &sample_param_table[i];
        char *at = (char *)p + row->offset;
        if (row->kind == SAMPLE_FLOAT)
            *(float *)at = (float)row->standard;
        else if (row->kind == SAMPLE_INT32)
            *(int32_t *)at = (int32_t)row->standard;
        else
            *(int64_t *)at = (int64_t)row->standard;
    }
    p->logprobs = -1;
}

static int check_bias(const struct sample_params *p, struct err *err)
{
    if (p->n_bias > SAMPLE_BIAS_MAX)
        return err_param(err, ERR_ARRAY_LONG, "logit_bias",
                         "Invalid 'logit_bias': at most %d entries are allowed, but got %d.",
                         SAMPLE_BIAS_MAX, p->n_bias);
    for (int i = 0; i < p->n_bias; i++) {
        if (p->bias[i].token < 0)
            return err_param(err, ERR_VALUE, "logit_bias",
                             "Invalid 'logit_bias': %d is not a token id.", p->bias[i].token);
        if (!(p->bias[i].bias >= -100.0f && p->bias[i].bias <= 100.0f))
            return err_param(err, ERR_VALUE, "logit_bias",
                             "Invalid 'logit_bias': the bias of token %d must be from -100 to 100.",
                             p->bias[i].token);
    }
    return 0;
}

int sample_params_check(const struct sample_params *p, struct err *err)
{
    for (int i = 0; i < sample_param_count; i++) {
        const struct sample_param *row = &sample_param_table[i];
        double value = param_value(p, row);
        bool decimal = row->kind == SAMPLE_FLOAT;
        const char *word = decimal ? "decimal" : "integer";
        if (isnan(value))
            return err_param(err, ERR_VALUE, row->name, "Invalid '%s': not a number.", row->name);
        if (value < param_bound(row, row->min))
            return err_param(err, decimal ? ERR_DECIMAL_MIN : ERR_INT_MIN, row->name,
                             "Invalid '%s': %s below minimum value. Expected a value >= %.10g, "
                             "but got %.10g instead.",
                             row->name, word, row->min, value);
        if (value > param_bound(row, row->max))
            return err_param(err, decimal ? ERR_DECIMAL_MAX : ERR_INT_MAX, row->name,
                             "Invalid '%s': %s above maximum value. Expected a value <= %.10g, "
                             "but got %.10g instead.",
                             row->name, word, row->max, value);
    }
    if (p->logprobs < -1 || p->logprobs > SAMPLE_TOP_MAX)
        return err_param(err, p->logprobs < -1 ? ERR_INT_MIN : ERR_INT_MAX, "logprobs",
                         "Invalid 'logprobs': expected a value from 0 to %d, but got %d instead.",
                         SAMPLE_TOP_MAX, p->logprobs);
    return check_bias(p, err);
}

/* Philox 4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011),
 * section 3.3 and table 2. The position fills the counter's low words. */
double sample_uniform(uint64_t seed, uint64_t position)
{
    uint32_t c0 = (uint32_t)position, c1 = (uint32_t)(position >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (double)((((uint64_t)c0 << 32) | c1) >> 11) * 0x1p-53;
}

