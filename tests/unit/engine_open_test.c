/* engine_open_test: how an engine on the demo model opens: options that can not be met, the memory
 * plan. */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "tests/test.h"

static struct engine_options standard(void)
{
    return (struct engine_options){.device = "cpu", .threads = 2, .max_seqs = 32,
                                   .max_batch_tokens = 256, .block_size = 16,
                                   .kv_cache_bytes = 48 << 20, .kv_cache_type = "f32",
                                   .max_queue = 64, .pause_ms_max = 20000, .prefix_cache = true};
}

static int try_open(struct engine_options o, struct err *err)
{
    struct engine *e = NULL;
    struct source *source;
    EXPECT_INT(source_open(test_path("config/demo"), &source, err), 0);
    o.source = source;
    *err = (struct err){0};
    int rc = engine_open(&o, &e, err);
    engine_close(e);
    source_close(source);
    return rc;
}

TEST(options_that_can_not_be_met_say_why)
{
    struct err err;
    struct engine_options o = standard();
    o.device = "cuda";
    EXPECT_INT(try_open(o, &err), ERR_USAGE);
    EXPECT(strstr(err.text, "device cuda: this build has no sirocco-cuda.so") != NULL);
    o.cuda_plugin = test_path("README.md"); /* not a library */
    EXPECT_INT(try_open(o, &err), ERR_USAGE);
    EXPECT(strstr(err.text, "README.md") != NULL);
    o.device = "cuda:99";
    o.cuda_plugin = getenv("SIROCCO_TEST_PLUGIN");
    if (o.cuda_plugin && *o.cuda_plugin) { /* wrong today, perhaps not at the next start */
        EXPECT_INT(try_open(o, &err), ERR_DEVICE);
        EXPECT(strstr(err.text, "device cuda:99: ") != NULL);
    }
    static const char *const devices[] = {"gpu", "cuda:", "cuda:x", "cuda:1x", "cuda:-1"};
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        o = standard();
        o.device = devices[i];
        EXPECT_INT(try_open(o, &err), ERR_USAGE);
        EXPECT(strstr(err.text, "must be cpu, cuda, cuda:N or auto") != NULL);
    }
    o = standard();
    o.kv_cache_bytes = 1 << 20;
    EXPECT_INT(try_open(o, &err), ERR_NOMEM);
    EXPECT(strstr(err.text, "1048576") != NULL);
    o = standard();
    o.kv_cache_bytes = (int64_t)1 << 46;
    EXPECT_INT(try_open(o, &err), ERR_NOMEM);
    o = standard();
    o.max_model_len = 4097;
    EXPECT_INT(try_open(o, &err), ERR_USAGE);
    o = standard();
    o.kv_cache_type = "q4_0";
    EXPECT_INT(try_open(o, &err), ERR_USAGE);
    o = standard();
    o.block_size = 12;
    EXPECT_INT(try_open(o, &err), ERR_USAGE);
}

TEST(the_plan_is_told_and_modest)
{
    struct engine *e = NULL;
    struct source *source;
    struct err err = {0};
    struct buf plan;
    struct engine_options o = standard();
    o.kv_cache_bytes = 0;
    o.kv_cache_fraction = 0.5;
    o.kv_cache_type = "f16";
    o.device = "auto";
    EXPECT_INT(source_open(test_path("config/demo"), &source, &err), 0);
    o.source = source;
    EXPECT_INT(engine_open(&o, &e, &err), 0);
    const struct engine_info *i = engine_info(e);
    EXPECT_STR(i->arch, "mistral");
    EXPECT_STR(i->kv_type, "f16");
    EXPECT_INT(i->max_model_len, 4096);
    EXPECT_INT(i->kv_bytes_per_token, 6 * 2 * 64 * 2 * 2);
    EXPECT_INT((int)i->n_blocks * 16 * i->kv_bytes_per_token >> 20, 63);
    EXPECT_INT(i->eos[0], 2);
    EXPECT_NEAR(i->defaults.temperature, 0.3, 1e-6);
    EXPECT(i->has_chat_template);
    buf_init(&plan, 0);
    EXPECT_INT(engine_memory_plan(e, &plan), 0);
    EXPECT(strstr(plan.data, "KV cache") && strstr(plan.data, "weights"));
    buf_free(&plan);
    engine_close(e);
    source_close(source);
}
