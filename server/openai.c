/* openai: THE TABLE from ERR_* to HTTP status, OpenAI type and code, and the writers of the error
 * and usage objects (OpenAI's specification: Error, CompletionUsage; its error guide for statuses
 * and codes). No state: any thread. */
#include "server/openai.h"

#include <string.h>

#define INVALID "invalid_request_error"
#define SERVER "server_error"

/* retry: the official clients try 408, 409, 429 and 5xx again; a failure that would only happen
 * again says so (x-should-retry: false), one that passes says when (Retry-After). */
static const struct {
    int err_code;
    struct openai_error error;
} error_table[] = {
    {ERR_NOMEM, {500, SERVER, "internal_error", false, false}},
    {ERR_IO, {500, SERVER, "internal_error", false, false}},
    {ERR_FORMAT, {500, SERVER, "internal_error", false, false}},
    {ERR_DEVICE, {500, SERVER, "internal_error", false, false}},
    {ERR_INTERNAL, {500, SERVER, "internal_error", false, false}},
    {ERR_USAGE, {500, SERVER, "internal_error", false, false}},
    {ERR_JSON, {400, INVALID, NULL, false, false}},
    {ERR_MISSING, {400, INVALID, "missing_required_parameter", false, false}},
    {ERR_TYPE, {400, INVALID, "invalid_type", false, false}},
    {ERR_VALUE, {400, INVALID, "invalid_value", false, false}},
    {ERR_UNSUPPORTED_VALUE, {400, INVALID, "unsupported_value", false, false}},
    {ERR_UNSUPPORTED_PARAM, {400, INVALID, "unsupported_parameter", false, false}},
    {ERR_INT_MAX, {400, INVALID, "integer_above_max_value", false, false}},
    {ERR_INT_MIN, {400, INVALID, "integer_below_min_value", false, false}},
    {ERR_DECIMAL_MAX, {400, INVALID, "decimal_above_max_value", false, false}},
    {ERR_DECIMAL_MIN, {400, INVALID, "decimal_below_min_value", false, false}},
    {ERR_ARRAY_LONG, {400, INVALID, "array_above_max_length", false, false}},
    {ERR_ARRAY_EMPTY, {400, INVALID, "empty_array", false, false}},
    {ERR_STRING_LONG, {400, INVALID, "string_above_max_length", false, false}},
    {ERR_CONTEXT, {400, INVALID, "context_length_exceeded", false, false}},
    {ERR_REQUEST, {400, INVALID, "bad_request", false, true}},
    {ERR_AUTH, {401, INVALID, "invalid_api_key", false, false}},
    {ERR_HOST, {403, INVALID, "host_not_allowed", false, false}},
    {ERR_NO_MODEL, {404, INVALID, "model_not_found", false, false}},
    {ERR_NO_URL, {404, INVALID, "unknown_url", false, false}},
    {ERR_METHOD, {405, INVALID, "method_not_allowed", false, false}},
    {ERR_SLOW, {408, INVALID, "request_timeout", false, true}},
    {ERR_TOO_LARGE, {413, INVALID, "request_too_large", false, true}},
    {ERR_HEADERS_LARGE, {431, INVALID, "request_headers_too_large", false, true}},
    {ERR_URI_LONG, {414, INVALID, "uri_too_long", false, true}},
    {ERR_EXPECTATION, {417, INVALID, "expectation_failed", false, true}},
    {ERR_MEDIA, {415, INVALID, "unsupported_media_type", false, false}},
    {ERR_RATE, {429, "rate_limit_error", "rate_limit_exceeded", true, false}},
    {ERR_FULL, {503, SERVER, "server_overloaded", true, false}},
    {ERR_DRAIN, {503, SERVER, "shutting_down", true, true}},
    {ERR_LOADING, {503, SERVER, "model_loading", true, false}},
    {ERR_DEAD, {503, SERVER, "engine_unavailable", true, false}},
    {ERR_CANCELLED, {500, SERVER, "request_cancelled", false, false}},
};
_Static_assert(sizeof error_table / sizeof error_table[0] == ERR_COUNT,
               "one row for every code of err.h");

const struct openai_error *openai_error_for(int err_code)
{
    static const struct openai_error internal = {500, SERVER, "internal_error", false, false};
    for (size_t i = 0; i < sizeof error_table / sizeof error_table[0]; i++)
        if (error_table[i].err_code == err_code)
            return &error_table[i].error;
    return &internal;
}

/* What is wrong inside the server is for its log: the client learns that it was the server. */
static const char *client_text(const struct err *err, const struct openai_error *error)
{
    if (error->status == 500 && err->code != ERR_CANCELLED)
        return "The server had an error while processing your request. Its log tells more under "
               "the x-request-id of this answer.";
    return err->text[0] ? err->text : err_text(err->code);
}

int openai_write_error(struct buf *out, const struct err *err)
{
    const struct openai_error *error = openai_error_for(err->code);
    const char *text = client_text(err, error);
    buf_text(out, "{\"error\":{\"message\":");
    buf_json_string(out, text, strlen(text));
    buf_text(out, ",\"type\":");
    buf_json_string(out, error->type, strlen(error->type));
    buf_text(out, ",\"param\":");
    if (err->param[0])
        buf_json_string(out, err->param, strlen(err->param));
    else
        buf_text(out, "null");
    buf_text(out, ",\"code\":");
    if (error->code)
        buf_json_string(out, error->code, strlen(error->code));
    else
        buf_text(out, "null");
    buf_text(out, "}}");
    return out->failed;
}

const char *openai_finish(enum finish_reason reason)
{
    return reason == FINISH_LENGTH ? "length" : "stop";
}

int openai_write_usage(struct buf *out, const struct engine_usage *usage, int n_reasoning)
{
    return buf_format(out,
                      "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%lld,"
                      "\"prompt_tokens_details\":{\"cached_tokens\":%d,\"audio_tokens\":0},"
                      "\"completion_tokens_details\":{\"reasoning_tokens\":%d,\"audio_tokens\":0,"
                      "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}",
                      usage->prompt_tokens, usage->output_tokens,
                      (long long)usage->prompt_tokens + usage->output_tokens, usage->cached_tokens,
                      n_reasoning);
}
