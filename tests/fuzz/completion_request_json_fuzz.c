/* completion_request_json: any bytes as the body of a completions request. What is accepted holds
 * prompts whose ids are below the vocabulary and no more sequences than one request may have; a
 * suffix goes with texts alone. The same bytes as the body of an infill. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/openai.h"
#include "server/request.h"

enum { VOCAB = 1000 };

static void require(int held)
{
    if (!held)
        abort();
}

static void check_ids(const json_t *ids)
{
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (json_is_array(id))
            check_ids(id);
        else if (!json_is_string(id))
            require(json_number_value(id) >= 0 && json_number_value(id) < VOCAB);
    }
}

static void check_infill(const uint8_t *data, size_t size, const struct request_limits *limits)
{
    struct arena arena;
    struct request r;
    struct err err = {0};
    const char *text;
    size_t n;
    arena_init(&arena, 64 << 20);
    int code = request_parse_infill(&r, (const char *)data, size, limits, &arena, &err);
    if (code)
        require(code == err.code && openai_error_for(code)->status < 500 && err.text[0]);
    else if (!request_infill_prefix(&r, &arena, &text, &n, &err))
        require(r.suffix && r.n == 1 && n <= 2 * size && !text[n]);
    request_free(&r);
    arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"demo"};
    struct sample_params defaults;
    struct request_limits limits = {
        .vocab_size = VOCAB, .defaults = &defaults, .names = names, .n_names = 1};
    struct arena arena;
    struct request r;
    struct err err = {0};
    sample_params_init(&defaults);
    arena_init(&arena, 64 << 20);
    int code = request_parse_completion(&r, (const char *)data, size, &limits, &arena, &err);
    if (!code) {
        require(r.prompt != NULL && r.n_prompts >= 1 && r.n >= 1);
        require(r.n_prompts * r.n <= REQUEST_SEQUENCES_MAX && r.max_tokens >= 0);
        require(r.params.logprobs >= -1 && r.params.logprobs <= REQUEST_LEGACY_TOP_MAX);
        check_ids(r.prompt);
        require(!r.suffix || (r.suffix_size && !r.echo));
    } else {
        require(code == err.code && openai_error_for(code)->status < 500 && err.text[0]);
    }
    request_free(&r);
    arena_free(&arena);
    check_infill(data, size, &limits);
    return 0;
}
