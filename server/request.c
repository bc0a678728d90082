/* request: the fields that chat and completions share, then each one's own. A prep worker's; no
 * state. Numeric sampling fields come from the table of sample.c: their names, ranges and kinds
 * stand there alone. */
#include "server/request.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/buf.h"
#include "server/field.h"
#include "server/json_budget.h"
#include "server/messages.h"
#include "server/prompt.h"

#define TRY(call)                                                                                  \
    do {                                                                                           \
        int try_code = (call);                                                                     \
        if (try_code < 0)                                                                          \
            return try_code;                                                                       \
    } while (0)

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while reading a request");
}

static int parse_model(struct request *r, const struct request_limits *limits, struct err *err)
{
    struct field_string name;
    r->model = limits->n_names ? limits->names[0] : "default";
    int code = field_string(r->root, "model", REQUEST_MODEL_BYTES_MAX, &name, err);
    if (code <= 0)
        return code;
    if (!name.size)
        return err_param(err, ERR_VALUE, "model", "Invalid 'model': it must not be empty.");
    if (name.size == 7 && !memcmp(name.text, "default", 7))
        return 0;
    for (int i = 0; i < limits->n_names; i++)
        if (strlen(limits->names[i]) == name.size &&
            !memcmp(limits->names[i], name.text, name.size)) {
            r->model = limits->names[i];
            return 0;
        }
    return request_no_model(err, name.text, r->model);
}

/* One numeric parameter into its place in params. */
static int parse_param(const json_t *root, const struct sample_param *row, const char *name,
                       struct sample_params *params, struct err *err)
{
    char *place = (char *)params + row->offset;
    double real;
    int64_t integer;
    int code;
    if (row->kind == SAMPLE_FLOAT) {
        code = field_number(root, name, row->min, row->max, &real, err);
        if (code > 0) {
            float value = (float)real;
            memcpy(place, &value, sizeof value);
        }
        return code;
    }
    /* the table's bounds are doubles: those of int64 itself are not exact there */
    int64_t min = row->min <= -9223372036854775808.0 ? INT64_MIN : (int64_t)row->min;
    int64_t max = row->max >= 9223372036854775808.0 ? INT64_MAX : (int64_t)row->max;
    code = field_int(root, name, min, max, &integer, err);
    if (code <= 0)
        return code;
    if (row->kind == SAMPLE_INT32) {
        int32_t value = (int32_t)integer;
        memcpy(place, &value, sizeof value);
    } else
        memcpy(place, &integer, sizeof integer);
    return 1;
}

static int parse_params(struct request *r, const struct request_limits *limits, struct err *err)
{
    r->params = *limits->defaults;
    r->params.n_bias = 0;
    r->params.bias = NULL;
    r->params.logprobs = -1;
    for (int i = 0; i < sample_param_count; i++) {
        const struct sample_param *row = &sample_param_table[i];
        if (row->offset == offsetof(struct sample_params, logprobs))
            continue; /* a boolean in one API, an integer in the other */
        int code = parse_param(r->root, row, row->name, &r->params, err);
        if (!code && row->alias)
            code = parse_param(r->root, row, row->alias, &r->params, err);
        TRY(code);
        if (code > 0 && row->offset == offsetof(struct sample_params, seed))
            r->params.has_seed = true;
    }
    return 0;
}

static int parse_one_stop(struct request *r, const json_t *value, struct arena *arena,
                          struct err *err)
{
    if (!json_is_string(value))
        return field_type_error(err, "stop", "a string or an array of strings", value);
    size_t size = json_string_length(value);
    if (!size)
        return err_param(err, ERR_VALUE, "stop", "Invalid 'stop': a stop string is empty.");
    if (size > STREAM_STOP_BYTES_MAX)
        return err_param(err, ERR_STRING_LONG, "stop",
                         "Invalid 'stop': string too long. Expected at most %d bytes, but got %zu.",
                         STREAM_STOP_BYTES_MAX, size);
    char *copy = arena_copy(arena, json_string_value(value), size);
    if (!copy)
        return no_memory(err);
    r->stops.text[r->stops.n] = copy;
    r->stops.size[r->stops.n++] = size;
    return 0;
}

static int parse_stop(struct request *r, struct arena *arena, struct err *err)
{
    const json_t *stop = field_get(r->root, "stop");
    if (!stop)
        return 0;
    if (!json_is_array(stop))
        return parse_one_stop(r, stop, arena, err);
    if (json_array_size(stop) > REQUEST_STOPS_MAX)
        return err_param(
            err, ERR_ARRAY_LONG, "stop",
            "Invalid 'stop': array too long. Expected at most %d strings, but got %zu.",
            REQUEST_STOPS_MAX, json_array_size(stop));
    for (size_t i = 0; i < json_array_size(stop); i++)
        TRY(parse_one_stop(r, json_array_get(stop, i), arena, err));
    return 0;
}

/* A token id as JSON writes it as a key: decimal, no sign, no leading zero, < vocab_size. */
static bool key_token(const char *key, size_t n, int vocab_size, int32_t *token)
{
    int64_t id = 0;
    if (!n || n > 10 || (n > 1 && key[0] == '0'))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (key[i] < '0' || key[i] > '9')
            return false;
        id = id * 10 + (key[i] - '0');
    }
    *token = (int32_t)id;
    return id < vocab_size;
}

static int parse_bias(struct request *r, const struct request_limits *limits, struct arena *arena,
                      struct err *err)
{
    const json_t *map = NULL;
    int code = field_object(r->root, "logit_bias", &map, err);
    if (code <= 0)
        return code;
    size_t n = json_object_size(map);
    if (n > SAMPLE_BIAS_MAX)
        return err_param(
            err, ERR_ARRAY_LONG, "logit_bias",
            "Invalid 'logit_bias': too many entries. Expected at most %d, but got %zu.",
            SAMPLE_BIAS_MAX, n);
    if (!n)
        return 0;
    r->params.bias = arena_array(arena, n, sizeof *r->params.bias);
    if (!r->params.bias)
        return no_memory(err);
    for (void *at = json_object_iter((json_t *)map); at;
         at = json_object_iter_next((json_t *)map, at)) {
        const json_t *value = json_object_iter_value(at);
        struct sample_bias *bias = &r->params.bias[r->params.n_bias];
        if (!key_token(json_object_iter_key(at), json_object_iter_key_len(at), limits->vocab_size,
                       &bias->token))
            return err_param(err, ERR_VALUE, "logit_bias",
                             "Invalid 'logit_bias': every key must be a token id in decimal, below "
                             "the vocabulary size of %d.",
                             limits->vocab_size);
        if (!json_is_number(value))
            return field_type_error(err, "logit_bias", "a number for every key", value);
        double real = json_number_value(value);
        if (real < -100 || real > 100)
            return err_param(err, ERR_VALUE, "logit_bias",
                             "Invalid 'logit_bias': every value must be between -100 and 100, but "
                             "one is %g.",
                             real);
        bias->bias = (float)real;
        r->params.n_bias++;
    }
    return 0;
}

static int parse_stop_ids(struct request *r, const struct request_limits *limits,
                          struct arena *arena, struct err *err)
{
    const json_t *ids = NULL;
    int code = field_array(r->root, "stop_token_ids", &ids, err);
    if (code <= 0)
        return code;
    size_t n = json_array_size(ids);
    if (n > REQUEST_STOP_IDS_MAX)
        return err_param(err, ERR_ARRAY_LONG, "stop_token_ids",
                         "Invalid 'stop_token_ids': array too long. Expected at most %d, but got "
                         "%zu.",
                         REQUEST_STOP_IDS_MAX, n);
    r->stop_token_ids = n ? arena_array(arena, n, sizeof(int32_t)) : NULL;
    if (n && !r->stop_token_ids)
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        if (!field_integral(json_array_get(ids, i), &id))
            return field_type_error(err, "stop_token_ids", "an array of integers",
                                    json_array_get(ids, i));
        if (id < 0 || id >= limits->vocab_size)
            return err_param(err, ERR_VALUE, "stop_token_ids",
                             "Invalid 'stop_token_ids': %lld is not a token id (0 to %d).",
                             (long long)id, limits->vocab_size - 1);
        r->stop_token_ids[r->n_stop_token_ids++] = (int32_t)id;
    }
    return 0;
}

/* An error of a member of `outer`: its param is the path. */
static int nested(struct err *err, const char *outer, int code)
{
    if (code < 0 && err && err->param[0]) {
        char inner[sizeof err->param];
        memcpy(inner, err->param, sizeof inner);
        snprintf(err->param, sizeof err->param, "%.40s.%.50s", outer, inner);
    }
    return code;
}

static int parse_stream(struct request *r, struct err *err)
{
    const json_t *options = NULL;
    bool ignored;
    TRY(field_bool(r->root, "stream", &r->stream, err));
    int code = field_object(r->root, "stream_options", &options, err);
    if (code <= 0)
        return code;
    if (!r->stream)
        return err_param(
            err, ERR_VALUE, "stream_options",
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.");
    TRY(nested(err, "stream_options",
               field_bool(options, "include_usage", &r->include_usage, err)));
    TRY(nested(err, "stream_options",
               field_bool(options, "continuous_usage_stats", &r->continuous_usage, err)));
    TRY(nested(err, "stream_options", field_bool(options, "include_obfuscation", &ignored, err)));
    r->continuous_usage = r->continuous_usage && r->include_usage;
    return 0;
}

/* Who shares cached blocks: FNV-1a, then a finaliser so that near salts are far apart; never 0. */
static uint64_t salt_hash(const char *text, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3u;
    hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccdu;
    hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53u;
    hash ^= hash >> 33;
    return hash ? hash : 1;
}

static int parse_extensions(struct request *r, struct err *err)
{
    struct field_string salt;
    bool skip_special = true, flag;
    int64_t priority = 0;
    TRY(field_bool(r->root, "include_stop_str_in_output", &r->include_stop, err));
    TRY(field_bool(r->root, "ignore_eos", &r->ignore_eos, err));
    TRY(field_bool(r->root, "skip_special_tokens", &skip_special, err));
    r->show_special = !skip_special;
    TRY(field_bool(r->root, "return_token_ids", &r->return_token_ids, err));
    int code = field_bool(r->root, "add_special_tokens", &flag, err);
    TRY(code);
    r->add_special_tokens = code ? flag : -1;
    code = field_string(r->root, "cache_salt", REQUEST_SALT_BYTES_MAX, &salt, err);
    TRY(code);
    if (code && !salt.size)
        return err_param(err, ERR_VALUE, "cache_salt", "Invalid 'cache_salt': it is empty.");
    r->cache_salt = code ? salt_hash(salt.text, salt.size) : 0;
    TRY(field_int(r->root, "priority", INT32_MIN, INT32_MAX, &priority, err));
    r->priority = (int)priority;
    return 0;
}

/* Fields that only label a request: checked as OpenAI checks them, then left alone. */
static int check_labels(const json_t *root, struct err *err)
{
    const json_t *metadata = NULL;
    struct field_string label;
    TRY(field_string(root, "user", 256, &label, err));
    TRY(field_string(root, "safety_identifier", 256, &label, err));
    int code = field_object(root, "metadata", &metadata, err);
    if (code <= 0)
        return code;
    if (json_object_size(metadata) > 16)
        return err_param(err, ERR_ARRAY_LONG, "metadata",
                         "Invalid 'metadata': too many pairs. Expected at most 16, but got %zu.",
                         json_object_size(metadata));
    for (void *at = json_object_iter((json_t *)metadata); at;
         at = json_object_iter_next((json_t *)metadata, at)) {
        const json_t *value = json_object_iter_value(at);
        if (!json_is_string(value))
            return field_type_error(err, "metadata", "string values", value);
        if (json_object_iter_key_len(at) > 64 || json_string_length(value) > 512)
            return err_param(err, ERR_STRING_LONG, "metadata",
                             "Invalid 'metadata': keys have at most 64 bytes, values at most 512.");
    }
    return 0;
}

static int parse_shared(struct request *r, const struct request_limits *limits, struct arena *arena,
                        struct err *err)
{
    int64_t n = 1;
    TRY(parse_model(r, limits, err));
    TRY(parse_params(r, limits, err));
    TRY(field_int(r->root, "n", 1, REQUEST_N_MAX, &n, err));
    r->n = (int)n;
    TRY(parse_stop(r, arena, err));
    TRY(parse_bias(r, limits, arena, err));
    TRY(parse_stop_ids(r, limits, arena, err));
    TRY(parse_stream(r, err));
    TRY(parse_extensions(r, err));
    return check_labels(r->root, err);
}

/* max_tokens (min: 1 or, in completions, 0) and its newer name. What is above the context is
 * clamped where the prompt's length is known. */
static int parse_max_tokens(struct request *r, int64_t min, struct err *err)
{
    int64_t older = -1, newer = -1;
    TRY(field_int(r->root, "max_tokens", min, INT64_MAX, &older, err));
    TRY(field_int(r->root, "max_completion_tokens", min, INT64_MAX, &newer, err));
    if (older >= 0 && newer >= 0 && older != newer)
        return err_param(err, ERR_VALUE, "max_completion_tokens",
                         "'max_tokens' and 'max_completion_tokens' are both set, and differ.");
    int64_t tokens = newer >= 0 ? newer : older;
    r->max_tokens = tokens > INT_MAX ? INT_MAX : (int)tokens;
    if (tokens >= 0 && r->params.min_tokens > tokens)
        return err_param(err, ERR_VALUE, "min_tokens",
                         "Invalid 'min_tokens': %d is more than 'max_tokens' allows.",
                         r->params.min_tokens);
    return 0;
}

static int parse_chat_logprobs(struct request *r, struct err *err)
{
    bool logprobs = false;
    int64_t top = 0;
    TRY(field_bool(r->root, "logprobs", &logprobs, err));
    int code = field_int(r->root, "top_logprobs", 0, REQUEST_TOP_MAX, &top, err);
    TRY(code);
    if (code && !logprobs)
        return err_param(err, ERR_VALUE, "top_logprobs",
                         "The 'top_logprobs' parameter is only allowed when 'logprobs' is true.");
    r->params.logprobs = logprobs ? (int32_t)top : -1;
    return 0;
}

/* Names a template gets from the server: what a client sent must not stand in for them. */
static int check_kwargs(const json_t *kwargs, struct err *err)
{
    static const char *const reserved[] = {
        "messages",  "tools",     "documents", "bos_token",
        "eos_token", "unk_token", "pad_token", "add_generation_prompt"};
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++)
        if (json_object_get(kwargs, reserved[i]))
            return err_param(err, ERR_VALUE, "chat_template_kwargs",
                             "Invalid 'chat_template_kwargs': '%s' is set by the server.",
                             reserved[i]);
    return 0;
}

static int parse_kwargs(struct request *r, struct err *err)
{
    static const char *const efforts[] = {"none", "minimal", "low", "medium",
                                          "high", "xhigh",   "max"};
    const json_t *kwargs = NULL;
    struct field_string effort;
    bool known = false;
    int given = field_object(r->root, "chat_template_kwargs", &kwargs, err);
    TRY(given);
    TRY(given ? check_kwargs(kwargs, err) : 0);
    int code = field_string(r->root, "reasoning_effort", 64, &effort, err);
    TRY(code);
    for (size_t i = 0; code && i < sizeof efforts / sizeof efforts[0]; i++)
        known = known || (strlen(effort.text) == effort.size && !strcmp(effort.text, efforts[i]));
    if (code && !known)
        return err_param(err, ERR_VALUE, "reasoning_effort",
                         "Invalid 'reasoning_effort': expected one of none, minimal, low, medium, "
                         "high, xhigh, max.");
    if (!given && !code)
        return 0;
    r->kwargs = given ? json_copy((json_t *)kwargs) : json_object();
    if (!r->kwargs)
        return no_memory(err);
    if (code && !json_object_get(r->kwargs, "reasoning_effort") &&
        json_object_set(r->kwargs, "reasoning_effort",
                        json_object_get(r->root, "reasoning_effort")))
        return no_memory(err);
    return 0;
}

static int parse_final_message(struct request *r, struct err *err)
{
    bool prompt = true;
    TRY(field_bool(r->root, "continue_final_message", &r->continue_final_message, err));
    int code = field_bool(r->root, "add_generation_prompt", &prompt, err);
    TRY(code);
    if (r->continue_final_message && code && prompt)
        return err_param(
            err, ERR_VALUE, "continue_final_message",
            "'continue_final_message' and 'add_generation_prompt' exclude each other.");
    const json_t *last = json_array_get(r->messages, json_array_size(r->messages) - 1);
    r->prefix = json_is_true(json_object_get(last, "prefix"));
    r->add_generation_prompt = prompt && !r->continue_final_message && !r->prefix;
    if (!r->continue_final_message)
        return 0;
    if (strcmp(json_string_value(json_object_get(last, "role")), "assistant") ||
        !json_is_string(json_object_get(last, "content")))
        return err_param(err, ERR_VALUE, "continue_final_message",
                         "'continue_final_message' needs an assistant message with content at the "
                         "end.");
    return 0;
}

/* vLLM's switch, and llama.cpp's. */
static int parse_reasoning(struct request *r, struct err *err)
{
    struct field_string format;
    r->split_reasoning = r->show_reasoning = true;
    TRY(field_bool(r->root, "include_reasoning", &r->show_reasoning, err));
    int code = field_string(r->root, "reasoning_format", 64, &format, err);
    TRY(code);
    r->split_reasoning = !code || format.size != 4 || memcmp(format.text, "none", 4);
    return 0;
}

static int parse_chat_fields(struct request *r, const struct request_limits *limits,
                             struct arena *arena, struct err *err)
{
    TRY(parse_shared(r, limits, arena, err));
    TRY(request_refuse_chat(r->root, err));
    TRY(parse_max_tokens(r, 1, err));
    TRY(parse_chat_logprobs(r, err));
    TRY(messages_build(field_get(r->root, "messages"), &r->messages, err));
    TRY(parse_kwargs(r, err));
    TRY(tools_parse(r->root, &r->tools, arena, err));
    TRY(parse_reasoning(r, err));
    return parse_final_message(r, err);
}

static int parse_best_of(const struct request *r, struct err *err)
{
    int64_t best_of;
    int code = field_int(r->root, "best_of", 0, REQUEST_BEST_OF_MAX, &best_of, err);
    if (code <= 0 || best_of == r->n)
        return code;
    if (best_of < r->n)
        return err_param(err, ERR_VALUE, "best_of",
                         "Invalid 'best_of': it must be at least 'n' (%d).", r->n);
    return err_param(err, ERR_UNSUPPORTED_VALUE, "best_of",
                     "Unsupported value: 'best_of' above 'n' is not supported.");
}

/* A suffix to fill in before; an empty one asks for nothing. */
static int parse_suffix(struct request *r, struct err *err)
{
    struct field_string suffix = {"", 0};
    TRY(field_string(r->root, "suffix", PROMPT_TEXT_BYTES_MAX, &suffix, err));
    if (!suffix.size)
        return 0;
    if (r->echo)
        return err_param(err, ERR_VALUE, "suffix", "'suffix' and 'echo' exclude each other.");
    const json_t *first = json_is_array(r->prompt) ? json_array_get(r->prompt, 0) : r->prompt;
    if (!json_is_string(first))
        return err_param(err, ERR_VALUE, "prompt",
                         "Invalid 'prompt': with 'suffix' it must be text, not token ids.");
    r->suffix = suffix.text;
    r->suffix_size = suffix.size;
    return 0;
}

static int parse_completion_fields(struct request *r, const struct request_limits *limits,
                                   struct arena *arena, struct err *err)
{
    int64_t logprobs = -1;
    TRY(parse_shared(r, limits, arena, err));
    TRY(request_refuse_completion(r->root, err));
    TRY(parse_max_tokens(r, 0, err));
    if (r->max_tokens < 0)
        r->max_tokens = r->params.min_tokens > REQUEST_COMPLETION_TOKENS
                            ? r->params.min_tokens
                            : REQUEST_COMPLETION_TOKENS;
    TRY(field_int(r->root, "logprobs", 0, REQUEST_LEGACY_TOP_MAX, &logprobs, err));
    r->params.logprobs = (int32_t)logprobs;
    TRY(field_bool(r->root, "echo", &r->echo, err));
    TRY(parse_best_of(r, err));
    r->prompt = field_get(r->root, "prompt");
    if (!r->prompt)
        return err_param(err, ERR_MISSING, "prompt", "Missing required parameter: 'prompt'.");
    r->n_prompts = prompt_check(r->prompt, limits->vocab_size, err);
    if (r->n_prompts > 0 && r->n_prompts * r->n > REQUEST_SEQUENCES_MAX)
        return err_param(err, ERR_VALUE, "prompt",
                         "Invalid 'prompt': %d prompts times 'n' = %d are more than the %d "
                         "sequences one request may have.",
                         r->n_prompts, r->n, REQUEST_SEQUENCES_MAX);
    TRY(r->n_prompts);
    return parse_suffix(r, err);
}

/* ---- infill */

/* input_extra: what else the editor has open: [{"filename":..,"text":..}..] */
static int check_extra(const json_t *root, struct err *err)
{
    const json_t *extra = NULL;
    TRY(field_array(root, "input_extra", &extra, err));
    for (size_t i = 0; i < json_array_size(extra); i++) {
        struct field_string text;
        const json_t *one = json_array_get(extra, i);
        if (!json_is_object(one))
            return field_type_error(err, "input_extra", "an array of objects", one);
        int code = field_string(one, "text", PROMPT_TEXT_BYTES_MAX, &text, err);
        TRY(nested(err, "input_extra", code));
        if (!code)
            return err_param(err, ERR_MISSING, "input_extra.text",
                             "Missing required parameter: 'input_extra.text'.");
    }
    return 0;
}

static int parse_infill_fields(struct request *r, const struct request_limits *limits,
                               struct arena *arena, struct err *err)
{
    static const char *const texts[] = {"input_prefix", "prompt"};
    struct field_string suffix = {"", 0}, text;
    int64_t tokens = -1;
    TRY(parse_shared(r, limits, arena, err));
    TRY(request_refuse_completion(r->root, err));
    if (r->n != 1)
        return err_param(err, ERR_VALUE, "n", "Invalid 'n': an infill has one answer.");
    TRY(parse_max_tokens(r, 0, err));
    TRY(field_int(r->root, "n_predict", -1, INT64_MAX, &tokens, err));
    if (tokens >= 0)
        r->max_tokens = tokens > INT_MAX ? INT_MAX : (int)tokens;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        TRY(field_string(r->root, texts[i], PROMPT_TEXT_BYTES_MAX, &text, err));
    TRY(field_string(r->root, "input_suffix", PROMPT_TEXT_BYTES_MAX, &suffix, err));
    r->suffix = suffix.text;
    r->suffix_size = suffix.size;
    return check_extra(r->root, err);
}

static void add_text(struct buf *out, const json_t *object, const char *name, const char *end)
{
    struct field_string text;
    if (field_string(object, name, PROMPT_TEXT_BYTES_MAX, &text, NULL) <= 0)
        return;
    buf_add(out, text.text, text.size);
    buf_text(out, end);
}

int request_infill_prefix(const struct request *r, struct arena *arena, const char **text,
                          size_t *size, struct err *err)
{
    const json_t *extra = field_get(r->root, "input_extra");
    struct buf out;
    buf_init(&out, 0);
    for (size_t i = 0; i < json_array_size(extra); i++)
        add_text(&out, json_array_get(extra, i), "text", "\n");
    add_text(&out, r->root, "input_prefix", "");
    add_text(&out, r->root, "prompt", "");
    *size = out.size;
    *text = out.failed ? NULL : arena_copy(arena, out.data ? out.data : "", out.size);
    buf_free(&out);
    return *text ? 0 : no_memory(err);
}

int request_add_stop_ids(struct request *r, const int32_t *ids, int n, struct arena *arena,
                         struct err *err)
{
    if (!n)
        return 0;
    int32_t *all = arena_array(arena, (size_t)r->n_stop_token_ids + (size_t)n, sizeof *all);
    if (!all)
        return no_memory(err);
    if (r->n_stop_token_ids)
        memcpy(all, r->stop_token_ids, (size_t)r->n_stop_token_ids * sizeof *all);
    memcpy(all + r->n_stop_token_ids, ids, (size_t)n * sizeof *all);
    r->stop_token_ids = all;
    r->n_stop_token_ids += n;
    return 0;
}

static int parse(struct request *r, const char *text, size_t n, const struct request_limits *limits,
                 struct arena *arena, struct err *err,
                 int (*fields)(struct request *, const struct request_limits *, struct arena *,
                               struct err *))
{
    memset(r, 0, sizeof *r);
    r->max_tokens = r->add_special_tokens = -1;
    json_budget_begin(JSON_BUDGET_BYTES);
    int code = json_budget_parse_object(text, n, &r->root, err);
    if (!code)
        code = fields(r, limits, arena, err);
    if (code == ERR_NOMEM && json_budget_spent())
        code = err_set(err, ERR_TOO_LARGE,
                       "Your request needs more memory than the server gives one request.");
    json_budget_end();
    if (code < 0)
        request_free(r);
    return code < 0 ? code : 0;
}

int request_parse_chat(struct request *r, const char *text, size_t n,
                       const struct request_limits *limits, struct arena *arena, struct err *err)
{
    return parse(r, text, n, limits, arena, err, parse_chat_fields);
}

int request_parse_completion(struct request *r, const char *text, size_t n,
                             const struct request_limits *limits, struct arena *arena,
                             struct err *err)
{
    return parse(r, text, n, limits, arena, err, parse_completion_fields);
}

int request_parse_infill(struct request *r, const char *text, size_t n,
                         const struct request_limits *limits, struct arena *arena, struct err *err)
{
    return parse(r, text, n, limits, arena, err, parse_infill_fields);
}

void request_free(struct request *r)
{
    if (!r)
        return;
    json_decref(r->messages);
    json_decref(r->kwargs);
    tools_free(&r->tools);
    json_decref(r->root);
    r->messages = r->kwargs = r->root = NULL;
    r->prompt = NULL;
    r->suffix = NULL;
}
