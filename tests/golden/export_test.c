/* Golden models written as GGUF (model_export.h): read back, they compute what they computed; what
 * GGUF has no words for is refused and leaves no file. */
#include "tests/golden/rig.h"

#include <dirent.h>
#include <unistd.h>

#include "engine/model_export.h"

static char folder[64];

static const char *golden_path(const char *name)
{
    static char path[1200];
    snprintf(path, sizeof path, "%s/%s", test_path("tests/golden/models"), name);
    return path;
}

static const char *new_folder(void)
{
    snprintf(folder, sizeof folder, "/tmp/sirocco-export-XXXXXX");
    EXPECT(mkdtemp(folder) != NULL);
    return folder;
}

static int files_left(void)
{
    int n = 0;
    DIR *dir = opendir(folder);
    EXPECT(dir != NULL);
    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static int export(const char *from, const char *to, enum quant_type type,
                  int (*progress)(void *, const char *, double), struct err *err)
{
    struct model_export_options o = {.type = type, .threads = 2, .progress = progress};
    struct model_export_result result;
    struct source *source = NULL;
    rig_require(source_open(from, &source, err), err);
    o.source = source;
    int rc = model_export_run(&o, to, &result, err);
    source_close(source);
    return rc;
}

/* Logits of a prompt of 40 tokens by the model at path; malloced. */
static float *run_prompt(const char *path, int *vocab)
{
    struct rig r;
    int32_t prompt[40];
    EXPECT(rig_open(&r, path, (struct rig_options){0}));
    float *logits = calloc((size_t)40 * (size_t)r.m->vocab, sizeof *logits);
    EXPECT(logits != NULL);
    for (int i = 0; i < 40; i++)
        prompt[i] = (i * 37 + 11) % r.m->vocab;
    rig_run(&r, prompt, 40, 0, 64, r.blocks, logits);
    *vocab = r.m->vocab;
    rig_close(&r);
    return logits;
}

static double difference(const float *a, const float *b, size_t n)
{
    double most = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)a[i] - (double)b[i]);
        most = fabs((double)a[i]) > most ? fabs((double)a[i]) : most;
        worst = !(off <= worst) ? off : worst;
    }
    return worst / most;
}

/* As F32; then that file as Q8_0 and, from there, back to F32: a GGUF source. whole: its rows are
 * whole blocks of Q8_0, so that something is lost. */
static void check_export(const char *name, bool whole)
{
    struct err err = {0};
    char f32[128], q8[128], back[128];
    int vocab, same;
    new_folder();
    snprintf(f32, sizeof f32, "%s/f32.gguf", folder);
    snprintf(q8, sizeof q8, "%s/q8.gguf", folder);
    snprintf(back, sizeof back, "%s/back.gguf", folder);
    rig_require(export(golden_path(name), f32, QUANT_F32, NULL, &err), &err);
    rig_require(export(f32, q8, QUANT_Q8_0, NULL, &err), &err);
    rig_require(export(q8, back, QUANT_F32, NULL, &err), &err);
    EXPECT_INT(files_left(), 3);
    float *want = run_prompt(golden_path(name), &vocab), *got = run_prompt(f32, &same);
    EXPECT_INT(vocab, same);
    double exact = difference(want, got, (size_t)40 * (size_t)vocab);
    free(got);
    float *eight = run_prompt(q8, &same), *floats = run_prompt(back, &same);
    double rounded = difference(want, eight, (size_t)40 * (size_t)vocab);
    double again = difference(want, floats, (size_t)40 * (size_t)vocab);
    printf("    %s: F32 off by %.1e, Q8_0 by %.1e, Q8_0 as F32 by %.1e\n", name, exact, rounded,
           again);
    EXPECT(exact < 1e-5);
    EXPECT(rounded < 0.1 && again < 0.1);
    EXPECT(whole == (rounded > 1e-5) && whole == (again > 1e-5));
    free(want);
    free(eight);
    free(floats);
    unlink(f32);
    unlink(q8);
    unlink(back);
    rmdir(folder);
}

#define MODEL(id, name)                                                                            \
    TEST(export_##id)                                                                              \
    {                                                                                              \
        check_export(name, strcmp(name, "mixtral-8x22b-native") != 0);                                                                      \
    }
MODEL(mistral, "mistral")
MODEL(mistral_nemo_style, "mistral-nemo-style")
MODEL(mistral_sharded, "mistral-sharded")
MODEL(mistral_native, "mistral-native")
MODEL(mistral3, "mistral3")
MODEL(llama3_rope, "llama3-rope")
MODEL(llama_tied, "llama-tied")
MODEL(mixtral, "mixtral")
MODEL(mixtral_native, "mixtral-8x22b-native")
MODEL(qwen2, "qwen2")
MODEL(qwen3, "qwen3")

TEST(what_gguf_cannot_say_is_refused)
{
    static const struct {
        const char *name, *text;
    } refused[] = {{"ministral", "layers of different windows"}, {"mistral-yarn", "YaRN"},
                   {"codestral", "its pre-tokenizer has no name there"}};
    char path[128];
    new_folder();
    snprintf(path, sizeof path, "%s/a.gguf", folder);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct err err = {0};
        EXPECT_INT(export(golden_path(refused[i].name), path, QUANT_F16, NULL, &err), ERR_FORMAT);
        EXPECT(strstr(err.text, refused[i].text) != NULL);
    }
    EXPECT_INT(files_left(), 0);
    rmdir(folder);
}

static int calls;

static int stop_late(void *user, const char *what, double fraction)
{
    (void)user;
    (void)what;
    calls++;
    return fraction > 0.5;
}

/* The old file stays what it was until the new one is whole. */
TEST(stopping_leaves_the_old_file)
{
    struct err err = {0};
    char path[128], text[8] = "";
    new_folder();
    snprintf(path, sizeof path, "%s/a.gguf", folder);
    FILE *old = fopen(path, "w");
    EXPECT(old && fputs("old", old) >= 0);
    fclose(old);
    EXPECT_INT(export(golden_path("mistral"), path, QUANT_F16, stop_late, &err), ERR_CANCELLED);
    EXPECT(calls > 2);
    EXPECT_INT(files_left(), 1);
    old = fopen(path, "r");
    EXPECT(old && fread(text, 1, sizeof text, old) == 3 && !strcmp(text, "old"));
    fclose(old);
    rig_require(export(golden_path("mistral"), path, QUANT_F16, NULL, &err), &err);
    EXPECT_INT(files_left(), 1);
    EXPECT_INT(export(golden_path("mistral"), folder, QUANT_F16, NULL, &err), ERR_IO);
    unlink(path);
    EXPECT_INT(files_left(), 0);
    rmdir(folder);
}
