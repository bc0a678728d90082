/* pace: the policy of pace.h. Engine thread, or wherever a scheduler is driven. */
#include "engine/pace.h"

#include <limits.h>

enum {
    TOKENS_MIN = 2, /* prompts go on, whatever they cost */
    AGE_MAX = 32,   /* steps with prompts before one goes without */
};
static const double stretch = 1.5;  /* of a step without prompts, if that is above the target */
static const double caution = 0.85; /* share of the room that is planned with: all is estimated */

void pace_init(struct pace *p, uint64_t target_ns)
{
    *p = (struct pace){.target_ns = target_ns, .tokens_max = TOKENS_MIN};
}

static int class_of(int n_decodes)
{
    int class = 31 - __builtin_clz((unsigned)n_decodes);
    return class < PACE_CLASSES ? class : PACE_CLASSES - 1;
}

int pace_prompt_tokens(const struct pace *p, int n_decodes)
{
    if (!p->target_ns || n_decodes < 1)
        return INT_MAX;
    int class = class_of(n_decodes);
    double decode = p->decode_ns[class], limit = (double)p->target_ns;
    if (decode <= 0 || p->age[class] >= AGE_MAX)
        return 0;
    if (limit < stretch * decode)
        limit = stretch * decode;
    if (p->prompt_ns <= 0)
        return p->tokens_max;
    double tokens = caution * (limit - decode) / p->prompt_ns;
    if (tokens >= p->tokens_max)
        return p->tokens_max;
    return tokens < TOKENS_MIN ? TOKENS_MIN : (int)tokens;
}

/* A step that something else disturbed moves an estimate, but not far. */
static double learn(double known, double seen, double weight, double by)
{
    if (known <= 0)
        return seen;
    if (seen > known * by)
        seen = known * by;
    if (seen < known / by)
        seen = known / by;
    return known + weight * (seen - known);
}

void pace_took(struct pace *p, int n_decodes, int n_prompt, uint64_t ns)
{
    if (!p->target_ns || n_decodes < 1)
        return;
    ns += ns == 0; /* a clock too coarse to see it; 0 would mean never seen */
    int class = class_of(n_decodes);
    if (!n_prompt) {
        p->decode_ns[class] = learn(p->decode_ns[class], (double)ns, 0.5, 1.5);
        p->age[class] = 0;
        return;
    }
    double decode = p->decode_ns[class], least = (double)ns * 1e-3;
    double rest = (double)ns - decode > least ? (double)ns - decode : least;
    p->age[class] += p->age[class] < AGE_MAX;
    p->prompt_ns = learn(p->prompt_ns, rest / n_prompt, 0.3, 2);
    if (n_prompt >= p->tokens_max && p->tokens_max < INT_MAX / 2)
        p->tokens_max *= 2;
}
