/* open: finds the tokenizer file of a model and hands it to its reader; and opens a tokenizer from
 * a path, without a model. Runs in one thread; what it maps it unmaps before it returns, for
 * readers copy what they keep.
 *
 * Which file: tokenizer.json, else tekken.json, else the sentencepiece model (tokenizer.model, or
 * a name ending in .model.vN as Mistral names them), else the vocabulary of the GGUF. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/tokenizer/load.h"
#include "engine/tokenizer/unicode.h"

enum { VERSION_MAX = 99 };

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* The N of a name that ends in ".model.vN" or ".model.vNmM" (M: a multimodal one); 0: it does not.
 */
static int model_version(const char *name)
{
    const char *at = NULL;
    for (const char *hit = name; (hit = strstr(hit, ".model.v")); hit++)
        at = hit + strlen(".model.v");
    if (!at || *at < '1' || *at > '9')
        return 0;
    char *end;
    long version = strtol(at, &end, 10);
    if (*end == 'm' && end[1] >= '0' && end[1] <= '9')
        strtol(end + 1, &end, 10);
    return *end || version > VERSION_MAX ? 0 : (int)version;
}

/* tokenizer.model, or the file of the highest .model.vN. */
static const struct source_file *find_spm(const struct source *source)
{
    const struct source_file *best = source_find(source, "tokenizer.model");
    int version = 0;
    for (size_t i = 0; !best && i < source_count(source); i++)
        if (model_version(source_at(source, i)->name) > version)
            version = model_version(source_at(source, i)->name);
    for (size_t i = 0; !best && version && i < source_count(source); i++)
        if (model_version(source_at(source, i)->name) == version)
            best = source_at(source, i);
    return best;
}

/* What Mistral's own encoding must know: the file says it (tekken.json, the name .model.vN, here of
 * any file beside the one that is read), else the control tokens that each version brought do. */
static int find_mistral_version(const struct tokenizer *t, const struct source *source)
{
    static const struct {
        const char *token;
        int version;
    } signs[] = {
        {"[MODEL_SETTINGS]", 15}, {"[THINK]", 13},     {"[ARGS]", 11}, {"[SYSTEM_PROMPT]", 7},
        {"[control_8]", 2},       {"[TOOL_CALLS]", 3}, {"[INST]", 2}};
    int version = t->mistral_version;
    for (size_t i = 0; i < source_count(source) && !t->mistral_version; i++)
        if (model_version(source_at(source, i)->name) > version)
            version = model_version(source_at(source, i)->name);
    for (size_t i = 0; !version && i < sizeof signs / sizeof signs[0]; i++) {
        int32_t id = tokenizer_find(t, signs[i].token, strlen(signs[i].token));
        if (id >= 0 && tokenizer_is_special(t, id))
            version = signs[i].version;
    }
    return version ? version : 1;
}

static int load(struct tokenizer *t, const struct source *source, const struct gguf *gguf,
                int vocab_size, const char *prefer, struct err *err)
{
    const struct source_file *json = source_find(source, "tokenizer.json");
    const struct source_file *tekken = source_find(source, "tekken.json");
    const struct source_file *spm = find_spm(source);
    bool want_spm = prefer && !strcmp(prefer, "spm"),
         want_tekken = prefer && !strcmp(prefer, "tekken");
    if (prefer && !want_spm && !want_tekken && strcmp(prefer, "json") != 0)
        return err_set(err, ERR_USAGE, "tokenizer '%.40s' is none of json, tekken and spm", prefer);
    if (!json && !tekken && !spm && !gguf)
        return err_set(err, ERR_FORMAT,
                       "%s: there is no tokenizer.json, tekken.json, tokenizer.model or GGUF "
                       "vocabulary",
                       source_path(source));
    if ((want_spm && spm) || (want_tekken && tekken))
        json = NULL;
    if (want_spm && spm)
        tekken = NULL;
    int code;
    if (json)
        code = tokenizer_load_json(t, json, vocab_size, err);
    else if (tekken)
        code = tokenizer_load_tekken(t, tekken, vocab_size, err);
    else if (spm)
        code = tokenizer_load_spm(t, source, spm, vocab_size, err);
    else
        return tokenizer_load_gguf(t, gguf, vocab_size, err);
    return code ? code : tokenizer_load_config(t, source, err);
}

/* Whether a token stands alone in a text is a question to the Unicode database. */
static int check_single_words(const struct tokenizer *t, struct err *err)
{
    for (int i = 0; !unicode_here() && i < t->vocab.size_max; i++)
        if (t->vocab.tokens[i].single_word)
            return err_set(err, ERR_FORMAT,
                           "token %d is a single_word: this needs a build with utf8proc", i);
    return 0;
}

bool tokenizer_exists(const struct source *source, const struct gguf *gguf)
{
    return gguf || source_find(source, "tokenizer.json") || source_find(source, "tekken.json") ||
           find_spm(source);
}

int tokenizer_open(const struct source *source, const struct gguf *gguf, int vocab_size,
                   const char *prefer, struct tokenizer **out, struct err *err)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t)
        return err_set(err, ERR_NOMEM, "out of memory for the tokenizer");
    t->bos = t->eos = -1;
    int code = load(t, source, gguf, vocab_size, prefer, err);
    if (!code)
        code = check_single_words(t, err);
    if (code) {
        tokenizer_close(t);
        return code;
    }
    t->mistral_version = find_mistral_version(t, source);
    *out = t;
    return 0;
}

/* ---- from a path */

enum { FILES_MAX = 16, NAME_MAX_BYTES = 96 };

struct mapping {
    struct source_file files[FILES_MAX];
    char names[FILES_MAX][NAME_MAX_BYTES];
    size_t n;
};

static void unmap_all(struct mapping *m)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->files[i].size)
            munmap((void *)m->files[i].data, m->files[i].size);
}

/* Map folder/name (or `name` alone) under the name `as`. */
static int map_file(struct mapping *m, int folder, const char *name, const char *as,
                    struct err *err)
{
    static const uint8_t nothing[1];
    struct stat status;
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status)) {
        int code = err_set(err, ERR_IO, "%s: %s", name, strerror(errno));
        if (fd >= 0)
            close(fd);
        return code;
    }
    int code = 0;
    void *data = (void *)nothing;
    size_t size = (size_t)status.st_size;
    if (!S_ISREG(status.st_mode) || m->n == FILES_MAX)
        code = err_set(err, ERR_FORMAT, "%s: not a regular file", name);
    else if (size && (data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        code = err_set(err, ERR_IO, "%s: cannot map: %s", name, strerror(errno));
    if (!code) {
        snprintf(m->names[m->n], NAME_MAX_BYTES, "%s", as);
        m->files[m->n] = (struct source_file){.name = m->names[m->n], .data = data, .size = size};
        m->n++;
    }
    close(fd);
    return code;
}

/* One file, under the name that says its kind, known by its contents: {...} is JSON, and Mistral's
 * tekken.json has a "token_bytes" early on; GGUF has its magic; anything else is taken for a
 * sentencepiece model. */
static int open_file(const char *path, struct mapping *m, struct err *err)
{
    enum { LOOK = 4096 };
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    int code = map_file(m, AT_FDCWD, path, model_version(base) ? base : "tokenizer.model", err);
    if (code)
        return code;
    const struct source_file *file = &m->files[0];
    size_t at = 0, look = file->size < LOOK ? file->size : LOOK;
    while (at < file->size && memchr(" \t\r\n", file->data[at], 4))
        at++;
    if (file->size >= 4 && !memcmp(file->data, "GGUF", 4))
        snprintf(m->names[0], NAME_MAX_BYTES, "model.gguf");
    else if ((at < file->size && file->data[at] == '{') || ends_with(base, ".json"))
        snprintf(m->names[0], NAME_MAX_BYTES, "%s",
                 memmem(file->data, look, "\"token_bytes\"", 13) || !strcmp(base, "tekken.json")
                     ? "tekken.json"
                     : "tokenizer.json");
    return 0;
}

static bool is_wanted(const char *name)
{
    static const char *const names[] = {"tokenizer.json", "tekken.json", "tokenizer.model",
                                        "tokenizer_config.json", "special_tokens_map.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(name, names[i]))
            return true;
    return strlen(name) < NAME_MAX_BYTES && (model_version(name) || ends_with(name, ".gguf"));
}

static int open_folder(const char *path, struct mapping *m, struct err *err)
{
    DIR *folder = opendir(path);
    int code = 0;
    if (!folder)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    for (struct dirent *entry; !code && (entry = readdir(folder));)
        if (is_wanted(entry->d_name))
            code = map_file(m, dirfd(folder), entry->d_name, entry->d_name, err);
    closedir(folder);
    return code;
}

int tokenizer_open_path(const char *path, int vocab_size, const char *prefer,
                        struct tokenizer **out, struct err *err)
{
    struct mapping m = {.n = 0};
    struct gguf *gguf = NULL;
    struct source *source = NULL;
    struct stat status;
    *out = NULL;
    if (stat(path, &status))
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    int code = S_ISDIR(status.st_mode) ? open_folder(path, &m, err) : open_file(path, &m, err);
    if (!code)
        code = source_open_memory(path, m.files, m.n, &source, err);
    if (!code && source_gguf(source))
        code = gguf_open(source_gguf(source), &gguf, err);
    if (!code)
        code = tokenizer_open(source, gguf, vocab_size, prefer, out, err);
    source_close(source);
    gguf_close(gguf);
    unmap_all(&m);
    return code;
}
