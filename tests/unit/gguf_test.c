/* gguf: a small valid file built by hand, then every field of it made wrong; truncation at every
 * byte; typed metadata reads. Files are exact heap copies, so that a sanitizer sees any overread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/weights.h"
#include "tests/test.h"

struct file {
    uint8_t bytes[4096];
    size_t n;
};

static void put(struct file *f, uint64_t value, int n)
{
    for (int i = 0; i < n; i++)
        f->bytes[f->n++] = (uint8_t)(value >> (8 * i));
}

static void put_text(struct file *f, const char *text)
{
    put(f, strlen(text), 8);
    memcpy(f->bytes + f->n, text, strlen(text));
    f->n += strlen(text);
}

static void put_int(struct file *f, const char *key, enum gguf_type type, uint64_t value, int n)
{
    put_text(f, key);
    put(f, type, 4);
    put(f, value, n);
}

struct tensor {
    const char *name;
    uint32_t n_dims;
    uint64_t dims[5];
    uint32_t type;
    uint64_t offset;
};

/* What a test changes in the valid file. */
struct recipe {
    const char *magic;
    uint32_t version;
    uint64_t n_tensors, n_pairs; /* stated; 0: the truth, 1 << 63 | n: n */
    void (*more)(struct file *f); /* one more pair */
    uint64_t alignment;
    enum gguf_type alignment_type;
    struct tensor tensors[3];
    size_t n;                     /* tensors written */
    size_t data_bytes;
};

static struct recipe valid(void)
{
    return (struct recipe){.magic = "GGUF", .version = 3, .alignment = 32,
                           .alignment_type = GGUF_U32,
                           .tensors = {{"a.weight", 2, {32, 3}, 8, 0},
                                       {"b.weight", 1, {5}, 0, 128},
                                       {"c.weight", 3, {2, 3, 4}, 1, 160}},
                           .n = 3, .data_bytes = 208};
}

static void build(const struct recipe *r, struct file *f)
{
    const uint64_t literal = (uint64_t)1 << 63;
    uint64_t n_pairs = 2 + (r->more != NULL);
    f->n = 0;
    memcpy(f->bytes, r->magic, 4);
    f->n = 4;
    put(f, r->version, 4);
    put(f, r->n_tensors ? r->n_tensors & ~literal : r->n, 8);
    put(f, r->n_pairs ? r->n_pairs & ~literal : n_pairs, 8);
    put_text(f, "general.architecture");
    put(f, GGUF_STRING, 4);
    put_text(f, "llama");
    put_int(f, "general.alignment", r->alignment_type, r->alignment,
            r->alignment_type == GGUF_U64 ? 8 : 4);
    if (r->more)
        r->more(f);
    for (size_t i = 0; i < r->n; i++) {
        const struct tensor *t = &r->tensors[i];
        put_text(f, t->name);
        put(f, t->n_dims, 4);
        for (uint32_t d = 0; d < t->n_dims && d < 5; d++)
            put(f, t->dims[d], 8);
        put(f, t->type, 4);
        put(f, t->offset, 8);
    }
    while (f->n % 32)
        put(f, 0, 1);
    for (size_t i = 0; i < r->data_bytes; i++)
        put(f, i, 1);
}

/* gguf_open and weights_open of an exact copy of the first n bytes. */
static int open_bytes(const uint8_t *bytes, size_t n, struct err *err)
{
    uint8_t *copy = malloc(n ? n : 1);
    EXPECT(copy != NULL);
    memcpy(copy, bytes, n);
    const struct source_file file = {.name = "t.gguf", .data = copy, .size = n};
    struct source *source = NULL;
    struct weights *w = NULL;
    EXPECT_INT(source_open_memory("t", &file, 1, &source, NULL), 0);
    int rc = weights_open(source, &w, err);
    EXPECT(!rc == (w != NULL));
    if (rc)
        EXPECT(!strncmp(err->text, "t.gguf: ", 8) && err->code == rc);
    weights_close(w);
    source_close(source);
    free(copy);
    return rc;
}

static void refuse(const struct recipe *r, const char *text)
{
    static struct file f;
    struct err err = {0};
    build(r, &f);
    int rc = open_bytes(f.bytes, f.n, &err);
    if (!rc || !strstr(err.text, text))
        printf("    wanted \"%s\", got %s: %s\n", text, err_name(rc), err.text);
    EXPECT_INT(rc, ERR_FORMAT);
    EXPECT(strstr(err.text, text) != NULL);
}

TEST(gguf_reads_tensors)
{
    static struct file f;
    struct recipe r = valid();
    struct err err = {0};
    for (r.version = 2; r.version <= 3; r.version++) {
        build(&r, &f);
        const struct source_file file = {.name = "t.gguf", .data = f.bytes, .size = f.n};
        struct source *source;
        struct weights *w;
        EXPECT_INT(source_open_memory("t", &file, 1, &source, NULL), 0);
        EXPECT_INT(weights_open(source, &w, &err), 0);
        EXPECT_INT(weights_count(w), 3);
        const struct weights_tensor *a = weights_find(w, "a.weight");
        EXPECT(a && a->type == QUANT_Q8_0 && a->n_dims == 2);
        EXPECT_STR(a->type_name, "Q8_0");
        EXPECT(a->dims[0] == 3 && a->dims[1] == 32);
        EXPECT_INT(a->bytes, 3 * 34);
        EXPECT(a->data == f.bytes + f.n - 208);
        const struct weights_tensor *c = weights_find(w, "c.weight");
        EXPECT(c && c->n_dims == 3 && c->dims[0] == 4 && c->dims[1] == 3 && c->dims[2] == 2);
        EXPECT_INT(c->bytes, 48);
        EXPECT_INT(c->data[0], 160);
        EXPECT(weights_find(w, "d.weight") == NULL);
        EXPECT(weights_at(w, 3) == NULL);
        weights_close(w);
        source_close(source);
    }
}

TEST(gguf_refuses_every_truncation)
{
    static struct file f;
    struct recipe r = valid();
    struct err err = {0};
    build(&r, &f);
    EXPECT_INT(open_bytes(f.bytes, f.n, &err), 0);
    for (size_t n = 0; n < f.n; n++)
        EXPECT_INT(open_bytes(f.bytes, n, &err), ERR_FORMAT);
}

/* Any single byte changed: opened or refused, never a fault (the sanitizers' test). */
TEST(gguf_survives_any_byte)
{
    static struct file f;
    struct recipe r = valid();
    struct err err = {0};
    build(&r, &f);
    static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff};
    for (size_t i = 0; i < f.n - 208; i++) {
        uint8_t kept = f.bytes[i];
        for (size_t j = 0; j < sizeof values; j++) {
            f.bytes[i] = values[j];
            open_bytes(f.bytes, f.n, &err);
        }
        f.bytes[i] = kept;
    }
}

TEST(gguf_refuses_wrong_headers)
{
    static const uint32_t versions[] = {0, 1, 4, UINT32_MAX};
    static const uint64_t counts[] = {UINT64_MAX >> 1, (uint64_t)1 << 31, (uint64_t)1 << 60, 200};
    struct recipe r = valid();
    r.magic = "GGUX";
    refuse(&r, "byte 0: not a GGUF file");
    r = valid();
    for (int i = 0; i < 4; i++) {
        r.version = versions[i];
        refuse(&r, "byte 4: version");
    }
    r.version = 0x03000000;
    refuse(&r, "big-endian");
    for (int i = 0; i < 4; i++) {
        r = valid();
        r.n_tensors = counts[i];
        refuse(&r, "byte 8: ");
        r = valid();
        r.n_pairs = counts[i];
        refuse(&r, "byte 16: ");
    }
    r = valid();
    r.n_pairs = 3; /* the first tensor is taken for a pair of type U16: what follows is off */
    refuse(&r, "tensor name length");
    static const uint64_t alignments[] = {0, 3, (uint64_t)1 << 21, (uint64_t)1 << 31};
    for (int i = 0; i < 4; i++) {
        r = valid();
        r.alignment = alignments[i];
        refuse(&r, "general.alignment");
    }
    r = valid();
    r.alignment_type = GGUF_F32;
    refuse(&r, "key 'general.alignment' is not an integer");
}

static void key_empty(struct file *f) { put_int(f, "", GGUF_U32, 1, 4); }
static void key_twice(struct file *f) { put_int(f, "general.alignment", GGUF_U32, 32, 4); }
static void key_not_utf8(struct file *f) { put_int(f, "k\xff", GGUF_U32, 1, 4); }
static void key_huge(struct file *f) { put(f, (uint64_t)1 << 60, 8); put(f, 0, 8); }
static void key_long(struct file *f) { put(f, 65536, 8); put(f, 0, 8); }
static void key_nul(struct file *f) { put(f, 2, 8); put(f, 'k', 2); put(f, GGUF_U8, 4); put(f, 1, 1); }
static void type_13(struct file *f) { put_int(f, "k", 13, 1, 4); }
static void type_big(struct file *f) { put_int(f, "k", (enum gguf_type)0x80000000u, 1, 4); }
static void bool_2(struct file *f) { put_int(f, "k", GGUF_BOOL, 2, 1); }
static void string_long(struct file *f) { put_int(f, "k", GGUF_STRING, (uint64_t)1 << 62, 8); }

static void put_array(struct file *f, uint32_t type, uint64_t count)
{
    put_text(f, "k");
    put(f, GGUF_ARRAY, 4);
    put(f, type, 4);
    put(f, count, 8);
}
static void array_of_arrays(struct file *f) { put_array(f, GGUF_ARRAY, 1); }
static void array_unknown(struct file *f) { put_array(f, 77, (uint64_t)1 << 60); }
static void array_wraps(struct file *f) { put_array(f, GGUF_U64, ((uint64_t)1 << 61) + 1); }
static void array_past_end(struct file *f) { put_array(f, GGUF_U8, 5000); }
static void strings_past_end(struct file *f) { put_array(f, GGUF_STRING, (uint64_t)1 << 59); }

TEST(gguf_refuses_wrong_metadata)
{
    static const struct {
        void (*more)(struct file *f);
        const char *text;
    } cases[] = {
        {key_empty, "key length 0"},        {key_twice, "key 'general.alignment' occurs twice"},
        {key_not_utf8, "not UTF-8"},        {key_huge, "key length 1152921504606846976"},
        {key_long, "key length 65536"},     {key_nul, "without NUL"},
        {type_13, "value type 13"},         {type_big, "value type 2147483648"},
        {bool_2, "a bool is 2"},            {string_long, "string 0 runs past"},
        {array_of_arrays, "array of arrays"}, {array_unknown, "value type 77"},
        {array_wraps, "do not fit"},        {array_past_end, "do not fit"},
        {strings_past_end, "strings do not fit"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct recipe r = valid();
        r.more = cases[i].more;
        refuse(&r, cases[i].text);
    }
}

TEST(gguf_refuses_wrong_tensors)
{
    static const struct {
        struct tensor t;
        const char *text;
    } cases[] = {
        {{"b.weight", 0, {0}, 0, 128}, "number of dimensions"},
        {{"b.weight", 5, {1, 1, 1, 1, 1}, 0, 128}, "number of dimensions"},
        {{"b.weight", 2, {4, 0}, 0, 128}, "a dimension is not 1..2^40"},
        {{"b.weight", 2, {4, UINT64_MAX}, 0, 128}, "a dimension is not 1..2^40"},
        {{"b.weight", 1, {((uint64_t)1 << 42) + 1}, 0, 128}, "a dimension is not 1..2^40"},
        {{"b.weight", 2, {(uint64_t)1 << 40, (uint64_t)1 << 40}, 0, 128}, "overflows"},
        {{"b.weight", 2, {(uint64_t)1 << 40, (uint64_t)1 << 22}, 0, 128}, "overflows"},
        {{"b.weight", 1, {(uint64_t)1 << 40}, 0, 128}, "past the end of the file"},
        {{"b.weight", 1, {33}, 8, 128}, "no multiple of 32, the block of type Q8_0"},
        {{"b.weight", 1, {32}, 12, 128}, "no multiple of 256, the block of type Q4_K"},
        {{"b.weight", 1, {5}, 4, 128}, "type number is unknown (4)"},
        {{"b.weight", 1, {5}, (uint32_t)1 << 31, 128}, "type number is unknown"},
        {{"b.weight", 1, {5}, 0, 100}, "offset is not aligned"},
        {{"b.weight", 1, {5}, 0, (uint64_t)1 << 63}, "past the end of the file"},
        {{"b.weight", 1, {5}, 0, 224}, "past the end of the file"},
        {{"b.weight", 1, {5}, 0, 96}, "overlap"},
        {{"b.weight", 1, {5}, 0, 160}, "overlap"},
        {{"c.weight", 1, {5}, 0, 128}, "tensor 'c.weight' occurs twice, the other time in t.gguf"},
        {{"", 1, {5}, 0, 128}, "tensor name length 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct recipe r = valid();
        r.tensors[1] = cases[i].t;
        refuse(&r, cases[i].text);
    }
}

/* Known types that Sirocco cannot compute with are listed by name, with their bytes checked. */
TEST(gguf_lists_unsupported_types)
{
    static struct file f;
    struct recipe r = valid();
    struct err err = {0};
    struct source *source;
    struct weights *w;
    r.tensors[2] = (struct tensor){"c.weight", 1, {256}, 17, 160};
    r.data_bytes = 160 + 74;
    build(&r, &f);
    const struct source_file file = {.name = "t.gguf", .data = f.bytes, .size = f.n};
    EXPECT_INT(source_open_memory("t", &file, 1, &source, NULL), 0);
    EXPECT_INT(weights_open(source, &w, &err), 0);
    EXPECT_INT(weights_find(w, "c.weight")->type, QUANT_COUNT);
    EXPECT_STR(weights_find(w, "c.weight")->type_name, "IQ2_XS");
    weights_close(w);
    source_close(source);
    r.data_bytes--;
    refuse(&r, "past the end of the file");
}

static void many_values(struct file *f)
{
    put_text(f, "list");
    put(f, GGUF_ARRAY, 4);
    put(f, GGUF_STRING, 4);
    put(f, 2, 8);
    put_text(f, "one");
    put_text(f, "");
}

TEST(gguf_reads_metadata)
{
    static struct file f;
    struct recipe r = valid();
    struct err err = {0};
    struct gguf *g;
    int64_t number = -7;
    double real = 0;
    const char *text;
    size_t size;
    int found;
    r.more = many_values;
    build(&r, &f);
    const struct source_file file = {.name = "t.gguf", .data = f.bytes, .size = f.n};
    EXPECT_INT(gguf_open(&file, &g, &err), 0);
    const struct gguf_value *list = gguf_find(g, "list");
    EXPECT(list && list->is_array && list->type == GGUF_STRING && list->count == 2);
    EXPECT(list->strings[0].size == 3 && !memcmp(list->strings[0].text, "one", 3));
    EXPECT_INT(list->strings[1].size, 0);
    EXPECT_INT(gguf_int(g, "general.alignment", 0, 64, &number, &found, &err), 0);
    EXPECT(found && number == 32);
    EXPECT_INT(gguf_int(g, "general.alignment", 33, 64, &number, &found, &err), ERR_FORMAT);
    EXPECT(strstr(err.text, "general.alignment") && number == 32);
    EXPECT_INT(gguf_int(g, "absent", 0, 1, &number, &found, &err), 0);
    EXPECT(!found && number == 32);
    EXPECT_INT(gguf_int(g, "list", 0, 1, &number, &found, &err), ERR_FORMAT);
    EXPECT_INT(gguf_float(g, "general.alignment", &real, &found, &err), ERR_FORMAT);
    EXPECT_INT(gguf_text(g, "general.architecture", &text, &size, &found, &err), 0);
    EXPECT(found && size == 5 && !memcmp(text, "llama", 5));
    EXPECT_INT(gguf_text(g, "general.alignment", &text, &size, &found, &err), ERR_FORMAT);
    gguf_close(g);
    gguf_close(NULL);
}

static uint64_t wide_value;
static enum gguf_type wide_type;
static int wide_bytes;
static void wide(struct file *f) { put_int(f, "k", wide_type, wide_value, wide_bytes); }

TEST(gguf_converts_every_number_type)
{
    static const struct {
        enum gguf_type type;
        int bytes;
        uint64_t bits;
        int64_t value; /* INT64_MIN: refused */
    } cases[] = {
        {GGUF_U8, 1, 0xff, 255},       {GGUF_I8, 1, 0xff, -1},
        {GGUF_U16, 2, 0xffff, 65535},  {GGUF_I16, 2, 0x8000, -32768},
        {GGUF_U32, 4, 0xffffffff, 4294967295}, {GGUF_I32, 4, 0xffffffff, -1},
        {GGUF_BOOL, 1, 1, 1},          {GGUF_I64, 8, UINT64_MAX, -1},
        {GGUF_U64, 8, 5, 5},           {GGUF_U64, 8, UINT64_MAX, INT64_MIN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static struct file f;
        struct recipe r = valid();
        struct gguf *g;
        int64_t number = 0;
        int found;
        wide_type = cases[i].type;
        wide_bytes = cases[i].bytes;
        wide_value = cases[i].bits;
        r.more = wide;
        build(&r, &f);
        const struct source_file file = {.name = "t.gguf", .data = f.bytes, .size = f.n};
        EXPECT_INT(gguf_open(&file, &g, NULL), 0);
        int rc = gguf_int(g, "k", INT64_MIN, INT64_MAX, &number, &found, NULL);
        if (cases[i].value == INT64_MIN) {
            EXPECT_INT(rc, ERR_FORMAT);
        } else {
            EXPECT_INT(rc, 0);
            EXPECT_INT(number, cases[i].value);
        }
        gguf_close(g);
    }
}

TEST(gguf_edge_files)
{
    static const struct {
        const char *path;
        int rc;
    } cases[] = {{"weights/edge-files/empty.gguf", 0}, {"weights/edge-files/tiny.gguf", ERR_FORMAT}};
    for (size_t i = 0; i < 2; i++) {
        const char *path = test_data(cases[i].path);
        struct err err = {0};
        size_t n;
        if (!path)
            SKIP("SIROCCO_TEST_DATA has no weights/edge-files");
        char *bytes = test_read(path, &n);
        EXPECT(bytes != NULL);
        EXPECT_INT(open_bytes((uint8_t *)bytes, n, &err), cases[i].rc);
        free(bytes);
    }
}
