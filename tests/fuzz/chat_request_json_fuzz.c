/* chat_request_json: any bytes as the body of a chat request. A request that is accepted keeps the
 * promises of request.h; one that is refused says why with a code a client can be answered with. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/openai.h"
#include "server/request.h"

static void require(int held)
{
    if (!held)
        abort();
}

static void check(const struct request *r)
{
    require(r->n >= 1 && r->n <= REQUEST_N_MAX && r->model != NULL);
    require(r->max_tokens == -1 || r->max_tokens >= 1);
    require(r->stops.n >= 0 && r->stops.n <= REQUEST_STOPS_MAX);
    for (int i = 0; i < r->stops.n; i++)
        require(r->stops.size[i] >= 1 && r->stops.size[i] <= STREAM_STOP_BYTES_MAX);
    require(r->params.n_bias <= SAMPLE_BIAS_MAX && !sample_params_check(&r->params, NULL));
    for (int i = 0; i < r->params.n_bias; i++)
        require(r->params.bias[i].token >= 0 && r->params.bias[i].token < 1000);
    for (size_t i = 0; i < json_array_size(r->messages); i++) {
        const json_t *message = json_array_get(r->messages, i);
        const json_t *content = json_object_get(message, "content");
        require(json_is_string(json_object_get(message, "role")));
        require(json_is_string(content) ||
                (json_is_null(content) && json_object_get(message, "tool_calls")));
    }
    require(json_array_size(r->messages) > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"demo"};
    struct sample_params defaults;
    struct request_limits limits = {
        .vocab_size = 1000, .defaults = &defaults, .names = names, .n_names = 1};
    struct arena arena;
    struct request request;
    struct err err = {0};
    sample_params_init(&defaults);
    arena_init(&arena, 64 << 20);
    int code = request_parse_chat(&request, (const char *)data, size, &limits, &arena, &err);
    if (!code)
        check(&request);
    else
        require(code == err.code && openai_error_for(code)->status < 500 && err.text[0]);
    request_free(&request);
    arena_free(&arena);
    return 0;
}
