/* source: the files of one model (source.h), mapped or borrowed.
 *
 * Owns the mappings and the names. A folder is read once, at open: its regular files (links are
 * followed; names that start with a dot are left out) are mapped read-only and private, so that a
 * file replaced by rename keeps serving its old contents. No page is read before it is needed.
 * Immutable after open; any thread. */
#include "engine/source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES_MAX = 10000, DIGITS = 5, PART_NAME_BYTES = 256 };

struct source {
    char *path, *name;
    struct source_file *files; /* sorted by name when mapped */
    size_t n_files, capacity;
    const struct source_file *gguf; /* of a split file part 1 */
    uint64_t identity;
    bool mapped; /* files, their names and bytes are owned */
};

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static bool read_digits(const char *text, int *value)
{
    *value = 0;
    for (int i = 0; i < DIGITS; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *value = 10 * *value + text[i] - '0';
    }
    return true;
}

/* -0000K-of-0000N.gguf, as gguf-split of the ggml project names parts */
static const char part_of[] = "-of-", part_end[] = ".gguf";
enum { PART_END_BYTES = 1 + DIGITS + (sizeof part_of - 1) + DIGITS + (sizeof part_end - 1) };

bool source_split(const char *name, int *no, int *n_parts)
{
    size_t n = strlen(name);
    if (n < PART_END_BYTES)
        return false;
    const char *at = name + n - PART_END_BYTES, *of = at + 1 + DIGITS, *total = of + 4;
    return *at == '-' && read_digits(at + 1, no) && !memcmp(of, part_of, sizeof part_of - 1) &&
           read_digits(total, n_parts) && !strcmp(total + DIGITS, part_end) && *no >= 1 &&
           *no <= *n_parts;
}

/* The name of part `no` of the split file that one_part is a part of. */
static void part_name(char name[PART_NAME_BYTES], const char *one_part, int no)
{
    size_t n = strlen(one_part) - PART_END_BYTES;
    snprintf(name, PART_NAME_BYTES, "%.*s-%05d%s", (int)n, one_part, no,
             one_part + n + 1 + DIGITS);
}

/* The last component of path, without slashes at its end; of "." and the like, what it stands
 * for. A lone file loses its .gguf, a part what makes it one. NULL: out of memory. */
static char *name_of(const char *path, bool is_file)
{
    char real[PATH_MAX];
    int no, n_parts;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t start = n;
    while (start > 0 && path[start - 1] != '/')
        start--;
    bool dots = n - start <= 2 && strspn(path + start, ".") >= n - start;
    if (dots && realpath(path, real)) {
        const char *slash = strrchr(real, '/');
        return strdup(slash && slash[1] ? slash + 1 : "model");
    }
    if (start == n || dots)
        return strdup("model");
    if (is_file && n - start > PART_END_BYTES && source_split(path, &no, &n_parts))
        n -= PART_END_BYTES;
    else if (is_file && n - start > 5 && !strncmp(path + n - 5, ".gguf", 5))
        n -= 5;
    return strndup(path + start, n - start);
}

/* What tells a file from one that was put in its place. */
static uint64_t identity_of(const char *name, const struct stat *status)
{
    const uint64_t parts[] = {(uint64_t)status->st_size, (uint64_t)status->st_dev,
                              (uint64_t)status->st_ino,
                              (uint64_t)status->st_mtim.tv_sec, (uint64_t)status->st_mtim.tv_nsec};
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 0x100000001b3u;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        hash = (hash ^ parts[i] ^ parts[i] >> 32) * 0x9e3779b97f4a7c15u;
    return hash;
}

/* Map one open regular file and append it. */
static int add_file(struct source *s, int fd, const char *name, const struct stat *status,
                    struct err *err)
{
    size_t size = (size_t)status->st_size;
    static const uint8_t nothing[1];
    if (s->n_files == s->capacity) {
        size_t capacity = s->capacity ? 2 * s->capacity : 16;
        struct source_file *files = realloc(s->files, capacity * sizeof *files);
        if (!files)
            return err_set(err, ERR_NOMEM, "%s: out of memory", s->path);
        s->files = files;
        s->capacity = capacity;
    }
    struct source_file file = {.name = strdup(name), .data = nothing, .size = size};
    if (!file.name)
        return err_set(err, ERR_NOMEM, "%s: out of memory", s->path);
    if (size) {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            free((char *)file.name);
            return err_set(err, ERR_IO, "%s: %s: cannot map: %s", s->path, name, strerror(errno));
        }
        file.data = data;
    }
    s->files[s->n_files++] = file;
    if (ends_with(name, ".safetensors") || ends_with(name, ".gguf"))
        s->identity += identity_of(name, status); /* whatever the order */
    return 0;
}

/* Open `name` below the folder fd and add it when it is a regular file. */
static int add_entry(struct source *s, int folder, const char *name, struct err *err)
{
    struct stat status;
    if (fstatat(folder, name, &status, 0)) {
        if (errno == ENOENT) /* a link to nothing: reported when something needs the file */
            return 0;
        return err_set(err, ERR_IO, "%s/%s: %s", s->path, name, strerror(errno));
    }
    if (!S_ISREG(status.st_mode))
        return 0;
    if (s->n_files >= FILES_MAX)
        return err_set(err, ERR_FORMAT, "%s: more than %d files", s->path, FILES_MAX);
    /* non-blocking: the name may have become a pipe since */
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status)) {
        int rc = err_set(err, ERR_IO, "%s/%s: %s", s->path, name, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    int rc = S_ISREG(status.st_mode) ? add_file(s, fd, name, &status, err) : 0;
    close(fd);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct source_file *)a)->name, ((const struct source_file *)b)->name);
}

static bool is_described(const struct source *s)
{
    return source_find(s, "config.json") || source_find(s, "params.json");
}

/* Sets s->gguf. All .gguf files must be one, or the parts of one. */
static int choose_gguf(struct source *s, size_t n_gguf, const struct source_file *some,
                       struct err *err)
{
    char name[PART_NAME_BYTES];
    int no, n_parts;
    s->gguf = some;
    if (!source_split(some->name, &no, &n_parts))
        return n_gguf == 1 ? 0
                           : err_set(err, ERR_FORMAT, "%s: %zu .gguf files and no config.json; "
                                     "name one of them", s->path, n_gguf);
    for (int i = 1; i <= n_parts; i++) {
        part_name(name, some->name, i);
        const struct source_file *part = source_find(s, name);
        if (!part)
            return err_set(err, ERR_FORMAT, "%s: part %d of %d, '%s', is missing", s->path, i,
                           n_parts, name);
        s->gguf = i == 1 ? part : s->gguf;
    }
    if (n_gguf != (size_t)n_parts)
        return err_set(err, ERR_FORMAT, "%s: %zu .gguf files, of which '%s' says %d parts are one; "
                       "name one of them", s->path, n_gguf, some->name, n_parts);
    return 0;
}

/* A folder of a model holds config.json or params.json, or one .gguf file, or all its parts. */
static int check_folder(struct source *s, struct err *err)
{
    const struct source_file *some = NULL;
    size_t n_gguf = 0;
    if (is_described(s))
        return 0;
    for (size_t i = 0; i < s->n_files; i++) {
        if (ends_with(s->files[i].name, ".gguf")) {
            some = some ? some : &s->files[i];
            n_gguf++;
        }
    }
    if (some)
        return choose_gguf(s, n_gguf, some, err);
    return err_set(err, ERR_FORMAT,
                   "%s: not a model folder: it holds neither config.json nor params.json nor a "
                   ".gguf file",
                   s->path);
}

static int open_folder(struct source *s, int fd, struct err *err)
{
    int rc = 0;
    int copy = dup(fd);
    DIR *folder = copy < 0 ? NULL : fdopendir(copy);
    if (!folder) {
        rc = err_set(err, ERR_IO, "%s: %s", s->path, strerror(errno));
        if (copy >= 0)
            close(copy);
        return rc;
    }
    errno = 0;
    for (struct dirent *entry; !rc && (entry = readdir(folder)); errno = 0) {
        if (entry->d_name[0] != '.')
            rc = add_entry(s, fd, entry->d_name, err);
    }
    if (!rc && errno)
        rc = err_set(err, ERR_IO, "%s: %s", s->path, strerror(errno));
    closedir(folder);
    if (rc)
        return rc;
    if (s->n_files)
        qsort(s->files, s->n_files, sizeof *s->files, by_name);
    return check_folder(s, err);
}

/* The other parts of the split file whose part `no` is open; sets s->gguf. */
static int add_parts(struct source *s, const char *base, int no, int n_parts, struct err *err)
{
    char name[PART_NAME_BYTES];
    int rc = 0;
    char *folder = strndup(s->path, (size_t)(base - s->path));
    int fd = folder ? open(*folder ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0)
        rc = err_set(err, folder ? ERR_IO : ERR_NOMEM, "%s: %s", s->path, strerror(errno));
    for (int i = 1; !rc && i <= n_parts; i++) {
        part_name(name, base, i);
        rc = i == no ? 0 : add_entry(s, fd, name, err);
    }
    if (!rc && s->n_files)
        qsort(s->files, s->n_files, sizeof *s->files, by_name);
    if (!rc)
        rc = choose_gguf(s, s->n_files, &s->files[0], err);
    if (fd >= 0)
        close(fd);
    free(folder);
    return rc;
}

static int open_file(struct source *s, int fd, const struct stat *status, struct err *err)
{
    int no, n_parts;
    const char *slash = strrchr(s->path, '/');
    const char *base = slash ? slash + 1 : s->path;
    int rc = add_file(s, fd, base, status, err);
    if (rc)
        return rc;
    const struct source_file *file = &s->files[0];
    bool magic = file->size >= 4 && !memcmp(file->data, "GGUF", 4);
    if (!magic && !ends_with(base, ".gguf"))
        return err_set(err, ERR_FORMAT, "%s: neither a model folder nor a .gguf file", s->path);
    s->gguf = file;
    return source_split(base, &no, &n_parts) ? add_parts(s, base, no, n_parts, err) : 0;
}

int source_open(const char *path, struct source **out, struct err *err)
{
    struct stat status;
    int rc = 0, fd = -1;
    *out = NULL;
    struct source *s = calloc(1, sizeof *s);
    if (!s || !(s->path = strdup(path))) {
        rc = err_set(err, ERR_NOMEM, "%s: out of memory", path);
        goto fail;
    }
    s->mapped = true;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status)) {
        rc = err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
        goto fail;
    }
    if (S_ISDIR(status.st_mode))
        rc = open_folder(s, fd, err);
    else if (S_ISREG(status.st_mode))
        rc = open_file(s, fd, &status, err);
    else
        rc = err_set(err, ERR_FORMAT, "%s: neither a folder nor a regular file", path);
    if (rc)
        goto fail;
    s->name = name_of(path, S_ISREG(status.st_mode));
    if (!s->name) {
        rc = err_set(err, ERR_NOMEM, "%s: out of memory", path);
        goto fail;
    }
    close(fd);
    *out = s;
    return 0;
fail:
    if (fd >= 0)
        close(fd);
    source_close(s);
    return rc;
}

int source_open_memory(const char *name, const struct source_file *files, size_t n_files,
                       struct source **out, struct err *err)
{
    *out = NULL;
    struct source *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, ERR_NOMEM, "%s: out of memory", name);
    s->name = strdup(name);
    s->path = strdup("(embedded)");
    s->files = calloc(n_files ? n_files : 1, sizeof *s->files);
    if (!s->name || !s->path || !s->files) {
        source_close(s);
        return err_set(err, ERR_NOMEM, "%s: out of memory", name);
    }
    s->n_files = n_files;
    for (size_t i = 0; i < n_files; i++)
        s->files[i] = files[i];
    bool has_gguf = false;
    for (size_t i = 0; i < n_files; i++)
        has_gguf |= ends_with(files[i].name, ".gguf");
    int rc = has_gguf ? check_folder(s, err) : 0;
    if (rc) {
        source_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void source_close(struct source *s)
{
    if (!s)
        return;
    for (size_t i = 0; s->mapped && i < s->n_files; i++) {
        free((char *)s->files[i].name);
        if (s->files[i].size)
            munmap((void *)s->files[i].data, s->files[i].size);
    }
    free(s->files);
    free(s->name);
    free(s->path);
    free(s);
}

const char *source_name(const struct source *s)
{
    return s->name;
}

const char *source_path(const struct source *s)
{
    return s->path;
}

uint64_t source_identity(const struct source *s)
{
    return s->identity;
}

size_t source_count(const struct source *s)
{
    return s->n_files;
}

const struct source_file *source_at(const struct source *s, size_t i)
{
    return i < s->n_files ? &s->files[i] : NULL;
}

const struct source_file *source_find(const struct source *s, const char *name)
{
    for (size_t i = 0; i < s->n_files; i++)
        if (!strcmp(s->files[i].name, name))
            return &s->files[i];
    return NULL;
}

const struct source_file *source_gguf(const struct source *s)
{
    return s->gguf;
}

int source_n_parts(const struct source *s)
{
    int no, n_parts;
    if (!s->gguf)
        return 0;
    return source_split(s->gguf->name, &no, &n_parts) ? n_parts : 1;
}

const struct source_file *source_part(const struct source *s, int no)
{
    char name[PART_NAME_BYTES];
    int one, n_parts;
    if (!s->gguf || !source_split(s->gguf->name, &one, &n_parts))
        return no == 1 ? s->gguf : NULL;
    part_name(name, s->gguf->name, no);
    return source_find(s, name);
}

void source_release(const struct source *s, const void *data, size_t n)
{
    const uint8_t *at = data;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; s->mapped && i < s->n_files; i++) {
        const struct source_file *f = &s->files[i];
        if (at < f->data || n > f->size || (size_t)(at - f->data) > f->size - n)
            continue;
        uintptr_t start = ((uintptr_t)at + page - 1) & ~(page - 1), end = (uintptr_t)(at + n);
        end &= ~(page - 1); /* whole pages of these bytes alone */
        if (start < end)
            madvise((void *)start, end - start, MADV_DONTNEED);
    }
}

bool source_is_mistral(const struct source *s)
{
    if (s->gguf || !source_find(s, "params.json"))
        return false;
    return !source_find(s, "config.json") ||
           (!source_find(s, "model.safetensors") &&
            !source_find(s, "model.safetensors.index.json"));
}
