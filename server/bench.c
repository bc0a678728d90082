/* bench: the clock, the prompts and the requests of every test of `sirocco bench` (bench.h). */
#include "server/bench.h"

#include <time.h>

double bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void bench_prompt(const struct engine *e, uint64_t *random, int32_t *tokens, int n)
{
    uint64_t x = *random, vocab = (uint64_t)engine_info(e)->vocab_size;
    for (int i = 0; i < n; i++) { /* xorshift (Marsaglia 2003) */
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        tokens[i] = (int32_t)(x % vocab);
    }
    *random = x;
}

struct engine_request bench_request(const int32_t *tokens, int n, int generate)
{
    struct engine_request r = {.tokens = tokens,
                               .n_tokens = n,
                               .max_tokens = generate,
                               .ignore_eos = true,
                               .prompt_logprobs = -1};
    sample_params_init(&r.params);
    r.params.temperature = 0;
    return r;
}
