/* Checkpoints of other quantizers, against what make_quantized_models.py says they mean: every
 * matrix to the bit, logits and greedy tokens at every instruction level; and what is refused. */
#include <dirent.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/golden/rig.h"

struct row {
    const char *name;
    const char *q, *down, *o; /* what the matrices of 128 and of 64 columns become */
};

static const struct row rows[] = {
    {"fp8-block", "F8_128", "F8_128", "F32"},
    {"fp8-block-32", "F32", "F32", "F32"},
    {"fp8-tensor", "F8_128", "F8_128", "F32"},
    {"fp8-tensor-native", "F8_128", "F8_128", "F32"},
    {"fp8-channel", "F8_128", "F8_128", "F32"},
    {"w4a16", "G4_128", "G4_128", "G4"},
    {"w4a16-asymmetric", "G4", "G4", "G4"},
    {"w8a16", "Q8_0", "Q8_0", "Q8_0"},
    {"w8a8", "G8_128", "G8_128", "G8"},
    {"w8a8-asymmetric", "G8_128", "G8_128", "G8"},
    {"gptq", "Q4_0", "Q4_0", "Q4_0"},
    {"gptq-asymmetric", "G4", "G4", "G4"},
    {"gptq-v2-8bit", "G8_128", "G8_128", "G8"},
    {"gptq-desc-act", "F32", "F32", "F32"},
    {"awq", "G4_128", "G4_128", "G4"},
    {"awq-32", "G4", "G4", "G4"},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

/* The folder that holds expected.json: of Mistral's own layout, that of the other. */
static json_t *expected_of(const char *name)
{
    char path[1300];
    size_t n = strlen(name);
    if (n > 7 && !strcmp(name + n - 7, "-native"))
        n -= 7;
    snprintf(path, sizeof path, "%s/%.*s/expected.json", test_path("tests/golden/models"), (int)n,
             name);
    return rig_json(path);
}

static uint64_t hash_of(const struct weights_tensor *t)
{
    uint64_t hash = 0xcbf29ce484222325u;
    size_t cols = (size_t)t->dims[1], row_bytes = quant_row_bytes(t->type, cols);
    float *row = calloc(cols, sizeof *row);
    EXPECT(row != NULL);
    for (int64_t r = 0; r < t->dims[0]; r++) {
        quant_formats[t->type].decode(t->data + (size_t)r * row_bytes, row, cols);
        for (size_t i = 0; i < cols * sizeof *row; i++)
            hash = (hash ^ ((const uint8_t *)row)[i]) * 0x100000001b3u;
    }
    free(row);
    return hash;
}

static void open_weights(const char *name, struct source **source, struct weights **w)
{
    char path[1300];
    struct err err = {0};
    snprintf(path, sizeof path, "%s/%s", test_path("tests/golden/models"), name);
    rig_require(source_open(path, source, &err), &err);
    rig_require(weights_open(*source, w, &err), &err);
    rig_require(weights_load(*w, NULL, &err), &err);
}

TEST(repack_is_exact)
{
    for (int i = 0; i < N_ROWS; i++) {
        struct source *source;
        struct weights *w;
        const char *name;
        json_t *hash;
        if (strstr(rows[i].name, "-native"))
            continue; /* its q and k have their rows in another order */
        json_t *expected = expected_of(rows[i].name);
        open_weights(rows[i].name, &source, &w);
        EXPECT_INT(json_object_size(json_object_get(expected, "hashes")), 7);
        json_object_foreach(json_object_get(expected, "hashes"), name, hash) {
            char ours[24];
            const struct weights_tensor *t = weights_find(w, name);
            EXPECT(t != NULL);
            snprintf(ours, sizeof ours, "%016" PRIx64, hash_of(t));
            if (strcmp(ours, json_string_value(hash)))
                printf("    %s: %s as %s\n", rows[i].name, name, t->type_name);
            EXPECT_STR(ours, json_string_value(hash));
        }
        weights_close(w);
        source_close(source);
        json_decref(expected);
    }
}

TEST(repack_chooses_exact_formats)
{
    for (int i = 0; i < N_ROWS; i++) {
        struct rig r;
        char path[1300];
        snprintf(path, sizeof path, "%s/%s", test_path("tests/golden/models"), rows[i].name);
        EXPECT(rig_open(&r, path, (struct rig_options){0}));
        const struct model_layer *l = &r.m->layers[0];
        EXPECT(weights_method(r.m->weights) != NULL);
        EXPECT_STR(quant_formats[l->wq.type].name, rows[i].q);
        EXPECT_STR(quant_formats[l->down.type].name, rows[i].down);
        EXPECT_STR(quant_formats[l->wo.type].name, rows[i].o);
        rig_close(&r);
    }
}

/* ---- what is kept for the next start */

/* The only file in the folder that ends so; "" when there is none. */
static void kept_file(const char *folder, char path[1400])
{
    DIR *dir = opendir(folder);
    struct dirent *e;
    int n = 0;
    EXPECT(dir != NULL);
    path[0] = '\0';
    while ((e = readdir(dir)))
        if (e->d_name[0] != '.') {
            snprintf(path, 1400, "%s/%s", folder, e->d_name);
            n++;
        }
    closedir(dir);
    EXPECT(n <= 1);
}

static uint64_t hash_all(const char *model, const char *kept)
{
    struct source *source;
    struct weights *w;
    struct err err = {0};
    uint64_t hash = 0;
    rig_require(source_open(model, &source, &err), &err);
    rig_require(weights_open(source, &w, &err), &err);
    rig_require(weights_load(w, kept, &err), &err);
    for (size_t i = 0; i < weights_count(w); i++)
        if (weights_at(w, i)->n_dims == 2)
            hash = hash * 31 + hash_of(weights_at(w, i));
    weights_close(w);
    source_close(source);
    return hash;
}

static ino_t file_no(const char *path)
{
    struct stat status;
    EXPECT_INT(stat(path, &status), 0);
    return status.st_ino;
}

static void change_byte(const char *path, long at)
{
    FILE *f = fopen(path, "r+");
    EXPECT(f != NULL);
    EXPECT_INT(fseek(f, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    int byte = fgetc(f);
    EXPECT_INT(fseek(f, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    fputc(byte ^ 1, f);
    EXPECT_INT(fclose(f), 0);
}

/* A file that is whole is mapped, one that is not is made again; both give the same weights. */
TEST(repacked_weights_are_kept)
{
    static const long places[] = {0, 16, 24, 40, 48, 65536, 65536 + 12345, -1};
    char folder[] = "/tmp/sirocco-kept-XXXXXX", model[1300], path[1400];
    EXPECT(mkdtemp(folder) != NULL);
    snprintf(model, sizeof model, "%s/gptq-asymmetric", test_path("tests/golden/models"));
    uint64_t want = hash_all(model, NULL);
    EXPECT(hash_all(model, folder) == want);
    kept_file(folder, path);
    EXPECT(path[0] && !strcmp(path + strlen(path) - 7, ".repack"));
    ino_t first = file_no(path);
    EXPECT(hash_all(model, folder) == want);
    EXPECT(file_no(path) == first); /* it was read */
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char again[1400], held[1410];
        snprintf(held, sizeof held, "%s-held", folder); /* so that the number is not given again */
        EXPECT_INT(link(path, held), 0);
        ino_t old = file_no(path);
        change_byte(path, places[i]);
        EXPECT(hash_all(model, folder) == want);
        kept_file(folder, again);
        EXPECT_STR(again, path);
        EXPECT(file_no(path) != old); /* it was made again */
        EXPECT_INT(unlink(held), 0);
    }
    EXPECT_INT(truncate(path, 70000), 0);
    EXPECT(hash_all(model, folder) == want);
    EXPECT_INT(unlink(path), 0);
    EXPECT_INT(mkdir(path, 0700), 0); /* nothing can be kept there */
    EXPECT(hash_all(model, folder) == want);
    EXPECT_INT(rmdir(path), 0);
    EXPECT(hash_all(model, "/nonexistent/folder") == want);
    kept_file(folder, path);
    EXPECT_STR(path, "");
    EXPECT_INT(rmdir(folder), 0);
}

/* Another model does not take it: a copy of the files is another one. */
TEST(kept_weights_belong_to_their_files)
{
    char folder[] = "/tmp/sirocco-kept-XXXXXX", copy[] = "/tmp/sirocco-copy-XXXXXX";
    char command[4000];
    EXPECT(mkdtemp(folder) != NULL && mkdtemp(copy) != NULL);
    snprintf(command, sizeof command, "cp %s/awq/config.json %s/awq/model.safetensors %s",
             test_path("tests/golden/models"), test_path("tests/golden/models"), copy);
    EXPECT_INT(system(command), 0);
    uint64_t want = hash_all(copy, folder);
    char path[1400], file[1400];
    kept_file(folder, path);
    EXPECT(path[0] != '\0');
    snprintf(file, sizeof file, "%s/model.safetensors", copy);
    change_byte(file, -1); /* a norm's or a zero point's: the hash of matrices may stay */
    (void)hash_all(copy, folder);
    snprintf(command, sizeof command, "ls %s | wc -l | grep -q '^2$'", folder);
    EXPECT_INT(system(command), 0);
    change_byte(file, -1);
    EXPECT(hash_all(copy, NULL) == want);
    snprintf(command, sizeof command, "rm -r %s %s", folder, copy);
    EXPECT_INT(system(command), 0);
}

/* ---- logits */

/* Inputs in float32 at the base level; above it those of the G formats are rounded to 8 bits. */
static void check_logits(const char *name, int level)
{
    char path[1300];
    struct rig r;
    int n, n_greedy;
    snprintf(path, sizeof path, "%s/%s", test_path("tests/golden/models"), name);
    if (!rig_open(&r, path, (struct rig_options){.isa = rig_levels[level]}))
        return;
    json_t *expected = expected_of(name);
    int32_t *prompt = rig_ids(json_object_get(expected, "prompt_ids"), &n);
    int32_t *greedy = rig_ids(json_object_get(expected, "greedy_ids"), &n_greedy);
    int32_t *ours = calloc((size_t)n_greedy, sizeof *ours);
    float *logits = calloc((size_t)n * (size_t)r.m->vocab, sizeof *logits);
    EXPECT(n == 40 && n_greedy == 16 && ours && logits);
    rig_run(&r, prompt, n, 0, 64, r.blocks, logits);
    double most = 0, worst = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < r.m->vocab; j++) {
            const json_t *row = json_array_get(json_object_get(expected, "logits"), (size_t)i);
            double want = json_number_value(json_array_get(row, (size_t)j));
            double off = fabs(want - logits[i * r.m->vocab + j]);
            most = fabs(want) > most ? fabs(want) : most;
            worst = !(off <= worst) ? off : worst; /* NaN counts as worst */
        }
    printf("    %s %s: relative error %.1e\n", name, rig_levels[level], worst / most);
    bool floats = strncmp(name, "fp8", 3) == 0 && level < RIG_ROUNDS;
    EXPECT(worst / most < (level == 0 || floats ? 1e-4 : 5e-2));
    rig_greedy(&r, logits + (size_t)(n - 1) * (size_t)r.m->vocab, n, n_greedy, ours);
    for (int i = 0; i < n_greedy && (level == 0 || floats); i++)
        EXPECT_INT(ours[i], greedy[i]);
    free(prompt);
    free(greedy);
    free(ours);
    free(logits);
    json_decref(expected);
    rig_close(&r);
}

TEST_SECONDS(repack_computes_what_was_published, 120)
{
    for (int level = 0; level < RIG_LEVELS; level++)
        for (int i = 0; i < N_ROWS; i++)
            check_logits(rows[i].name, level);
}
