/* request_refuse: THE LIST of fields that are known, change what a client gets back, and can not be
 * honoured yet: they are refused by name instead of being silently ignored. Pure functions. */
#include <string.h>

#include "server/field.h"
#include "server/request.h"

enum refuse_when {
    REFUSE_SET,    /* any value but null, false, "", [] and {} */
    REFUSE_STRING, /* any non-empty string; other kinds are ignored */
};

struct refuse_row {
    const char *name;
    enum refuse_when when;
};

/* of both APIs */
static const struct refuse_row refuse_shared[] = {
    {"structured_outputs", REFUSE_SET},
    {"guided_json", REFUSE_SET},
    {"guided_regex", REFUSE_SET},
    {"guided_choice", REFUSE_SET},
    {"guided_grammar", REFUSE_SET},
    {"grammar", REFUSE_STRING},
    {"json_schema", REFUSE_SET},
    {"use_beam_search", REFUSE_SET},
    {"allowed_token_ids", REFUSE_SET},
    {"bad_words", REFUSE_SET},
    {"logprob_token_ids", REFUSE_SET},
    {"prompt_logprobs", REFUSE_SET},
    {"truncate_prompt_tokens", REFUSE_SET},
};

static const struct refuse_row refuse_chat[] = {
    {"chat_template", REFUSE_SET},
    {"documents", REFUSE_SET},
    {"echo", REFUSE_SET},
};

static const struct refuse_row refuse_completion[] = {
    {"prompt_embeds", REFUSE_SET},
};

static bool is_set(const json_t *value, enum refuse_when when)
{
    if (json_is_string(value))
        return json_string_length(value) > 0;
    if (when == REFUSE_STRING)
        return false;
    if (json_is_array(value))
        return json_array_size(value) > 0;
    if (json_is_object(value))
        return json_object_size(value) > 0;
    return value && !json_is_false(value);
}

static int refuse_rows(const json_t *root, const struct refuse_row *rows, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (is_set(field_get(root, rows[i].name), rows[i].when))
            return err_param(err, ERR_UNSUPPORTED_PARAM, rows[i].name,
                             "Unsupported parameter: '%s' is not supported by this server.",
                             rows[i].name);
    return 0;
}

static int check_response_format(const json_t *root, struct err *err)
{
    const json_t *format = NULL;
    int code = field_object(root, "response_format", &format, err);
    if (code <= 0)
        return code;
    const json_t *type = field_get(format, "type");
    if (!type)
        return err_param(err, ERR_MISSING, "response_format.type",
                         "Missing required parameter: 'response_format.type'.");
    if (!json_is_string(type))
        return field_type_error(err, "response_format.type", "a string", type);
    const char *name = field_word(type);
    if (!strcmp(name, "text"))
        return 0;
    if (!strcmp(name, "json_object") || !strcmp(name, "json_schema"))
        return err_param(err, ERR_UNSUPPORTED_VALUE, "response_format.type",
                         "Unsupported value: 'response_format.type' '%s' needs constrained "
                         "decoding; this server does not constrain its output yet. Leave "
                         "'response_format' out, ask for JSON in the messages, and check the "
                         "answer.",
                         name);
    return err_param(err, ERR_VALUE, "response_format.type",
                     "Invalid 'response_format.type': expected 'text', 'json_object' or "
                     "'json_schema'.");
}

static int check_modalities(const json_t *root, struct err *err)
{
    const json_t *modalities = NULL;
    int code = field_array(root, "modalities", &modalities, err);
    if (code < 0)
        return code;
    for (size_t i = 0; i < json_array_size(modalities); i++) {
        const json_t *one = json_array_get(modalities, i);
        if (!json_is_string(one))
            return field_type_error(err, "modalities", "an array of strings", one);
        if (strcmp(field_word(one), "text"))
            return err_param(
                err, ERR_UNSUPPORTED_VALUE, "modalities",
                "Unsupported value: this server answers in the modality 'text' alone.");
    }
    return 0;
}

int request_refuse_chat(const json_t *root, struct err *err)
{
    int code;
    if ((code = check_response_format(root, err)) || (code = check_modalities(root, err)) ||
        (code =
             refuse_rows(root, refuse_shared, sizeof refuse_shared / sizeof refuse_shared[0], err)))
        return code;
    return refuse_rows(root, refuse_chat, sizeof refuse_chat / sizeof refuse_chat[0], err);
}

int request_refuse_completion(const json_t *root, struct err *err)
{
    int code;
    if ((code = check_response_format(root, err)) ||
        (code =
             refuse_rows(root, refuse_shared, sizeof refuse_shared / sizeof refuse_shared[0], err)))
        return code;
    return refuse_rows(root, refuse_completion,
                       sizeof refuse_completion / sizeof refuse_completion[0], err);
}

int request_no_model(struct err *err, const char *name, const char *served)
{
    return err_param(err, ERR_NO_MODEL, "model",
                     "The model '%.256s' does not exist; this server serves '%.128s'.", name,
                     served);
}
