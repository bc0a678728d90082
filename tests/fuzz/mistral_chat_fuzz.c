/* mistral_chat: any JSON as a request of Mistral's own encoding, on a vocabulary of single bytes.
 * Input: a byte that picks version and mode, then the request. What is encoded holds only tokens
 * of the vocabulary and begins with <s>; control tokens come from the encoder alone, so there are
 * no more of them than the request has places for; what is refused says why. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/source.h"
#include "engine/template/mistral.h"

static const char *const control[] = {"<unk>",
                                      "<s>",
                                      "</s>",
                                      "[INST]",
                                      "[/INST]",
                                      "[AVAILABLE_TOOLS]",
                                      "[/AVAILABLE_TOOLS]",
                                      "[TOOL_RESULTS]",
                                      "[/TOOL_RESULTS]",
                                      "[TOOL_CALLS]",
                                      "[PREFIX]",
                                      "[SUFFIX]",
                                      "[SYSTEM_PROMPT]",
                                      "[/SYSTEM_PROMPT]",
                                      "[TOOL_CONTENT]",
                                      "[ARGS]",
                                      "[CALL_ID]",
                                      "[THINK]",
                                      "[/THINK]",
                                      "[MODEL_SETTINGS]",
                                      "[/MODEL_SETTINGS]"};
enum { N_CONTROL = sizeof control / sizeof control[0], N_BYTES = 256 };

static void require(int held)
{
    if (!held)
        abort();
}

/* A tekken.json with these control tokens and the 256 bytes, no merges. */
static struct tokenizer *open_bytes(void)
{
    static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct tokenizer *tok = NULL;
    struct source *source = NULL;
    struct err err = {0};
    struct buf text;
    buf_init(&text, 0);
    buf_format(&text,
               "{\"config\":{\"pattern\":\"[a-z]+|[^a-z]\",\"default_vocab_size\":%d,"
               "\"default_num_special_tokens\":%d,\"num_vocab_tokens\":%d,\"version\":\"v15\"},"
               "\"model_settings_builder\":{\"reasoning_effort\":{\"values\":[\"none\",\"high\"],"
               "\"default\":\"none\"}},\"special_tokens\":[",
               N_BYTES + N_CONTROL, N_CONTROL, N_BYTES);
    for (int i = 0; i < N_CONTROL; i++)
        buf_format(&text, "%s{\"rank\":%d,\"token_str\":\"%s\",\"is_control\":true}", i ? "," : "",
                   i, control[i]);
    buf_text(&text, "],\"vocab\":[");
    for (int i = 0; i < N_BYTES; i++)
        buf_format(&text, "%s{\"rank\":%d,\"token_bytes\":\"%c%c==\",\"token_str\":null}",
                   i ? "," : "", i, base64[i >> 2], base64[(i & 3) << 4]);
    buf_text(&text, "]}");
    struct source_file file = {"tekken.json", (const uint8_t *)text.data, text.size};
    require(!text.failed && !source_open_memory("fuzz", &file, 1, &source, &err));
    require(!tokenizer_open(source, NULL, 0, NULL, &tok, &err));
    source_close(source);
    buf_free(&text);
    return tok;
}

/* How many control tokens the encoder may write for what the request holds. */
static size_t places(const json_t *json)
{
    size_t n = 4, i;
    const char *key;
    json_t *item;
    json_array_foreach(json, i, item) n += places(item);
    json_object_foreach((json_t *)json, key, item) n += places(item);
    return n;
}

static void check(const struct token_list *ids, const json_t *request)
{
    size_t n = 0;
    require(ids->n > 0 && ids->ids[0] == 1);
    for (size_t i = 0; i < ids->n; i++) {
        require(ids->ids[i] >= 0 && ids->ids[i] < N_CONTROL + N_BYTES && ids->ids[i] != 0);
        n += ids->ids[i] < N_CONTROL;
    }
    require(n <= 8 + places(request));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int versions[] = {1, 2, 3, 7, 11, 13, 15, 5};
    static const enum mistral_mode modes[] = {MISTRAL_SERVING, MISTRAL_FINETUNING, MISTRAL_TEST,
                                              MISTRAL_TEST};
    static struct tokenizer *tok; /* for the life of the process: opening is dear */
    if (!tok)
        tok = open_bytes();
    json_t *request = size ? json_loadb((const char *)data + 1, size - 1, 0, NULL) : NULL;
    if (!json_is_object(request)) {
        json_decref(request);
        return 0;
    }
    int version = versions[data[0] & 7];
    struct token_list ids = {0}, again = {0};
    const char *kind = NULL;
    struct err err = {0};
    int code =
        mistral_encode_chat(tok, version, modes[data[0] >> 3 & 3], request, &ids, &kind, &err);
    if (!code)
        check(&ids, request);
    else
        require(code == ERR_VALUE && kind && (err.text[0] || !strcmp(kind, "TokenizerException")));
    require(code == mistral_encode_chat(tok, version, modes[data[0] >> 3 & 3], request, &again,
                                        &kind, NULL));
    require(code || (ids.n == again.n && !memcmp(ids.ids, again.ids, ids.n * sizeof *ids.ids)));
    token_list_free(&ids);
    token_list_free(&again);
    json_decref(request);
    return 0;
}
