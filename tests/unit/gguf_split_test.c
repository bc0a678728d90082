/* gguf_split: parts in memory and on disk; each of the ways in which they can disagree. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "tests/test.h"

enum { PARTS = 3, ABSENT = -1 };

/* One part: its keys (ABSENT: not written) and the tensor it holds, of 8 floats. */
struct part {
    const char *name;
    int64_t no, count, tensors;
    const char *arch;   /* NULL: not said */
    const char *tensor; /* NULL: none */
};

static void put(struct buf *b, uint64_t value, int n)
{
    for (int i = 0; i < n; i++)
        buf_byte(b, (char)(value >> (8 * i)));
}

static void put_text(struct buf *b, const char *text)
{
    put(b, strlen(text), 8);
    buf_text(b, text);
}

static void put_int(struct buf *b, const char *key, int64_t value, enum gguf_type type, int n)
{
    if (value == ABSENT)
        return;
    put_text(b, key);
    put(b, type, 4);
    put(b, (uint64_t)value, n);
}

static struct buf build(const struct part *p, int mark)
{
    struct buf b = {0};
    buf_text(&b, "GGUF");
    put(&b, 3, 4);
    put(&b, p->tensor != NULL, 8);
    put(&b, (uint64_t)((p->no != ABSENT) + (p->count != ABSENT) + (p->tensors != ABSENT) +
                       (p->arch != NULL)), 8);
    if (p->arch) {
        put_text(&b, "general.architecture");
        put(&b, GGUF_STRING, 4);
        put_text(&b, p->arch);
    }
    put_int(&b, "split.no", p->no, GGUF_U16, 2);
    put_int(&b, "split.count", p->count, GGUF_U16, 2);
    put_int(&b, "split.tensors.count", p->tensors, GGUF_I32, 4);
    if (p->tensor) {
        put_text(&b, p->tensor);
        put(&b, 1, 4);
        put(&b, 8, 8);
        put(&b, 0, 4);
        put(&b, 0, 8);
    }
    while (b.size % 32)
        buf_byte(&b, 0);
    for (int i = 0; p->tensor && i < 8; i++) {
        float value = (float)(10 * mark + i);
        buf_add(&b, &value, sizeof value);
    }
    EXPECT_INT(b.failed, 0);
    return b;
}

struct set {
    struct part parts[PARTS];
    int n;
};

static struct set valid(void)
{
    return (struct set){.n = PARTS,
                        .parts = {{"m-00001-of-00003.gguf", 0, 3, 2, "llama", NULL},
                                  {"m-00002-of-00003.gguf", 1, 3, 2, NULL, "a.weight"},
                                  {"m-00003-of-00003.gguf", 2, 3, 2, NULL, "b.weight"}}};
}

/* Opens the parts from memory, last first: their order must not matter. */
static int open_set(const struct set *set, struct weights **w, struct source **source,
                    struct buf files[PARTS], struct err *err)
{
    struct source_file list[PARTS];
    for (int i = 0; i < set->n; i++) {
        files[i] = build(&set->parts[i], i);
        list[set->n - 1 - i] =
            (struct source_file){.name = set->parts[i].name, .size = files[i].size,
                                 .data = (const uint8_t *)files[i].data};
    }
    int rc = source_open_memory("t", list, (size_t)set->n, source, err);
    return rc ? rc : weights_open(*source, w, err);
}

static void refuse(const struct set *set, const char *text)
{
    struct weights *w = NULL;
    struct source *source = NULL;
    struct buf files[PARTS] = {{0}};
    struct err err = {0};
    int rc = open_set(set, &w, &source, files, &err);
    if (!rc || !strstr(err.text, text))
        printf("    wanted \"%s\", got %s: %s\n", text, err_name(rc), err.text);
    EXPECT_INT(rc, ERR_FORMAT);
    EXPECT(strstr(err.text, text) != NULL);
    EXPECT(w == NULL);
    source_close(source);
    for (int i = 0; i < set->n; i++)
        buf_free(&files[i]);
}

TEST(gguf_split_reads_every_part)
{
    struct weights *w = NULL;
    struct source *source = NULL;
    struct buf files[PARTS] = {{0}};
    struct err err = {0};
    struct set set = valid();
    EXPECT_INT(open_set(&set, &w, &source, files, &err), 0);
    EXPECT_INT(source_n_parts(source), 3);
    EXPECT_STR(source_gguf(source)->name, "m-00001-of-00003.gguf");
    EXPECT_STR(source_part(source, 3)->name, "m-00003-of-00003.gguf");
    EXPECT(source_part(source, 4) == NULL && source_part(source, 0) == NULL);
    EXPECT_INT(weights_count(w), 2);
    const struct weights_tensor *b = weights_find(w, "b.weight");
    EXPECT(b != NULL);
    EXPECT_STR(b->file, "m-00003-of-00003.gguf");
    float first;
    memcpy(&first, b->data, sizeof first);
    EXPECT(first == 20);
    weights_close(w);
    source_close(source);
    for (int i = 0; i < set.n; i++)
        buf_free(&files[i]);
}

TEST(gguf_split_refuses_parts_that_disagree)
{
    struct set s = valid();
    s.parts[1].no = 2;
    refuse(&s, "m-00002-of-00003.gguf: key 'split.no' is 2, not 1");
    s = valid();
    s.parts[2].no = ABSENT;
    refuse(&s, "m-00003-of-00003.gguf: key 'split.no' is missing");
    s = valid();
    s.parts[0].count = 2;
    refuse(&s, "m-00001-of-00003.gguf: key 'split.count' is 2, not 3");
    s = valid();
    s.parts[1].count = ABSENT;
    refuse(&s, "m-00002-of-00003.gguf: key 'split.count' is missing");
    s = valid();
    s.parts[2].tensors = 3;
    refuse(&s, "m-00003-of-00003.gguf: key 'split.tensors.count' is 3, in m-00002-of-00003.gguf");
    s = valid();
    for (int i = 0; i < PARTS; i++)
        s.parts[i].tensors = 5;
    refuse(&s, "key 'split.tensors.count' is 5, the 3 parts hold 2 tensors");
    s = valid();
    s.parts[2].arch = "qwen2";
    refuse(&s, "m-00003-of-00003.gguf: key 'general.architecture' is 'qwen2', in "
               "m-00001-of-00003.gguf it is 'llama'");
    s = valid();
    s.parts[2].tensor = "a.weight";
    refuse(&s, "tensor 'a.weight' occurs twice, the other time in m-0000");
}

TEST(gguf_split_refuses_missing_and_foreign_parts)
{
    struct set s = valid();
    s.n = 2;
    refuse(&s, "part 3 of 3, 'm-00003-of-00003.gguf', is missing");
    s = valid();
    s.parts[0] = s.parts[2];
    s.n = 2;
    refuse(&s, "part 1 of 3, 'm-00001-of-00003.gguf', is missing");
    s = valid();
    s.parts[0].name = "n-00001-of-00003.gguf";
    refuse(&s, "is missing");
    s = valid();
    s.n = 1;
    s.parts[0] = (struct part){"whole.gguf", 0, 3, 2, "llama", "a.weight"};
    refuse(&s, "whole.gguf: key 'split.count' is 3, but the file is not called");
    s.parts[0] = (struct part){"one-00001-of-00001.gguf", 0, 2, ABSENT, "llama", "a.weight"};
    refuse(&s, "key 'split.count' is 2, but");
}

TEST(gguf_split_of_one_part)
{
    struct weights *w = NULL;
    struct source *source = NULL;
    struct buf files[PARTS] = {{0}};
    struct err err = {0};
    struct set s = {.n = 1, .parts = {{"one-00001-of-00001.gguf", 0, 1, 1, "llama", "a.weight"}}};
    EXPECT_INT(open_set(&s, &w, &source, files, &err), 0);
    EXPECT_INT(weights_count(w), 1);
    weights_close(w);
    source_close(source);
    buf_free(&files[0]);
}

TEST(gguf_split_names)
{
    int no = 0, n = 0;
    EXPECT(source_split("m-00002-of-00013.gguf", &no, &n) && no == 2 && n == 13);
    EXPECT(source_split("-00001-of-00001.gguf", &no, &n) && no == 1 && n == 1);
    static const char *const others[] = {
        "", ".gguf", "m.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf",
        "m-0001-of-0002.gguf", "m-00001-of-00002.bin", "m_00001-of-00002.gguf",
        "m-0000x-of-00002.gguf", "00001-of-00002.gguf", "m-00001-in-00002.gguf"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        EXPECT(!source_split(others[i], &no, &n));
}

/* Any part, or the folder, opens all of them; the model is called by what they share. */
TEST(gguf_split_on_disk)
{
    char folder[] = "/tmp/sirocco-split-XXXXXX", path[PARTS][128], other[128];
    struct set s = valid();
    EXPECT(mkdtemp(folder) != NULL);
    for (int i = 0; i < PARTS; i++) {
        struct buf b = build(&s.parts[i], i);
        snprintf(path[i], sizeof path[i], "%s/%s", folder, s.parts[i].name);
        FILE *file = fopen(path[i], "wb");
        EXPECT(file && fwrite(b.data, 1, b.size, file) == b.size && !fclose(file));
        buf_free(&b);
    }
    snprintf(other, sizeof other, "%s/other.gguf", folder);
    for (int i = 0; i <= PARTS; i++) {
        struct source *source = NULL;
        struct weights *w = NULL;
        struct err err = {0};
        EXPECT_INT(source_open(i < PARTS ? path[i] : folder, &source, &err), 0);
        EXPECT_STR(source_gguf(source)->name, "m-00001-of-00003.gguf");
        if (i < PARTS)
            EXPECT_STR(source_name(source), "m");
        EXPECT_INT(weights_open(source, &w, &err), 0);
        EXPECT_INT(weights_count(w), 2);
        weights_close(w);
        source_close(source);
    }
    struct source *source = NULL;
    struct err err = {0};
    EXPECT_INT(link(path[0], other), 0); /* a second model beside it */
    EXPECT_INT(source_open(folder, &source, &err), ERR_FORMAT);
    EXPECT(strstr(err.text, "4 .gguf files") != NULL);
    EXPECT_INT(source_open(path[0], &source, &err), 0);
    source_close(source);
    unlink(path[1]);
    EXPECT_INT(source_open(path[2], &source, &err), ERR_FORMAT);
    EXPECT(strstr(err.text, "part 2 of 3, 'm-00002-of-00003.gguf', is missing") != NULL);
    unlink(path[0]);
    unlink(path[2]);
    unlink(other);
    EXPECT_INT(rmdir(folder), 0);
}
