/* safetensors: reads the tensors of a checkpoint in Hugging Face's or in Mistral's own layout
 * (weights_read.h).
 *
 * A file is: u64 header size, JSON header, tensor bytes. The rules are those of the format's
 * reference reader: header at most 100 MB and inside the file, UTF-8 JSON object that begins with
 * '{', names unique, offsets begin <= end, no hole and no overlap, the last byte is the file's,
 * and each span is the product of the shape times the size of the type. All of them are checked
 * here, before anything is handed out. Runs at open, in the caller's thread; owns nothing. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/weights_read.h"

enum { HEADER_BYTES_MAX = 100000000, INDEX_BYTES_MAX = 100000000, DIMS_MAX = 8, PARTS_MAX = 9999 };

static const struct dtype {
    const char *name;
    unsigned bits;
    enum quant_type type;
} dtypes[] = {
    {"F32", 32, QUANT_F32},       {"F16", 16, QUANT_F16},      {"BF16", 16, QUANT_BF16},
    {"F64", 64, QUANT_COUNT},     {"C64", 64, QUANT_COUNT},    {"F8_E4M3", 8, QUANT_COUNT},
    {"F8_E5M2", 8, QUANT_COUNT},  {"F8_E8M0", 8, QUANT_COUNT}, {"F4", 4, QUANT_COUNT},
    {"F6_E2M3", 6, QUANT_COUNT},  {"F6_E3M2", 6, QUANT_COUNT}, {"I64", 64, QUANT_COUNT},
    {"I32", 32, QUANT_COUNT},     {"I16", 16, QUANT_COUNT},    {"I8", 8, QUANT_COUNT},
    {"U64", 64, QUANT_COUNT},     {"U32", 32, QUANT_COUNT},    {"U16", 16, QUANT_COUNT},
    {"U8", 8, QUANT_COUNT},       {"BOOL", 8, QUANT_COUNT},
};

struct span { /* of one tensor, relative to the first byte after the header */
    size_t begin, end;
    size_t tensor; /* index into the list */
    const char *name;
};

static int by_begin(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static const struct dtype *find_dtype(const char *name)
{
    for (size_t i = 0; name && i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(dtypes[i].name, name))
            return &dtypes[i];
    return NULL;
}

/* A JSON integer >= 0 as a size. */
static bool to_size(const json_t *value, size_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (size_t)json_integer_value(value);
    return true;
}

/* Check one header entry and fill tensor (but for its data) and span. */
static int read_entry(const char *file, const char *name, const json_t *entry,
                      struct weights_tensor *tensor, struct span *span, struct err *err)
{
    const json_t *shape = json_object_get(entry, "shape");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *dtype_value = json_object_get(entry, "dtype");
    const struct dtype *dtype = find_dtype(json_string_value(dtype_value));
    size_t bits;

    if (!json_is_object(entry))
        return err_set(err, ERR_FORMAT, "%s: tensor '%s': not an object", file, name);
    if (!dtype)
        return err_set(err, ERR_FORMAT, "%s: tensor '%s': dtype '%s' is unknown", file, name,
                       json_is_string(dtype_value) ? json_string_value(dtype_value) : "(none)");
    if (!json_is_array(shape) || json_array_size(shape) > DIMS_MAX)
        return err_set(err, ERR_FORMAT, "%s: tensor '%s': shape must be an array of at most %d",
                       file, name, DIMS_MAX);
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !to_size(json_array_get(offsets, 0), &span->begin) ||
        !to_size(json_array_get(offsets, 1), &span->end) || span->begin > span->end)
        return err_set(err, ERR_FORMAT,
                       "%s: tensor '%s': data_offsets must be [begin, end] with begin <= end",
                       file, name);
    bits = dtype->bits;
    tensor->n_dims = (int)json_array_size(shape);
    for (int i = 0; i < tensor->n_dims; i++) {
        size_t dim;
        if (!to_size(json_array_get(shape, (size_t)i), &dim) || !size_mul(bits, dim, &bits))
            return err_set(err, ERR_FORMAT, "%s: tensor '%s': shape[%d] is negative, no integer "
                           "or makes the size overflow", file, name, i);
        if (i < WEIGHTS_DIMS_MAX)
            tensor->dims[i] = (int64_t)dim;
    }
    if (bits % 8 || bits / 8 != span->end - span->begin)
        return err_set(err, ERR_FORMAT,
                       "%s: tensor '%s': its shape and dtype need %zu bytes, data_offsets say %zu",
                       file, name, bits / 8, span->end - span->begin);
    tensor->type = tensor->n_dims <= WEIGHTS_DIMS_MAX ? dtype->type : QUANT_COUNT;
    tensor->type_name = dtype->name;
    tensor->bytes = bits / 8;
    span->name = tensor->name;
    return 0;
}

static int check_metadata(const char *file, const json_t *metadata, struct err *err)
{
    const char *key;
    const json_t *value;
    if (!json_is_object(metadata))
        return err_set(err, ERR_FORMAT, "%s: __metadata__ is not an object", file);
    json_object_foreach((json_t *)metadata, key, value) {
        if (!json_is_string(value))
            return err_set(err, ERR_FORMAT, "%s: __metadata__ '%s' is not a string", file, key);
    }
    return 0;
}

/* Spans must tile the data: no hole, no overlap, nothing after the last. */
static int check_spans(const char *file, struct span *spans, size_t n, size_t data_bytes,
                       struct err *err)
{
    size_t end = 0;
    if (n)
        qsort(spans, n, sizeof *spans, by_begin);
    for (size_t i = 0; i < n; i++) {
        if (spans[i].begin != end)
            return err_set(err, ERR_FORMAT,
                           "%s: tensor '%s': data_offsets begin at %zu, not at %zu (%s)", file,
                           spans[i].name, spans[i].begin, end,
                           spans[i].begin < end ? "overlap" : "hole");
        end = spans[i].end;
    }
    if (end != data_bytes)
        return err_set(err, ERR_FORMAT,
                       "%s: the tensors end at byte %zu of the data, the file at %zu", file, end,
                       data_bytes);
    return 0;
}

static int read_entries(const struct source_file *file, const json_t *header, size_t data_start,
                        struct weights_list *list, struct err *err)
{
    size_t n = json_object_size(header), k = 0;
    const char *name;
    const json_t *entry;
    int rc = 0;
    struct span *spans = calloc(n ? n : 1, sizeof *spans);
    if (!spans)
        return err_set(err, ERR_NOMEM, "%s: out of memory", file->name);
    json_object_foreach((json_t *)header, name, entry) {
        if (!strcmp(name, "__metadata__")) {
            rc = check_metadata(file->name, entry, err);
        } else {
            struct weights_tensor *tensor = weights_list_add(list);
            if (tensor) {
                tensor->file = file->name;
                tensor->name = arena_copy(&list->arena, name, strlen(name));
            }
            if (!tensor || !tensor->name)
                rc = err_set(err, ERR_NOMEM, "%s: out of memory", file->name);
            else
                rc = read_entry(file->name, name, entry, tensor, &spans[k], err);
            spans[k++].tensor = list->n - 1;
        }
        if (rc)
            break;
    }
    if (!rc)
        rc = check_spans(file->name, spans, k, file->size - data_start, err);
    for (size_t i = 0; !rc && i < k; i++)
        list->tensors[spans[i].tensor].data = file->data + data_start + spans[i].begin;
    free(spans);
    return rc;
}

int safetensors_read_file(const struct source_file *file, struct weights_list *list,
                          struct err *err)
{
    uint64_t header_bytes = 0;
    json_error_t where;
    if (file->size < 8)
        return err_set(err, ERR_FORMAT, "%s: %zu bytes are too few for a header", file->name,
                       file->size);
    for (int i = 7; i >= 0; i--)
        header_bytes = header_bytes << 8 | file->data[i];
    if (header_bytes > HEADER_BYTES_MAX)
        return err_set(err, ERR_FORMAT, "%s: byte 0: header size %llu is above %d", file->name,
                       (unsigned long long)header_bytes, HEADER_BYTES_MAX);
    if (header_bytes > file->size - 8)
        return err_set(err, ERR_FORMAT,
                       "%s: byte 0: header size %llu is more than the file's %zu bytes",
                       file->name, (unsigned long long)header_bytes, file->size);
    if (!header_bytes || file->data[8] != '{')
        return err_set(err, ERR_FORMAT, "%s: byte 8: the header does not begin with '{'",
                       file->name);
    json_t *header = json_loadb((const char *)file->data + 8, (size_t)header_bytes,
                                JSON_REJECT_DUPLICATES, &where);
    if (!header)
        return err_set(err, where.text[0] ? ERR_FORMAT : ERR_NOMEM, "%s: byte %d: header: %s",
                       file->name, where.position + 8,
                       where.text[0] ? where.text : "out of memory");
    int rc = read_entries(file, header, 8 + (size_t)header_bytes, list, err);
    json_decref(header);
    return rc;
}

/* ---- shards */

static int check_shard_name(const char *index, const char *tensor, const json_t *value,
                            struct err *err)
{
    const char *shard = json_string_value(value);
    if (!shard)
        return err_set(err, ERR_FORMAT, "%s: weight_map '%s' is not a string", index, tensor);
    if (!*shard || *shard == '.' || strchr(shard, '/') || strchr(shard, '\\'))
        return err_set(err, ERR_FORMAT, "%s: weight_map '%s': '%s' is not a plain file name",
                       index, tensor, shard);
    return 0;
}

/* Read a shard when its name comes up first; `seen` maps shard names to [first, last] indices of
 * the list. */
static int read_shard(const struct source *source, const char *index, const char *shard,
                      json_t *seen, struct weights_list *list, struct err *err)
{
    size_t first = list->n;
    if (json_object_get(seen, shard))
        return 0;
    const struct source_file *file = source_find(source, shard);
    if (!file)
        return err_set(err, ERR_FORMAT, "%s: weight_map names '%s', which does not exist", index,
                       shard);
    int rc = safetensors_read_file(file, list, err);
    if (rc)
        return rc;
    json_t *range = json_pack("[I,I]", (json_int_t)first, (json_int_t)list->n);
    if (!range || json_object_set_new(seen, shard, range))
        return err_set(err, ERR_NOMEM, "%s: out of memory", index);
    return 0;
}

/* Every tensor of the shards must be in weight_map under its shard, and the other way round: what
 * is met is taken out of the map, which must end up empty. */
static int check_map(const char *index, json_t *map, json_t *seen,
                     const struct weights_list *list, struct err *err)
{
    const char *shard, *name;
    json_t *range, *value;
    json_object_foreach(seen, shard, range) {
        size_t end = (size_t)json_integer_value(json_array_get(range, 1));
        for (size_t i = (size_t)json_integer_value(json_array_get(range, 0)); i < end; i++) {
            name = list->tensors[i].name;
            const char *stated = json_string_value(json_object_get(map, name));
            if (!stated || strcmp(stated, shard))
                return err_set(err, ERR_FORMAT, "%s: tensor '%s' is in %s, weight_map says %s",
                               index, name, shard, stated ? stated : "nothing");
            json_object_del(map, name);
        }
    }
    json_object_foreach(map, name, value)
        return err_set(err, ERR_FORMAT, "%s: tensor '%s' is not in %s", index, name,
                       json_string_value(value));
    return 0;
}

static int read_index(const struct source *source, const struct source_file *index,
                      struct weights_list *list, struct err *err)
{
    json_error_t where;
    const char *tensor;
    json_t *value;
    int rc = 0;
    if (index->size > INDEX_BYTES_MAX)
        return err_set(err, ERR_FORMAT, "%s: more than %d bytes", index->name, INDEX_BYTES_MAX);
    json_t *root = json_loadb((const char *)index->data, index->size, JSON_REJECT_DUPLICATES,
                              &where);
    json_t *map = json_object_get(root, "weight_map"), *seen = json_object();
    if (!root)
        rc = err_set(err, where.text[0] ? ERR_FORMAT : ERR_NOMEM, "%s: line %d: %s", index->name,
                     where.line, where.text[0] ? where.text : "out of memory");
    else if (!json_is_object(map))
        rc = err_set(err, ERR_FORMAT, "%s: weight_map is missing or not an object", index->name);
    else if (!seen)
        rc = err_set(err, ERR_NOMEM, "%s: out of memory", index->name);
    if (!rc) {
        json_object_foreach(map, tensor, value) {
            rc = check_shard_name(index->name, tensor, value, err);
            if (!rc)
                rc = read_shard(source, index->name, json_string_value(value), seen, list, err);
            if (rc)
                break;
        }
    }
    if (!rc)
        rc = check_map(index->name, map, seen, list, err);
    json_decref(seen);
    json_decref(root);
    return rc;
}

/* K and N of "consolidated-K-of-N.safetensors" ('.' or '-' before K); false: another name. */
static bool consolidated_part(const char *name, long *k, long *n)
{
    static const char start[] = "consolidated", end[] = ".safetensors";
    char *at;
    if (strncmp(name, start, sizeof start - 1))
        return false;
    name += sizeof start - 1;
    if ((*name != '-' && *name != '.') || name[1] < '0' || name[1] > '9')
        return false;
    *k = strtol(name + 1, &at, 10);
    if (strncmp(at, "-of-", 4) || at[4] < '0' || at[4] > '9')
        return false;
    *n = strtol(at + 4, &at, 10);
    return !strcmp(at, end) && *k >= 0 && *n > 0 && *n <= PARTS_MAX;
}

/* Shards without an index: all N of them must be there, counted from 1 or from 0. */
static int read_parts(const struct source *source, struct weights_list *list, struct err *err)
{
    long k, n, total = 0, found = 0, first = PARTS_MAX, last = 0;
    int rc = 0;
    for (size_t i = 0; !rc && i < source_count(source); i++) {
        const struct source_file *file = source_at(source, i);
        if (!consolidated_part(file->name, &k, &n))
            continue;
        if (total && n != total)
            return err_set(err, ERR_FORMAT, "%s: one of %ld parts, others are of %ld", file->name,
                           n, total);
        total = n;
        found++;
        first = k < first ? k : first;
        last = k > last ? k : last;
        rc = safetensors_read_file(file, list, err);
    }
    if (rc)
        return rc;
    if (!total)
        return err_set(err, ERR_FORMAT, "neither consolidated.safetensors nor its parts "
                       "(consolidated-00001-of-N.safetensors) are there");
    if (found != total || first > 1 || last - first != total - 1)
        return err_set(err, ERR_FORMAT, "%ld of %ld parts of consolidated.safetensors are there",
                       found, total);
    return 0;
}

static int read_named(const struct source *source, const char *name, bool *found,
                      struct weights_list *list, struct err *err)
{
    char index_name[64];
    snprintf(index_name, sizeof index_name, "%s.index.json", name);
    const struct source_file *single = source_find(source, name);
    const struct source_file *index = source_find(source, index_name);
    *found = single || index;
    if (single)
        return safetensors_read_file(single, list, err);
    return index ? read_index(source, index, list, err) : 0;
}

int safetensors_read(const struct source *source, struct weights_list *list, struct err *err)
{
    bool mistral = source_is_mistral(source), found;
    int rc = read_named(source, mistral ? "consolidated.safetensors" : "model.safetensors", &found,
                        list, err);
    if (rc || found)
        return rc;
    if (mistral)
        return read_parts(source, list, err);
    return err_set(err, ERR_FORMAT,
                   "neither model.safetensors nor model.safetensors.index.json is there");
}
