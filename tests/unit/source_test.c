/* source: folders, single files, memory; what is refused and how it says so. */
#include "engine/source.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/test.h"

static char folder[] = "/tmp/sirocco-source-XXXXXX";

static const char *make_folder(void)
{
    EXPECT(mkdtemp(folder) != NULL);
    return folder;
}

static const char *in_folder(const char *name)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void write_file(const char *name, const char *text)
{
    FILE *file = fopen(in_folder(name), "wb");
    EXPECT(file != NULL);
    fputs(text, file);
    fclose(file);
}

static void remove_all(const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (unlink(in_folder(names[i])))
            rmdir(in_folder(names[i]));
    rmdir(folder);
}

static void expect_refused(const char *path, int code, const char *text)
{
    struct source *s = NULL;
    struct err err = {0};
    int rc = source_open(path, &s, &err);
    EXPECT_INT(rc, code);
    EXPECT(s == NULL);
    EXPECT(strstr(err.text, path) != NULL || strlen(path) > 400);
    if (!strstr(err.text, text))
        printf("    %s\n", err.text);
    EXPECT(strstr(err.text, text) != NULL);
}

TEST(source_reads_a_folder)
{
    static const char *const names[] = {"config.json", "b.txt", "empty", ".hidden", "link",
                                        "dangling",    "sub",   "pipe"};
    struct source *s;
    struct err err = {0};
    make_folder();
    write_file("config.json", "{}");
    write_file("b.txt", "bee");
    write_file("empty", "");
    write_file(".hidden", "x");
    EXPECT_INT(symlink("b.txt", in_folder("link")), 0);
    EXPECT_INT(symlink("nowhere", in_folder("dangling")), 0);
    EXPECT_INT(mkdir(in_folder("sub"), 0700), 0);
    EXPECT_INT(mkfifo(in_folder("pipe"), 0600), 0);
    EXPECT_INT(source_open(folder, &s, &err), 0);
    EXPECT_INT(source_count(s), 4);
    EXPECT_STR(source_at(s, 0)->name, "b.txt");
    EXPECT(source_at(s, 4) == NULL);
    EXPECT_INT(source_find(s, "b.txt")->size, 3);
    EXPECT(!memcmp(source_find(s, "link")->data, "bee", 3));
    EXPECT_INT(source_find(s, "empty")->size, 0);
    EXPECT(source_find(s, "empty")->data != NULL);
    EXPECT(source_find(s, "pipe") == NULL && source_find(s, "sub") == NULL);
    EXPECT(source_find(s, "dangling") == NULL && source_find(s, ".hidden") == NULL);
    EXPECT(source_gguf(s) == NULL);
    EXPECT_STR(source_path(s), folder);
    EXPECT_STR(source_name(s), folder + strlen("/tmp/"));
    /* the mapping outlives the file */
    unlink(in_folder("b.txt"));
    EXPECT(!memcmp(source_find(s, "b.txt")->data, "bee", 3));
    source_close(s);
    remove_all(names, sizeof names / sizeof *names);
}

TEST(source_names_come_from_the_path)
{
    static const char *const names[] = {"config.json", "tiny.gguf"};
    struct source *s;
    struct err err = {0};
    char path[600];
    make_folder();
    write_file("config.json", "{}");
    write_file("tiny.gguf", "GGUF");
    snprintf(path, sizeof path, "%s///", folder);
    EXPECT_INT(source_open(path, &s, &err), 0);
    EXPECT_STR(source_name(s), folder + strlen("/tmp/"));
    source_close(s);
    EXPECT_INT(chdir(folder), 0);
    EXPECT_INT(source_open(".", &s, &err), 0);
    EXPECT_STR(source_name(s), folder + strlen("/tmp/"));
    source_close(s);
    EXPECT_INT(source_open("tiny.gguf", &s, &err), 0);
    EXPECT_STR(source_name(s), "tiny");
    EXPECT(source_gguf(s) && source_gguf(s)->size == 4);
    EXPECT_STR(source_gguf(s)->name, "tiny.gguf");
    source_close(s);
    remove_all(names, sizeof names / sizeof *names);
}

TEST(source_finds_the_gguf_of_a_folder)
{
    static const char *const names[] = {"a.gguf", "b.gguf", "config.json"};
    struct source *s;
    struct err err = {0};
    make_folder();
    expect_refused(folder, ERR_FORMAT, "neither config.json nor params.json nor a .gguf");
    write_file("a.gguf", "GGUF");
    EXPECT_INT(source_open(folder, &s, &err), 0);
    EXPECT(source_gguf(s) == source_find(s, "a.gguf") && source_gguf(s));
    source_close(s);
    write_file("b.gguf", "GGUF");
    expect_refused(folder, ERR_FORMAT, "2 .gguf files");
    write_file("config.json", "{}"); /* then the folder is a Hugging Face one */
    EXPECT_INT(source_open(folder, &s, &err), 0);
    EXPECT(source_gguf(s) == NULL);
    source_close(s);
    remove_all(names, sizeof names / sizeof *names);
}

TEST(source_refuses_what_is_no_model)
{
    static const char *const names[] = {"pipe", "text", "loop", "empty", "config.json"};
    char lengthy[5000];
    make_folder();
    expect_refused(in_folder("missing"), ERR_IO, "No such file");
    EXPECT_INT(mkfifo(in_folder("pipe"), 0600), 0);
    expect_refused(in_folder("pipe"), ERR_FORMAT, "neither a folder nor a regular file");
    expect_refused("/dev/zero", ERR_FORMAT, "neither a folder nor a regular file");
    write_file("text", "hello");
    expect_refused(in_folder("text"), ERR_FORMAT, "neither a model folder nor a .gguf");
    write_file("empty", "");
    expect_refused(in_folder("empty"), ERR_FORMAT, "neither a model folder nor a .gguf");
    EXPECT_INT(symlink("loop", in_folder("loop")), 0);
    expect_refused(in_folder("loop"), ERR_IO, "symbolic links");
    expect_refused("", ERR_IO, "No such file");
    memset(lengthy, 'x', sizeof lengthy - 1);
    lengthy[sizeof lengthy - 1] = 0;
    expect_refused(lengthy, ERR_IO, "");
    write_file("config.json", "{}");
    chmod(in_folder("config.json"), 0);
    if (geteuid()) /* root reads everything */
        expect_refused(folder, ERR_IO, "Permission denied");
    unlink(in_folder("loop"));
    remove_all(names, sizeof names / sizeof *names);
}

TEST(source_borrows_memory)
{
    static const uint8_t bytes[] = "{}";
    const struct source_file files[] = {{.name = "config.json", .data = bytes, .size = 2},
                                        {.name = "x.gguf", .data = bytes, .size = 1}};
    struct source *s;
    EXPECT_INT(source_open_memory("demo", files, 2, &s, NULL), 0);
    EXPECT_STR(source_name(s), "demo");
    EXPECT_STR(source_path(s), "(embedded)");
    EXPECT(source_find(s, "config.json")->data == bytes);
    EXPECT(source_gguf(s) == NULL);
    source_close(s);
    EXPECT_INT(source_open_memory("demo", files + 1, 1, &s, NULL), 0);
    EXPECT(source_gguf(s) != NULL);
    source_close(s);
    source_close(NULL);
}
