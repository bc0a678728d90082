/* gguf_write: writes GGUF files (gguf_write.h). One owner; the header is built in memory, tensors
 * go straight to the file.
 *
 * The file is written under a name of its own beside the one asked for, with room taken for all of
 * it first, and renamed when it is complete and on the disk: whoever opens the path sees the old
 * file or the whole new one. State: init -> open (gguf_write_open) -> closed (gguf_write_close),
 * or, from any of them, freed. */
#include "engine/gguf_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/size.h"

enum { VERSION = 3, FIXED_BYTES = 4 + 4 + 8 + 8, DIMS_MAX = 4 };

static const uint8_t value_bytes[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

void gguf_write_init(struct gguf_write *w)
{
    *w = (struct gguf_write){.file = -1};
    buf_init(&w->pairs, 0);
    buf_init(&w->infos, 0);
    buf_init(&w->sizes, 0);
}

void gguf_write_free(struct gguf_write *w)
{
    if (!w)
        return;
    if (w->temporary && w->file >= 0) {
        close(w->file);
        unlink(w->temporary);
    }
    buf_free(&w->pairs);
    buf_free(&w->infos);
    buf_free(&w->sizes);
    free(w->path);
    free(w->temporary);
    *w = (struct gguf_write){.file = -1};
}

/* ---- the header; the format is little-endian, as is every machine this is built for */

static void put_int(struct buf *b, uint64_t value, size_t bytes)
{
    buf_add(b, &value, bytes);
}

static void put_text(struct buf *b, const char *text, size_t n)
{
    put_int(b, n, 8);
    buf_add(b, text, n);
}

static void put_key(struct gguf_write *w, const char *key, enum gguf_type type)
{
    put_text(&w->pairs, key, strlen(key));
    put_int(&w->pairs, type, 4);
    w->n_pairs++;
}

void gguf_write_int(struct gguf_write *w, const char *key, enum gguf_type type, int64_t value)
{
    put_key(w, key, type);
    put_int(&w->pairs, (uint64_t)value, value_bytes[type]);
}

void gguf_write_float(struct gguf_write *w, const char *key, double value)
{
    float single = (float)value;
    put_key(w, key, GGUF_F32);
    buf_add(&w->pairs, &single, sizeof single);
}

void gguf_write_bool(struct gguf_write *w, const char *key, bool value)
{
    gguf_write_int(w, key, GGUF_BOOL, value);
}

void gguf_write_text(struct gguf_write *w, const char *key, const char *text, size_t n)
{
    put_key(w, key, GGUF_STRING);
    put_text(&w->pairs, text, n);
}

static void put_array(struct gguf_write *w, const char *key, enum gguf_type type, uint64_t n)
{
    put_key(w, key, GGUF_ARRAY);
    put_int(&w->pairs, type, 4);
    put_int(&w->pairs, n, 8);
}

void gguf_write_array(struct gguf_write *w, const char *key, enum gguf_type type,
                      const void *values, uint64_t n)
{
    put_array(w, key, type, n);
    buf_add(&w->pairs, values, (size_t)n * value_bytes[type]);
}

void gguf_write_strings(struct gguf_write *w, const char *key, uint64_t n)
{
    put_array(w, key, GGUF_STRING, n);
}

void gguf_write_string(struct gguf_write *w, const char *text, size_t n)
{
    put_text(&w->pairs, text, n);
}

void gguf_write_value(struct gguf_write *w, const char *key, const struct gguf_value *value)
{
    if (value->is_array)
        put_array(w, key, value->type, value->count);
    else
        put_key(w, key, value->type);
    for (uint64_t i = 0; value->type == GGUF_STRING && i < value->count; i++)
        put_text(&w->pairs, value->strings[i].text, (size_t)value->strings[i].size);
    if (value->type != GGUF_STRING)
        buf_add(&w->pairs, value->data, (size_t)value->count * value_bytes[value->type]);
}

static uint64_t pad(uint64_t n)
{
    return (n + GGUF_WRITE_ALIGNMENT - 1) & ~(uint64_t)(GGUF_WRITE_ALIGNMENT - 1);
}

uint64_t gguf_write_tensor(struct gguf_write *w, const char *name, int n_dims, const int64_t *dims,
                           enum quant_type type)
{
    size_t bytes = n_dims >= 1 && n_dims <= DIMS_MAX && dims[n_dims - 1] > 0
                       ? quant_row_bytes(type, (size_t)dims[n_dims - 1])
                       : 0;
    for (int i = 0; bytes && i < n_dims - 1; i++)
        if (dims[i] < 1 || !size_mul(bytes, (size_t)dims[i], &bytes) || bytes > INT64_MAX / 4)
            bytes = 0;
    if (!bytes || w->data_bytes > INT64_MAX / 4) {
        w->failed = w->failed ? w->failed : ERR_FORMAT;
        return 0;
    }
    put_text(&w->infos, name, strlen(name));
    put_int(&w->infos, (uint64_t)n_dims, 4);
    for (int i = n_dims - 1; i >= 0; i--)
        put_int(&w->infos, (uint64_t)dims[i], 8);
    put_int(&w->infos, (uint64_t)quant_formats[type].gguf_type, 4);
    put_int(&w->infos, w->data_bytes, 8);
    put_int(&w->sizes, bytes, 8);
    w->data_bytes += pad(bytes);
    w->n_tensors++;
    return bytes;
}

uint64_t gguf_write_bytes(const struct gguf_write *w)
{
    return pad(FIXED_BYTES + w->pairs.size + w->infos.size) + w->data_bytes;
}

/* ---- the file */

static int io_error(const struct gguf_write *w, const char *what, int number, struct err *err)
{
    return err_set(err, ERR_IO, "%s: %s: %s", w->path, what, strerror(number));
}

static int put(struct gguf_write *w, const void *bytes, size_t n, struct err *err)
{
    const char *at = bytes;
    while (n) {
        ssize_t done = write(w->file, at, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return io_error(w, "cannot write", done < 0 ? errno : ENOSPC, err);
        at += done;
        n -= (size_t)done;
    }
    return 0;
}

static int put_padding(struct gguf_write *w, uint64_t after, struct err *err)
{
    static const char zeros[GGUF_WRITE_ALIGNMENT];
    return put(w, zeros, (size_t)(pad(after) - after), err);
}

/* A new file in the folder of path; a mode as open would give it. */
static int create(struct gguf_write *w, const char *path, struct err *err)
{
    struct stat status;
    mode_t mask = umask(0);
    umask(mask);
    w->path = strdup(path);
    if (!w->path || asprintf(&w->temporary, "%s.XXXXXX.tmp", path) < 0) {
        w->temporary = NULL;
        return err_set(err, ERR_NOMEM, "%s: out of memory", path);
    }
    if (!stat(path, &status) && S_ISDIR(status.st_mode))
        return io_error(w, "cannot be replaced by a file", EISDIR, err);
    w->file = mkostemps(w->temporary, 4, O_CLOEXEC);
    if (w->file < 0)
        return io_error(w, "cannot create", errno, err);
    if (fchmod(w->file, 0666 & ~mask))
        return io_error(w, "cannot set its mode", errno, err);
    /* where the file system cannot tell, writing will */
    if (fallocate(w->file, 0, 0, (off_t)gguf_write_bytes(w)) &&
        (errno == ENOSPC || errno == EFBIG || errno == EDQUOT))
        return io_error(w, "cannot take its room on the disk", errno, err);
    return 0;
}

int gguf_write_open(struct gguf_write *w, const char *path, struct err *err)
{
    uint32_t version = VERSION;
    int failed = w->pairs.failed ? w->pairs.failed : w->infos.failed;
    failed = failed ? failed : w->sizes.failed ? w->sizes.failed : w->failed;
    if (failed)
        return err_set(err, failed, "%s: its header: %s", path,
                       failed == ERR_FORMAT ? "a tensor's shape does not fit its type"
                                            : err_text(failed));
    int rc = create(w, path, err);
    if (!rc)
        rc = put(w, "GGUF", 4, err);
    if (!rc)
        rc = put(w, &version, sizeof version, err);
    if (!rc)
        rc = put(w, &w->n_tensors, sizeof w->n_tensors, err);
    if (!rc)
        rc = put(w, &w->n_pairs, sizeof w->n_pairs, err);
    if (!rc)
        rc = put(w, w->pairs.data, w->pairs.size, err);
    if (!rc)
        rc = put(w, w->infos.data, w->infos.size, err);
    return rc ? rc : put_padding(w, FIXED_BYTES + w->pairs.size + w->infos.size, err);
}

static uint64_t size_of(const struct gguf_write *w, uint64_t tensor)
{
    uint64_t bytes;
    memcpy(&bytes, w->sizes.data + tensor * sizeof bytes, sizeof bytes);
    return bytes;
}

int gguf_write_data(struct gguf_write *w, const void *bytes, size_t n, struct err *err)
{
    const char *at = bytes;
    int rc = 0;
    while (!rc && n) {
        CHECK(w->file >= 0 && w->at < w->n_tensors);
        uint64_t size = size_of(w, w->at), left = size - w->written;
        size_t part = n < left ? n : (size_t)left;
        rc = put(w, at, part, err);
        at += part;
        n -= part;
        w->written += part;
        if (!rc && w->written == size) {
            rc = put_padding(w, size, err);
            w->written = 0;
            w->at++;
        }
    }
    return rc;
}

/* The rename itself must survive a loss of power, too. */
static void sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(folder);
}

int gguf_write_close(struct gguf_write *w, struct err *err)
{
    CHECK(w->file >= 0 && w->at == w->n_tensors);
    if (fsync(w->file))
        return io_error(w, "cannot write", errno, err);
    if (rename(w->temporary, w->path))
        return io_error(w, "cannot be put in its place", errno, err);
    int rc = close(w->file) ? io_error(w, "cannot close", errno, err) : 0;
    w->file = -1;
    sync_folder(w->path);
    return rc;
}
