/* cmd_tokenize: `sirocco tokenize`: texts and requests of many lines to token ids. One thread; no
 * state beyond a call. */
#include <stdlib.h>
#include <string.h>

#include "engine/template/mistral.h"
#include "server/cmd.h"

const char cmd_tokenize_usage[] =
    "usage: sirocco tokenize --tokenizer PATH [--mistral-version vN] --jsonl\n\n"
    "Tokens of texts and chats: each line {\"text\": ...} or {\"request\": {...}, \"mode\": ...}\n"
    "of standard input becomes a line {\"token_ids\": [...], \"text\": ...} or {\"error\": KIND,\n"
    "\"message\": ...}. Modes: serving, test, finetuning, fim.\n\n"
    "  --tokenizer PATH        a tokenizer file, a GGUF, or a folder that holds one\n"
    "  --mistral-version vN    the version of Mistral's encoding (what the tokenizer shows)\n";

struct tokenize_run {
    struct tokenizer *tok;
    int version;
};

/* Pieces as the vocabulary has them: with U+2581 and <0x0A>, or as bytes. */
static void write_ids(const struct tokenizer *tok, const struct token_list *ids, struct buf *out)
{
    struct buf text;
    buf_init(&text, 0);
    buf_text(out, "{\"token_ids\":[");
    for (size_t i = 0; i < ids->n; i++) {
        buf_format(out, "%s%d", i ? "," : "", ids->ids[i]);
        if (tokenizer_is_byte_level(tok)) {
            size_t size;
            const char *piece = tokenizer_piece(tok, ids->ids[i], true, &size);
            buf_add(&text, piece, size);
        } else {
            buf_text(&text, tokenizer_token_text(tok, ids->ids[i]));
        }
    }
    buf_text(out, "],\"text\":");
    buf_json_string(out, text.data ? text.data : "", text.size);
    buf_byte(out, '}');
    if (text.failed)
        out->failed = text.failed;
    buf_free(&text);
}

static int encode_request(const struct tokenize_run *run, const json_t *request, const char *mode,
                          struct token_list *ids, const char **kind, struct err *err)
{
    static const char *const modes[] = {[MISTRAL_SERVING] = "serving",
                                        [MISTRAL_FINETUNING] = "finetuning",
                                        [MISTRAL_TEST] = "test"};
    if (mode && strcmp(mode, "fim") == 0) {
        const json_t *prompt = json_object_get(request, "prompt");
        const json_t *suffix = json_object_get(request, "suffix");
        if (json_is_string(prompt))
            return mistral_encode_fim(run->tok, run->version, json_string_value(prompt),
                                      json_string_length(prompt), json_string_value(suffix),
                                      json_string_length(suffix), ids, kind, err);
        *kind = "ValidationError";
        return err_set(err, ERR_VALUE, "prompt must be a text");
    }
    for (int i = 0; i < (int)(sizeof modes / sizeof modes[0]); i++)
        if (mode && strcmp(mode, modes[i]) == 0)
            return mistral_encode_chat(run->tok, run->version, (enum mistral_mode)i, request, ids,
                                       kind, err);
    *kind = "InvalidLine";
    return err_set(err, ERR_VALUE, "mode is none of serving, test, finetuning, fim");
}

static int tokenize_line(void *user, const json_t *line, struct buf *out, struct err *err)
{
    const struct tokenize_run *run = user;
    const json_t *text = json_object_get(line, "text"), *request = json_object_get(line, "request");
    const char *kind = NULL;
    struct token_list ids = {0};
    struct err failed = {0};
    int rc;
    if (json_is_string(text)) {
        rc = tokenizer_encode(run->tok, json_string_value(text), json_string_length(text), false,
                              NULL, 0, &ids, &failed);
    } else if (json_is_object(request)) {
        rc = encode_request(run, request, json_string_value(json_object_get(line, "mode")), &ids,
                            &kind, &failed);
    } else {
        kind = "InvalidLine";
        rc = err_set(&failed, ERR_VALUE, "neither a text nor a request");
    }
    if (!rc)
        write_ids(run->tok, &ids, out);
    else if (rc == ERR_VALUE && kind)
        cmd_error(out, kind, failed.text);
    else
        err_set(err, rc, "%s", failed.text);
    token_list_free(&ids);
    return rc == ERR_VALUE && kind ? 0 : rc;
}

static int read_version(const char *text, int *version, struct err *err)
{
    char *end = NULL;
    long value = text && *text == 'v' ? strtol(text + 1, &end, 10) : 0;
    if (text && (!end || *end || value < 1 || value > 99 || !mistral_is_version((int)value)))
        return err_set(err, ERR_USAGE,
                       "tokenize: --mistral-version is one of v1, v2, v3, v7, v11, v13, v15");
    *version = (int)value;
    return 0;
}

int cmd_tokenize(int argc, char **argv, FILE *in, FILE *out, struct err *err)
{
    const char *path = NULL, *version = NULL;
    bool jsonl = false;
    const struct cmd_option options[] = {{"--tokenizer", &path, NULL},
                                         {"--mistral-version", &version, NULL},
                                         {"--jsonl", NULL, &jsonl}};
    struct tokenize_run run = {0};
    int rc = cmd_options(argc, argv, options, sizeof options / sizeof options[0], err);
    if (!rc && (!path || !jsonl))
        rc = err_set(err, ERR_USAGE,
                     "usage: sirocco tokenize --tokenizer PATH [--mistral-version vN] --jsonl");
    if (!rc)
        rc = read_version(version, &run.version, err);
    if (!rc)
        rc = tokenizer_open_path(path, 0, NULL, &run.tok, err);
    if (rc)
        return rc;
    if (!run.version)
        run.version = tokenizer_mistral_version(run.tok);
    rc = cmd_lines(in, out, tokenize_line, &run, err);
    tokenizer_close(run.tok);
    return rc;
}
