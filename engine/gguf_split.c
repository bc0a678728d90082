/* gguf_split: the tensors of a GGUF file that may lie in parts (weights_read.h).
 *
 * Part K of N is called NAME-0000K-of-0000N.gguf and says in its metadata: split.no (K - 1),
 * split.count (N) and split.tensors.count (of all parts together), as gguf-split of the ggml
 * project writes them. The first part holds the model's metadata; the others may repeat the
 * architecture. source.c has seen that all files are there; here they must agree. Runs at open, in
 * the caller's thread; owns nothing. */
#include <string.h>

#include "engine/weights_read.h"

enum { COUNT_MAX = 1 << 24 };

struct split {
    int n_parts;
    int64_t n_tensors;  /* stated; -1: not yet */
    const char *stated; /* where */
    const char *arch;   /* of the first part that says; bytes are its file's */
    size_t arch_bytes;
    const char *arch_file;
};

static int expect(const struct gguf *g, const char *file, const char *key, int64_t wanted,
                  const char *why, struct err *err)
{
    int64_t value = 0;
    int found, rc = gguf_int(g, key, 0, COUNT_MAX, &value, &found, err);
    if (rc)
        return rc;
    if (!found)
        return err_set(err, ERR_FORMAT, "%s: key '%s' is missing, although %s", file, key, why);
    if (value != wanted)
        return err_set(err, ERR_FORMAT, "%s: key '%s' is %lld, not %lld: %s", file, key,
                       (long long)value, (long long)wanted, why);
    return 0;
}

static int check_tensors_count(struct split *s, const struct gguf *g, const char *file,
                               struct err *err)
{
    int64_t value = -1;
    int found, rc = gguf_int(g, "split.tensors.count", 0, COUNT_MAX, &value, &found, err);
    if (rc || !found)
        return rc;
    if (s->n_tensors >= 0 && value != s->n_tensors)
        return err_set(err, ERR_FORMAT, "%s: key 'split.tensors.count' is %lld, in %s it is %lld",
                       file, (long long)value, s->stated, (long long)s->n_tensors);
    s->n_tensors = value;
    s->stated = file;
    return 0;
}

static int check_arch(struct split *s, const struct gguf *g, const char *file, struct err *err)
{
    const char *text = NULL;
    size_t size = 0;
    int found, rc = gguf_text(g, "general.architecture", &text, &size, &found, err);
    if (rc || !found)
        return rc;
    if (s->arch && (size != s->arch_bytes || memcmp(text, s->arch, size) != 0))
        return err_set(err, ERR_FORMAT, "%s: key 'general.architecture' is '%.*s', in %s it is "
                       "'%.*s'", file, (int)(size < 64 ? size : 64), text, s->arch_file,
                       (int)(s->arch_bytes < 64 ? s->arch_bytes : 64), s->arch);
    s->arch = text;
    s->arch_bytes = size;
    s->arch_file = file;
    return 0;
}

/* A file whose name is no part's must not be one. */
static int check_whole(const struct gguf *g, const char *file, struct err *err)
{
    int64_t count = 0;
    int found, rc = gguf_int(g, "split.count", 0, COUNT_MAX, &count, &found, err);
    if (!rc && count > 1)
        rc = err_set(err, ERR_FORMAT, "%s: key 'split.count' is %lld, but the file is not called "
                     "NAME-00001-of-%05lld.gguf", file, (long long)count, (long long)count);
    return rc;
}

static int check_part(struct split *s, int no, const struct gguf *g, const char *file,
                      struct err *err)
{
    if (s->n_parts == 1)
        return check_whole(g, file, err);
    int rc = expect(g, file, "split.count", s->n_parts, "so many parts the file's name says",
                    err);
    if (!rc)
        rc = expect(g, file, "split.no", no - 1, "the file's name says so, counted from 1", err);
    if (!rc)
        rc = check_tensors_count(s, g, file, err);
    return rc ? rc : check_arch(s, g, file, err);
}

int gguf_split_read(const struct source *source, struct weights_list *list, struct err *err)
{
    struct split s = {.n_parts = source_n_parts(source), .n_tensors = -1};
    int rc = 0;
    for (int no = 1; !rc && no <= s.n_parts; no++) {
        const struct source_file *file = source_part(source, no);
        struct gguf *g = NULL;
        if (!file)
            return err_set(err, ERR_FORMAT, "%s: part %d of %d is missing",
                           source_gguf(source)->name, no, s.n_parts);
        rc = gguf_open(file, &g, err);
        if (!rc)
            rc = check_part(&s, no, g, file->name, err);
        if (!rc)
            rc = gguf_read(g, list, err);
        gguf_close(g);
    }
    if (!rc && s.n_tensors >= 0 && (uint64_t)s.n_tensors != list->n)
        rc = err_set(err, ERR_FORMAT, "%s: key 'split.tensors.count' is %lld, the %d parts hold "
                     "%zu tensors", s.stated, (long long)s.n_tensors, s.n_parts, list->n);
    return rc;
}
