/* gguf: reads GGUF v2 and v3 files, little-endian (the format's specification, docs/gguf.md of the
 * ggml project): metadata for weights, model and tokenizer (weights.h), tensors (weights_read.h).
 *
 * gguf_open walks the whole header once and checks every count, length, type and offset against the
 * bytes that are there before it allocates; later calls only look up. Metadata values and string
 * texts point into the file; keys and tensor names are copies. Immutable after open; any thread. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/base/utf8.h"
#include "engine/weights_read.h"

enum {
    KEY_BYTES_MAX = 65535,
    NAME_BYTES_MAX = 255,
    PAIR_BYTES_MIN = 8 + 1 + 4 + 1,               /* key length, key, type, value */
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8,     /* name, n_dims, one dim, type, offset */
    ALIGNMENT_STANDARD = 32,
    ALIGNMENT_MAX = 1 << 20,
};

static const uint64_t DIM_MAX = (uint64_t)1 << 40;

/* Names and block sizes of ggml's tensor types by number: those that Sirocco cannot compute with
 * are known so that messages name them and their bytes can be checked. */
static const struct type_info {
    const char *name;
    uint16_t block, bytes;
} types[] = {
    [0] = {"F32", 1, 4},        [1] = {"F16", 1, 2},        [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},     [6] = {"Q5_0", 32, 22},     [7] = {"Q5_1", 32, 24},
    [8] = {"Q8_0", 32, 34},     [9] = {"Q8_1", 32, 36},     [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},  [12] = {"Q4_K", 256, 144},  [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},  [15] = {"Q8_K", 256, 292},  [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74}, [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},
    [20] = {"IQ4_NL", 32, 18},  [21] = {"IQ3_S", 256, 110}, [22] = {"IQ2_S", 256, 82},
    [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},       [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},       [27] = {"I64", 1, 8},       [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},  [30] = {"BF16", 1, 2},      [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},  [39] = {"MXFP4", 32, 17},
};

static const uint8_t value_bytes[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

struct pair {
    const char *key;
    struct gguf_value value;
};

struct info {
    const char *name;
    int n_dims;
    uint64_t dims[4]; /* the file's order: contiguous first */
    uint32_t type;
    uint64_t offset; /* from the start of the data */
    size_t bytes;
    size_t at; /* where the entry is in the file, for messages */
};

struct gguf {
    struct arena arena;
    const char *file;
    const uint8_t *data;
    size_t size, pos; /* pos: next byte of the header */
    struct pair *pairs; /* sorted by key after open */
    size_t n_pairs;
    struct info *infos; /* sorted by offset after open */
    size_t n_infos;
    size_t data_start, alignment;
};

/* ---- reading */

static uint64_t little(const uint8_t *bytes, int n)
{
    uint64_t value = 0;
    for (int i = n - 1; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

static const uint8_t *take(struct gguf *g, size_t n)
{
    if (!size_fits(g->pos, n, g->size))
        return NULL;
    const uint8_t *at = g->data + g->pos;
    g->pos += n;
    return at;
}

static bool take_int(struct gguf *g, int bytes, uint64_t *value)
{
    const uint8_t *at = take(g, (size_t)bytes);
    if (at)
        *value = little(at, bytes);
    return at != NULL;
}

static int truncated(const struct gguf *g, const char *what, struct err *err)
{
    return err_set(err, ERR_FORMAT, "%s: byte %zu: %s: the file ends before it does", g->file,
                   g->pos, what);
}

/* A length-prefixed name: 1 to bytes_max bytes of UTF-8 without NUL, copied. */
static int take_name(struct gguf *g, const char *what, size_t bytes_max, const char **name,
                     struct err *err)
{
    size_t start = g->pos;
    uint64_t n;
    const uint8_t *text = NULL;
    if (!take_int(g, 8, &n))
        return truncated(g, what, err);
    if (n < 1 || n > bytes_max)
        return err_set(err, ERR_FORMAT, "%s: byte %zu: %s length %llu is not 1..%zu", g->file,
                       start, what, (unsigned long long)n, bytes_max);
    text = take(g, (size_t)n);
    if (!text)
        return truncated(g, what, err);
    if (memchr(text, 0, (size_t)n) || !utf8_valid((const char *)text, (size_t)n))
        return err_set(err, ERR_FORMAT, "%s: byte %zu: %s is not UTF-8 text without NUL", g->file,
                       start + 8, what);
    *name = arena_copy(&g->arena, (const char *)text, (size_t)n);
    return *name ? 0 : err_set(err, ERR_NOMEM, "%s: out of memory", g->file);
}

static int take_strings(struct gguf *g, struct pair *pair, struct err *err)
{
    struct gguf_value *value = &pair->value;
    struct gguf_string *strings;
    if (value->count > (g->size - g->pos) / 8)
        return err_set(err, ERR_FORMAT, "%s: byte %zu: key '%s': %llu strings do not fit the file",
                       g->file, g->pos, pair->key, (unsigned long long)value->count);
    strings = arena_array(&g->arena, (size_t)value->count, sizeof *strings);
    if (!strings)
        return err_set(err, ERR_NOMEM, "%s: out of memory", g->file);
    for (uint64_t i = 0; i < value->count; i++) {
        size_t start = g->pos;
        uint64_t n;
        const uint8_t *text = NULL;
        if (take_int(g, 8, &n) && n <= g->size)
            text = take(g, (size_t)n);
        if (!text)
            return err_set(err, ERR_FORMAT,
                           "%s: byte %zu: key '%s': string %llu runs past the end of the file",
                           g->file, start, pair->key, (unsigned long long)i);
        strings[i] = (struct gguf_string){(const char *)text, n};
    }
    value->strings = strings;
    return 0;
}

static int take_numbers(struct gguf *g, struct pair *pair, struct err *err)
{
    struct gguf_value *value = &pair->value;
    size_t bytes, start = g->pos;
    if (value->count > SIZE_MAX ||
        !size_mul((size_t)value->count, value_bytes[value->type], &bytes) ||
        !(value->data = take(g, bytes)))
        return err_set(err, ERR_FORMAT, "%s: byte %zu: key '%s': %llu values do not fit the file",
                       g->file, start, pair->key, (unsigned long long)value->count);
    for (size_t i = 0; value->type == GGUF_BOOL && i < bytes; i++)
        if (value->data[i] > 1)
            return err_set(err, ERR_FORMAT, "%s: byte %zu: key '%s': a bool is %d", g->file,
                           start + i, pair->key, value->data[i]);
    return 0;
}

static int take_pair(struct gguf *g, struct pair *pair, struct err *err)
{
    uint64_t type;
    int rc = take_name(g, "key", KEY_BYTES_MAX, &pair->key, err);
    if (rc)
        return rc;
    size_t start = g->pos;
    pair->value.count = 1;
    if (!take_int(g, 4, &type))
        return truncated(g, pair->key, err);
    if (type == GGUF_ARRAY) {
        pair->value.is_array = 1;
        if (!take_int(g, 4, &type) || !take_int(g, 8, &pair->value.count))
            return truncated(g, pair->key, err);
        if (type == GGUF_ARRAY)
            return err_set(err, ERR_FORMAT,
                           "%s: byte %zu: key '%s': an array of arrays is not supported", g->file,
                           start, pair->key);
    }
    if (type >= GGUF_TYPE_COUNT)
        return err_set(err, ERR_FORMAT, "%s: byte %zu: key '%s': value type %llu is unknown",
                       g->file, start, pair->key, (unsigned long long)type);
    pair->value.type = (enum gguf_type)type;
    return type == GGUF_STRING ? take_strings(g, pair, err) : take_numbers(g, pair, err);
}

/* ---- tensors */

static int tensor_error(const struct gguf *g, const struct info *info, const char *what,
                        unsigned long long number, struct err *err)
{
    return err_set(err, ERR_FORMAT, "%s: byte %zu: tensor '%s': %s (%llu)", g->file, info->at,
                   info->name, what, number);
}

/* Bytes of the tensor from its type and dims, all checked. */
static int size_tensor(const struct gguf *g, struct info *info, struct err *err)
{
    const struct type_info *type = info->type < sizeof types / sizeof *types
                                       ? &types[info->type] : NULL;
    size_t n = 1;
    if (!type || !type->name)
        return tensor_error(g, info, "type number is unknown", info->type, err);
    for (int i = 0; i < info->n_dims; i++) {
        if (info->dims[i] < 1 || info->dims[i] > DIM_MAX)
            return tensor_error(g, info, "a dimension is not 1..2^40", info->dims[i], err);
        if (!size_mul(n, (size_t)info->dims[i], &n))
            return tensor_error(g, info, "the product of the dimensions overflows", info->dims[i],
                                err);
    }
    if (info->dims[0] % type->block)
        return err_set(err, ERR_FORMAT,
                       "%s: byte %zu: tensor '%s': first dimension %llu is no multiple of %d, the "
                       "block of type %s", g->file, info->at, info->name,
                       (unsigned long long)info->dims[0], type->block, type->name);
    if (!size_mul(n / type->block, type->bytes, &info->bytes))
        return tensor_error(g, info, "its size overflows; first dimension", info->dims[0], err);
    return 0;
}

static int take_info(struct gguf *g, struct info *info, struct err *err)
{
    uint64_t n_dims, type;
    info->at = g->pos;
    int rc = take_name(g, "tensor name", NAME_BYTES_MAX, &info->name, err);
    if (rc)
        return rc;
    if (!take_int(g, 4, &n_dims))
        return truncated(g, info->name, err);
    if (n_dims < 1 || n_dims > 4)
        return tensor_error(g, info, "the number of dimensions is not 1..4", n_dims, err);
    info->n_dims = (int)n_dims;
    for (int i = 0; i < info->n_dims; i++)
        if (!take_int(g, 8, &info->dims[i]))
            return truncated(g, info->name, err);
    if (!take_int(g, 4, &type) || !take_int(g, 8, &info->offset))
        return truncated(g, info->name, err);
    info->type = (uint32_t)type;
    return size_tensor(g, info, err);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct pair *)a)->key, ((const struct pair *)b)->key);
}

static int by_offset(const void *a, const void *b)
{
    const struct info *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Every tensor's bytes are aligned, inside the file and its own. Sorts infos by offset. */
static int check_layout(struct gguf *g, struct err *err)
{
    size_t end = 0, room;
    if (!g->n_infos)
        return 0;
    if (!size_add(g->pos, g->alignment - 1, &g->data_start))
        return truncated(g, "data", err);
    g->data_start &= ~(g->alignment - 1);
    if (g->data_start > g->size)
        return truncated(g, "data", err);
    room = g->size - g->data_start;
    qsort(g->infos, g->n_infos, sizeof *g->infos, by_offset);
    for (size_t i = 0; i < g->n_infos; i++) {
        const struct info *info = &g->infos[i];
        if (info->offset % g->alignment)
            return tensor_error(g, info, "its offset is not aligned", info->offset, err);
        if (info->offset > room || info->bytes > room - (size_t)info->offset)
            return err_set(err, ERR_FORMAT,
                           "%s: byte %zu: tensor '%s': offset %llu plus %zu bytes is past the end "
                           "of the file", g->file, info->at, info->name,
                           (unsigned long long)info->offset, info->bytes);
        if (info->offset < end)
            return tensor_error(g, info, "its bytes overlap another tensor's; offset",
                                info->offset, err);
        end = (size_t)info->offset + info->bytes;
    }
    return 0;
}

/* ---- the header */

static int read_counts(struct gguf *g, uint64_t *n_infos, uint64_t *n_pairs, struct err *err)
{
    uint64_t version;
    const uint8_t *magic = take(g, 4);
    if (!magic || memcmp(magic, "GGUF", 4))
        return err_set(err, ERR_FORMAT, "%s: byte 0: not a GGUF file", g->file);
    if (!take_int(g, 4, &version))
        return truncated(g, "version", err);
    if (version == 0x02000000 || version == 0x03000000)
        return err_set(err, ERR_FORMAT, "%s: byte 4: big-endian files are not supported", g->file);
    if (version != 2 && version != 3)
        return err_set(err, ERR_FORMAT, "%s: byte 4: version %llu is not 2 or 3", g->file,
                       (unsigned long long)version);
    if (!take_int(g, 8, n_infos) || !take_int(g, 8, n_pairs))
        return truncated(g, "counts", err);
    if (*n_infos > (g->size - g->pos) / TENSOR_BYTES_MIN)
        return err_set(err, ERR_FORMAT, "%s: byte 8: %llu tensors do not fit the file", g->file,
                       (unsigned long long)*n_infos);
    if (*n_pairs > (g->size - g->pos) / PAIR_BYTES_MIN)
        return err_set(err, ERR_FORMAT, "%s: byte 16: %llu keys do not fit the file", g->file,
                       (unsigned long long)*n_pairs);
    return 0;
}

static int read_alignment(struct gguf *g, struct err *err)
{
    int64_t alignment = ALIGNMENT_STANDARD;
    int found;
    int rc = gguf_int(g, "general.alignment", 1, ALIGNMENT_MAX, &alignment, &found, err);
    if (rc)
        return rc;
    if (alignment & (alignment - 1))
        return err_set(err, ERR_FORMAT, "%s: general.alignment %lld is no power of two", g->file,
                       (long long)alignment);
    g->alignment = (size_t)alignment;
    return 0;
}

static int read_header(struct gguf *g, struct err *err)
{
    uint64_t n_infos = 0, n_pairs = 0;
    int rc = read_counts(g, &n_infos, &n_pairs, err);
    if (rc)
        return rc;
    g->pairs = arena_array(&g->arena, (size_t)n_pairs, sizeof *g->pairs);
    g->infos = arena_array(&g->arena, (size_t)n_infos, sizeof *g->infos);
    if (!g->pairs || !g->infos)
        return err_set(err, ERR_NOMEM, "%s: out of memory", g->file);
    for (; !rc && g->n_pairs < n_pairs; g->n_pairs++)
        rc = take_pair(g, &g->pairs[g->n_pairs], err);
    if (rc)
        return rc;
    if (g->n_pairs)
        qsort(g->pairs, g->n_pairs, sizeof *g->pairs, by_key);
    for (size_t i = 1; i < g->n_pairs; i++)
        if (!by_key(&g->pairs[i - 1], &g->pairs[i]))
            return err_set(err, ERR_FORMAT, "%s: key '%s' occurs twice", g->file, g->pairs[i].key);
    rc = read_alignment(g, err);
    for (; !rc && g->n_infos < n_infos; g->n_infos++)
        rc = take_info(g, &g->infos[g->n_infos], err);
    return rc ? rc : check_layout(g, err);
}

int gguf_open(const struct source_file *file, struct gguf **out, struct err *err)
{
    *out = NULL;
    struct gguf *g = calloc(1, sizeof *g);
    if (!g)
        return err_set(err, ERR_NOMEM, "%s: out of memory", file->name);
    arena_init(&g->arena, 0);
    g->file = file->name;
    g->data = file->data;
    g->size = file->size;
    int rc = read_header(g, err);
    if (rc) {
        gguf_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    arena_free(&g->arena);
    free(g);
}

int gguf_read(const struct gguf *g, struct weights_list *list, struct err *err)
{
    for (size_t i = 0; i < g->n_infos; i++) {
        const struct info *info = &g->infos[i];
        struct weights_tensor *tensor = weights_list_add(list);
        if (!tensor || !(tensor->name = arena_copy(&list->arena, info->name, strlen(info->name))))
            return err_set(err, ERR_NOMEM, "%s: out of memory", g->file);
        int type = quant_from_gguf(info->type);
        tensor->type = type < 0 ? QUANT_COUNT : (enum quant_type)type;
        tensor->type_name = types[info->type].name;
        tensor->file = g->file;
        tensor->n_dims = info->n_dims;
        for (int d = 0; d < info->n_dims; d++)
            tensor->dims[d] = (int64_t)info->dims[info->n_dims - 1 - d];
        tensor->data = g->data + g->data_start + (size_t)info->offset;
        tensor->bytes = info->bytes;
    }
    return 0;
}

/* ---- metadata */

const struct gguf_value *gguf_find(const struct gguf *g, const char *key)
{
    struct pair wanted = {.key = key};
    if (!g->n_pairs)
        return NULL;
    const struct pair *pair = bsearch(&wanted, g->pairs, g->n_pairs, sizeof wanted, by_key);
    return pair ? &pair->value : NULL;
}

const struct gguf_value *gguf_at(const struct gguf *g, size_t i, const char **key)
{
    if (i >= g->n_pairs)
        return NULL;
    *key = g->pairs[i].key;
    return &g->pairs[i].value;
}

static int wrong_type(const struct gguf *g, const char *key, const char *wanted, struct err *err)
{
    return err_set(err, ERR_FORMAT, "%s: key '%s' is not %s", g->file, key, wanted);
}

int gguf_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *value,
             int *found, struct err *err)
{
    const struct gguf_value *v = gguf_find(g, key);
    *found = v != NULL;
    if (!v)
        return 0;
    if (v->is_array || v->type == GGUF_STRING || v->type == GGUF_F32 || v->type == GGUF_F64)
        return wrong_type(g, key, "an integer", err);
    int bytes = value_bytes[v->type];
    uint64_t bits = little(v->data, bytes);
    bool is_signed = v->type == GGUF_I8 || v->type == GGUF_I16 || v->type == GGUF_I32 ||
                     v->type == GGUF_I64;
    if (is_signed && bytes < 8 && bits >> (8 * bytes - 1))
        bits |= ~(uint64_t)0 << (8 * bytes);
    int64_t number = (int64_t)bits;
    if ((!is_signed && bits > INT64_MAX) || number < min || number > max)
        return err_set(err, ERR_FORMAT, "%s: key '%s' is out of %lld..%lld", g->file, key,
                       (long long)min, (long long)max);
    *value = number;
    return 0;
}

int gguf_float(const struct gguf *g, const char *key, double *value, int *found, struct err *err)
{
    const struct gguf_value *v = gguf_find(g, key);
    *found = v != NULL;
    if (!v)
        return 0;
    if (v->is_array || (v->type != GGUF_F32 && v->type != GGUF_F64))
        return wrong_type(g, key, "a floating-point number", err);
    if (v->type == GGUF_F32) {
        float single;
        memcpy(&single, v->data, sizeof single);
        *value = single;
    } else {
        memcpy(value, v->data, sizeof *value);
    }
    return 0;
}

int gguf_text(const struct gguf *g, const char *key, const char **text, size_t *size, int *found,
              struct err *err)
{
    const struct gguf_value *v = gguf_find(g, key);
    *found = v != NULL;
    if (!v)
        return 0;
    if (v->is_array || v->type != GGUF_STRING)
        return wrong_type(g, key, "a string", err);
    *text = v->strings[0].text;
    *size = (size_t)v->strings[0].size;
    return 0;
}
