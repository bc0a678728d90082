/* safetensors: valid files, the rules of the reference reader one by one, shards and their index. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/weights.h"
#include "tests/test.h"

/* header size, header, data bytes; exact heap memory */
static uint8_t *build(const char *header, uint64_t header_bytes, size_t data_bytes, size_t *n)
{
    size_t text = strlen(header);
    uint8_t *bytes = malloc(8 + text + data_bytes);
    EXPECT(bytes != NULL);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(header_bytes >> (8 * i));
    memcpy(bytes + 8, header, text);
    for (size_t i = 0; i < data_bytes; i++)
        bytes[8 + text + i] = (uint8_t)i;
    *n = 8 + text + data_bytes;
    return bytes;
}

static int open_files(const struct source_file *files, size_t n, struct weights **w,
                      struct source **source, struct err *err)
{
    EXPECT_INT(source_open_memory("t", files, n, source, NULL), 0);
    return weights_open(*source, w, err);
}

static int open_bytes(const uint8_t *bytes, size_t n, struct err *err)
{
    const struct source_file file = {.name = "model.safetensors", .data = bytes, .size = n};
    struct source *source;
    struct weights *w = NULL;
    int rc = open_files(&file, 1, &w, &source, err);
    EXPECT(!rc == (w != NULL));
    weights_close(w);
    source_close(source);
    return rc;
}

static void refuse_sized(const char *header, uint64_t header_bytes, size_t data_bytes,
                         const char *text)
{
    struct err err = {0};
    size_t n;
    uint8_t *bytes = build(header, header_bytes, data_bytes, &n);
    int rc = open_bytes(bytes, n, &err);
    if (!strstr(err.text, text))
        printf("    %s\n    wanted \"%s\", got %s: %s\n", header, text, err_name(rc), err.text);
    EXPECT_INT(rc, ERR_FORMAT);
    EXPECT(strstr(err.text, text) != NULL);
    EXPECT(!strncmp(err.text, "model.safetensors: ", 19));
    free(bytes);
}

static void refuse(const char *header, size_t data_bytes, const char *text)
{
    refuse_sized(header, strlen(header), data_bytes, text);
}

static const char valid[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[16,28]},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
    "\"c\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[28,36]},"
    "\"d\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[36,36]},"
    "\"e\":{\"dtype\":\"F16\",\"shape\":[1,1,1,1,2],\"data_offsets\":[36,40]}}   ";

TEST(safetensors_reads_tensors)
{
    struct err err = {0};
    struct weights *w;
    struct source *source;
    size_t n;
    uint8_t *bytes = build(valid, strlen(valid), 40, &n);
    const struct source_file file = {.name = "model.safetensors", .data = bytes, .size = n};
    EXPECT_INT(open_files(&file, 1, &w, &source, &err), 0);
    EXPECT_INT(weights_count(w), 5);
    const struct weights_tensor *b = weights_find(w, "b");
    EXPECT(b && b->type == QUANT_BF16 && b->n_dims == 2 && b->dims[0] == 2 && b->dims[1] == 3);
    EXPECT_INT(b->bytes, 12);
    EXPECT_INT(b->data[0], 16);
    EXPECT_INT(weights_find(w, "c")->type, QUANT_COUNT); /* listed, unusable */
    EXPECT_STR(weights_find(w, "c")->type_name, "F64");
    EXPECT_INT(weights_find(w, "d")->bytes, 0);
    EXPECT_INT(weights_find(w, "e")->type, QUANT_COUNT); /* more dimensions than are kept */
    EXPECT(weights_find(w, "__metadata__") == NULL);
    weights_close(w);
    weights_close(NULL);
    source_close(source);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *copy = malloc(cut ? cut : 1);
        memcpy(copy, bytes, cut);
        EXPECT_INT(open_bytes(copy, cut, &err), ERR_FORMAT);
        free(copy);
    }
    free(bytes);
}

TEST(safetensors_refuses_wrong_headers)
{
    refuse_sized("{}", 0, 0, "does not begin with '{'");
    refuse_sized("{}", (uint64_t)1 << 63, 0, "byte 0: header size 9223372036854775808 is above");
    refuse_sized("{}", 100000001, 0, "is above 100000000");
    refuse_sized("{}", 3, 0, "more than the file's");
    refuse(" {}", 0, "does not begin with '{'");
    refuse("[]", 0, "does not begin with '{'");
    refuse("{", 0, "header");
    refuse("{}x", 0, "header");
    refuse("{\"a\xff\":1}", 0, "header");
    refuse("{\"a\":1,\"a\":1}", 0, "header");
    refuse("{\"__metadata__\":{\"x\":1}}", 0, "__metadata__ 'x' is not a string");
    refuse("{\"__metadata__\":[]}", 0, "__metadata__ is not an object");
    refuse("{}", 1, "the tensors end at byte 0 of the data, the file at 1");
}

#define ONE(dtype, shape, offsets)                                                                 \
    "{\"x\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

TEST(safetensors_refuses_wrong_tensors)
{
    refuse("{\"x\":1}", 0, "tensor 'x': not an object");
    refuse(ONE("\"F31\"", "[1]", "[0,4]"), 4, "tensor 'x': dtype 'F31' is unknown");
    refuse(ONE("5", "[1]", "[0,4]"), 4, "dtype '(none)'");
    refuse(ONE("\"F32\"", "1", "[0,4]"), 4, "shape must be an array");
    refuse(ONE("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "at most 8");
    refuse(ONE("\"F32\"", "[-1]", "[0,4]"), 4, "shape[0]");
    refuse(ONE("\"F32\"", "[1.0]", "[0,4]"), 4, "shape[0]");
    refuse(ONE("\"F32\"", "[4294967296,4294967296]", "[0,4]"), 4, "shape[1]");
    refuse(ONE("\"F32\"", "[1152921504606846976]", "[0,4]"), 4, "shape[0]");
    refuse(ONE("\"F32\"", "[1]", "[4,0]"), 4, "begin <= end");
    refuse(ONE("\"F32\"", "[1]", "[0,-4]"), 4, "begin <= end");
    refuse(ONE("\"F32\"", "[1]", "[0]"), 4, "begin <= end");
    refuse(ONE("\"F32\"", "[1]", "[0,4.0]"), 4, "begin <= end");
    refuse(ONE("\"F32\"", "[1]", "[0,5]"), 5, "need 4 bytes, data_offsets say 5");
    refuse(ONE("\"F4\"", "[1]", "[0,0]"), 0, "need 0 bytes");
    refuse(ONE("\"F32\"", "[1]", "[4,8]"), 8, "hole");
    refuse(ONE("\"F32\"", "[1]", "[0,4]"), 3, "the tensors end at byte 4");
    refuse(ONE("\"F32\"", "[1]", "[0,4]"), 5, "the tensors end at byte 4");
    refuse("{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
           "\"y\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}", 6, "overlap");
}

/* ---- shards */

struct shards {
    const char *index, *first, *second; /* headers; second NULL: that file is absent */
};

static int open_shards(const struct shards *s, struct err *err, size_t *count)
{
    struct source_file files[3] = {{.name = "model.safetensors.index.json",
                                    .data = (const uint8_t *)s->index, .size = strlen(s->index)}};
    size_t n_files = 1;
    struct weights *w = NULL;
    struct source *source;
    files[n_files].name = "one";
    files[n_files].data = build(s->first, strlen(s->first), 4, &files[n_files].size);
    n_files++;
    if (s->second) {
        files[n_files].name = "two";
        files[n_files].data = build(s->second, strlen(s->second), 4, &files[n_files].size);
        n_files++;
    }
    int rc = open_files(files, n_files, &w, &source, err);
    if (!rc)
        *count = weights_count(w);
    weights_close(w);
    source_close(source);
    for (size_t i = 1; i < n_files; i++)
        free((void *)files[i].data);
    return rc;
}

#define SHARD(name) "{\"" name "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"
#define MAP(text) "{\"metadata\":{\"total_size\":1},\"weight_map\":" text "}"

TEST(safetensors_reads_shards)
{
    struct err err = {0};
    size_t count = 0;
    struct shards s = {MAP("{\"a\":\"one\",\"b\":\"two\"}"), SHARD("a"), SHARD("b")};
    EXPECT_INT(open_shards(&s, &err, &count), 0);
    EXPECT_INT(count, 2);
}

TEST(safetensors_refuses_wrong_shards)
{
    static const struct {
        struct shards s;
        const char *text;
    } cases[] = {
        {{MAP("{\"a\":\"one\",\"b\":\"two\"}"), SHARD("a"), NULL}, "'two', which does not exist"},
        {{MAP("{\"a\":\"../one\"}"), SHARD("a"), NULL}, "'../one' is not a plain file name"},
        {{MAP("{\"a\":\"/etc/passwd\"}"), SHARD("a"), NULL}, "not a plain file name"},
        {{MAP("{\"a\":\"\"}"), SHARD("a"), NULL}, "not a plain file name"},
        {{MAP("{\"a\":5}"), SHARD("a"), NULL}, "weight_map 'a' is not a string"},
        {{MAP("{\"a\":\"two\",\"b\":\"one\"}"), SHARD("a"), SHARD("b")},
         "tensor 'b' is in two, weight_map says one"},
        {{MAP("{\"a\":\"one\"}"), SHARD("z"), NULL}, "tensor 'z' is in one, weight_map says nothing"},
        {{MAP("{\"a\":\"one\",\"b\":\"one\"}"), SHARD("a"), NULL}, "tensor 'b' is not in one"},
        {{MAP("{\"a\":\"one\",\"b\":\"two\"}"), SHARD("a"), SHARD("a")},
         "tensor 'a' is in two, weight_map says"},
        {{"{}", SHARD("a"), NULL}, "weight_map is missing"},
        {{"{\"weight_map\":", SHARD("a"), NULL}, "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = {0};
        size_t count;
        int rc = open_shards(&cases[i].s, &err, &count);
        if (!rc || !strstr(err.text, cases[i].text))
            printf("    wanted \"%s\", got %s: %s\n", cases[i].text, err_name(rc), err.text);
        EXPECT_INT(rc, ERR_FORMAT);
        EXPECT(strstr(err.text, cases[i].text) != NULL);
    }
}

TEST(safetensors_names_what_is_missing)
{
    struct err err = {0};
    struct weights *w;
    struct source *source;
    const struct source_file file = {.name = "config.json", .data = (const uint8_t *)"{}",
                                     .size = 2};
    EXPECT_INT(open_files(&file, 1, &w, &source, &err), ERR_FORMAT);
    EXPECT(strstr(err.text, "model.safetensors.index.json") != NULL);
    source_close(source);
}

TEST(safetensors_edge_files)
{
    static const struct {
        const char *path;
        int rc;
    } cases[] = {{"weights/edge-files/tensor-1d-int32.safetensors", 0},
                 {"weights/edge-files/tensor-2d-float64.safetensors", 0},
                 {"weights/edge-files/tensor-3d-float32.safetensors", 0},
                 {"weights/edge-files/tensor-4d-float32.safetensors", 0},
                 {"weights/edge-files/tiny.safetensors", ERR_FORMAT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
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
