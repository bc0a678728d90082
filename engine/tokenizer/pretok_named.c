/* pretok_named: GGUF's pre-tokenizer names (tokenizer.ggml.pre) and the patterns that each stands
 * for: those of the models' own tokenizer.json files, as llama.cpp names them. Runs in
 * tokenizer_open. A name that is not here is refused: another pattern would give other tokens. */
#include <string.h>

#include "engine/tokenizer/pretok.h"

enum { PATTERNS_MAX = 6, NAMES_MAX = 14 };

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SIGNS " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define PUNCTUATION "[\\p{P}$+<=>^~|]+"
#define CJK "[\\x{4E00}-\\x{9FA5}\\x{0800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
/* cased letters but Georgian's, which had no case when this pattern was written */
#define CASED "\\s?(?:(?![\\x{10D0}-\\x{10FF}])[\\p{Lu}\\p{Ll}\\p{Lt}])+"
#define WIDE_SIGNS                                                                                 \
    "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+"

static const struct named {
    const char *names[NAMES_MAX];
    const char *patterns[PATTERNS_MAX];
    bool ignore_merges;
} rows[] = {
    {{"gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de",
      "gigachat", "mellum", "modern-bert", "exaone4", "a.x-4.0"},
     {PRETOK_GPT2},
     false},
    {{"trillion", "granite-docling", "roberta-bpe", "jina-v1-en", "jina-v2-code"},
     {PRETOK_GPT2},
     false},
    {{"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
     {CONTRACTIONS "|" WORD "|\\p{N}{1,3}|" SIGNS "|" SPACES},
     true},
    {{"dbrx", "smaug-bpe", "chatglm-bpe", "glm4"},
     {CONTRACTIONS "|" WORD "|\\p{N}{1,3}|" SIGNS "|" SPACES},
     false},
    {{"qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "kormo", "solar-open",
      "grok-2"},
     {CONTRACTIONS "|" WORD "|\\p{N}|" SIGNS "|" SPACES},
     false},
    {{"tekken"},
     {"[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER
      "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES},
     true},
    {{"gpt-4o", "llama4", "kanana2", "minimax-m2"},
     {"[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" CONTRACTIONS "?|[^\\r\\n\\p{L}\\p{N}]?" UPPER
      "+" LOWER "*" CONTRACTIONS "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES},
     false},
    {{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"},
     {"\\p{N}", PRETOK_GPT2},
     false},
    {{"falcon"}, {"[\\p{P}$+<=>^~|`]+", PRETOK_GPT2, "[0-9][0-9][0-9]"}, false},
    {{"deepseek-coder"}, {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK, "\\p{N}"}, false},
    {{"deepseek-llm"}, {"[\\r\\n]", CASED, WIDE_SIGNS, "\\s+$", CJK, "\\p{N}+"}, false},
    {{"deepseek-v3", "hunyuan-dense"},
     {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?"
      "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES},
     false},
    {{"bloom", "poro-chat", "gpt3-finnish"},
     {" ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{0964}\\x{06D4}\\x{060C})]+"},
     false},
    {{"default"}, {PUNCTUATION, PRETOK_GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}, false},
};

int pretok_add_named(struct pretok *p, const char *name, size_t n, bool *ignore_merges,
                     const char *where, struct err *err)
{
    const struct named *row = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (int k = 0; k < NAMES_MAX && rows[i].names[k]; k++)
            if (strlen(rows[i].names[k]) == n && !memcmp(rows[i].names[k], name, n))
                row = &rows[i];
    if (!row)
        return err_set(err, ERR_FORMAT, "%s '%.*s' is not supported", where, n < 40 ? (int)n : 40,
                       name);
    *ignore_merges = row->ignore_merges;
    int code = 0;
    for (int i = 0; i < PATTERNS_MAX && row->patterns[i] && !code; i++)
        code = pretok_add(p, row->patterns[i], strlen(row->patterns[i]), REGEX_RUST,
                          BEHAVIOR_ISOLATED, where, err);
    return code;
}

static bool has_patterns(const struct pretok *p, const struct named *row)
{
    const char *at = p->patterns.data, *end = at + p->patterns.size;
    int n = 0;
    for (; n < PATTERNS_MAX && row->patterns[n]; n++) {
        size_t size = strlen(row->patterns[n]) + 1;
        if (n == p->n || (size_t)(end - at) < size || memcmp(at, row->patterns[n], size) != 0)
            return false;
        at += size;
    }
    return n == p->n && at == end;
}

const char *pretok_name(const struct pretok *p, bool ignore_merges)
{
    for (int i = 0; i < p->n; i++)
        if (p->stages[i].behavior != BEHAVIOR_ISOLATED || p->stages[i].invert ||
            p->stages[i].prefix || !p->stages[i].pattern)
            return NULL;
    const struct named *found = NULL;
    for (size_t i = 0; p->n && i < sizeof rows / sizeof rows[0]; i++)
        if (has_patterns(p, &rows[i]) && (!found || rows[i].ignore_merges == ignore_merges))
            found = &rows[i];
    return found ? found->names[0] : NULL;
}
