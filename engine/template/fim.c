/* fim: the table of fill-in-the-middle families, and their prompts (fim.h). No state.
 *
 * Sources: the "FIM" encoding of mistral-common (suffix first, always behind BOS); Bavarian et al.
 * 2022 for the two orders; Code Llama (Roziere et al. 2023, section 2.3), StarCoder (Li et al.
 * 2023), and the model cards of Qwen2.5-Coder, CodeGemma and DeepSeek-Coder for the tokens. */
#include "engine/template/fim.h"

#include <string.h>

#include "engine/base/buf.h"

struct fim_row {
    const char *family;
    const char *prefix, *suffix, *middle; /* middle NULL: the prefix is last, what follows it is
                                           * the middle */
    bool suffix_first;
    bool always_bos;  /* whatever the tokenizer's own policy is */
    bool control;     /* the tokens count only where the tokenizer calls them special */
    bool joins;       /* the suffix is encoded as the continuation of a text */
    const char *ends[FIM_ENDS_MAX];
};

static const struct fim_row rows[] = {
    {.family = "mistral",
     .prefix = "[PREFIX]",
     .suffix = "[SUFFIX]",
     .suffix_first = true,
     .always_bos = true,
     .control = true,
     .joins = true},
    {.family = "qwen", /* CodeGemma has the same names */
     .prefix = "<|fim_prefix|>",
     .suffix = "<|fim_suffix|>",
     .middle = "<|fim_middle|>",
     .ends = {"<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
              "<|file_separator|>"}},
    {.family = "starcoder",
     .prefix = "<fim_prefix>",
     .suffix = "<fim_suffix>",
     .middle = "<fim_middle>",
     .ends = {"<|endoftext|>", "<fim_pad>", "<file_sep>", "<repo_name>", "<reponame>"}},
    {.family = "santacoder",
     .prefix = "<fim-prefix>",
     .suffix = "<fim-suffix>",
     .middle = "<fim-middle>",
     .ends = {"<|endoftext|>", "<fim-pad>"}},
    {.family = "deepseek",
     .prefix = "<\xef\xbd\x9c" "fim\xe2\x96\x81" "begin\xef\xbd\x9c>",
     .suffix = "<\xef\xbd\x9c" "fim\xe2\x96\x81" "hole\xef\xbd\x9c>",
     .middle = "<\xef\xbd\x9c" "fim\xe2\x96\x81" "end\xef\xbd\x9c>"},
    {.family = "codellama",
     .prefix = "\xe2\x96\x81<PRE>",
     .suffix = "\xe2\x96\x81<SUF>",
     .middle = "\xe2\x96\x81<MID>",
     .joins = true,
     .ends = {"\xe2\x96\x81<EOT>"}},
};

static int32_t find(const struct tokenizer *t, const struct fim_row *row, const char *text)
{
    int32_t id = text ? tokenizer_find(t, text, strlen(text)) : -1;
    return id >= 0 && row->control && !tokenizer_is_special(t, id) ? -1 : id;
}

bool fim_find(const struct tokenizer *t, struct fim *out)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct fim_row *row = &rows[i];
        *out = (struct fim){.row = row, .prefix = find(t, row, row->prefix),
                            .suffix = find(t, row, row->suffix),
                            .middle = find(t, row, row->middle)};
        if (out->prefix < 0 || out->suffix < 0 || (row->middle && out->middle < 0))
            continue;
        for (int j = 0; j < FIM_ENDS_MAX && row->ends[j]; j++) {
            int32_t id = find(t, row, row->ends[j]);
            if (id >= 0)
                out->ends[out->n_ends++] = id;
        }
        return true;
    }
    *out = (struct fim){.prefix = -1, .suffix = -1, .middle = -1};
    return false;
}

const char *fim_family(const struct fim *f)
{
    return f->row->family;
}

/* A text that goes on from another: sentencepiece would put a space before its first word. It is
 * encoded behind a character that merges with nothing, whose tokens are then left out. */
static int encode_joined(const struct tokenizer *t, const char *text, size_t n,
                         struct token_list *out, struct err *err)
{
    static const char mark[] = "\xe2\x98\xba"; /* U+263A */
    struct token_list alone = {0}, both = {0};
    struct buf joined;
    buf_init(&joined, 0);
    buf_add(&joined, mark, sizeof mark - 1);
    buf_add(&joined, text, n);
    int code = joined.failed;
    if (code)
        err_set(err, code, "out of memory while encoding a suffix");
    if (!code)
        code = tokenizer_encode(t, mark, sizeof mark - 1, false, NULL, 0, &alone, err);
    if (!code)
        code = tokenizer_encode(t, joined.data, joined.size, false, NULL, 0, &both, err);
    for (size_t i = alone.n; !code && i < both.n; i++)
        if (token_list_add(out, both.ids[i]))
            code = err_set(err, ERR_NOMEM, "out of memory while encoding a suffix");
    token_list_free(&alone);
    token_list_free(&both);
    buf_free(&joined);
    return code;
}

static int add(struct token_list *out, int32_t id, struct err *err)
{
    if (id < 0 || !token_list_add(out, id))
        return 0;
    return err_set(err, ERR_NOMEM, "out of memory while encoding a prompt");
}

int fim_encode(const struct tokenizer *t, const struct fim *f, const char *prefix, size_t n_prefix,
               const char *suffix, size_t n_suffix, struct token_list *out, struct err *err)
{
    const struct fim_row *row = f->row;
    int code = row->always_bos || tokenizer_adds_bos(t) ? add(out, tokenizer_bos(t), err) : 0;
    for (int part = 0; part < 2 && !code; part++) {
        bool is_suffix = (part == 0) == row->suffix_first;
        code = add(out, is_suffix ? f->suffix : f->prefix, err);
        if (code)
            break;
        if (!is_suffix)
            code = tokenizer_encode(t, prefix, n_prefix, false, NULL, 0, out, err);
        else if (row->joins && n_suffix)
            code = encode_joined(t, suffix, n_suffix, out, err);
        else
            code = tokenizer_encode(t, suffix, n_suffix, false, NULL, 0, out, err);
    }
    return code ? code : add(out, f->middle, err);
}
