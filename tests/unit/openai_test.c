/* openai_test: the error table and the error and usage objects, byte for byte. */
#include "server/openai.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "tests/test.h"

static const char *written(const struct err *err)
{
    static struct buf out;
    buf_clear(&out);
    EXPECT_INT(openai_write_error(&out, err), 0);
    return out.data;
}

TEST(every_code_has_one_row_that_fits_it)
{
    for (int code = -1; code >= -ERR_COUNT; code--) {
        const struct openai_error *error = openai_error_for(code);
        EXPECT(error != NULL && error->type != NULL);
        EXPECT(error->status >= 400 && error->status < 600);
        EXPECT(!strcmp(error->type, "server_error") == (error->status >= 500));
        EXPECT(error->retry == (error->status == 429 || error->status == 503));
        EXPECT(error->code != NULL || code == ERR_JSON);
    }
    EXPECT_INT(openai_error_for(12345)->status, 500);
    EXPECT_INT(openai_error_for(ERR_NO_MODEL)->status, 404);
    EXPECT_STR(openai_error_for(ERR_NO_MODEL)->code, "model_not_found");
    EXPECT_INT(openai_error_for(ERR_CONTEXT)->status, 400);
    EXPECT_STR(openai_error_for(ERR_CONTEXT)->code, "context_length_exceeded");
    EXPECT_INT(openai_error_for(ERR_AUTH)->status, 401);
    EXPECT_STR(openai_error_for(ERR_AUTH)->code, "invalid_api_key");
    EXPECT(openai_error_for(ERR_TOO_LARGE)->close);
}

TEST(errors_have_all_four_keys)
{
    struct err err = {0};
    err_set(&err, ERR_JSON, "no \"good\"");
    EXPECT_STR(written(&err), "{\"error\":{\"message\":\"no \\\"good\\\"\",\"type\":"
                              "\"invalid_request_error\",\"param\":null,\"code\":null}}");
    err_param(&err, ERR_TYPE, "messages[3].role", "a\nb");
    EXPECT_STR(written(&err),
               "{\"error\":{\"message\":\"a?b\",\"type\":\"invalid_request_error\",\"param\":"
               "\"messages[3].role\",\"code\":\"invalid_type\"}}");
    EXPECT(strstr(written(&(struct err){.code = ERR_FULL}), err_text(ERR_FULL)) != NULL);
}

TEST(the_inside_of_the_server_stays_inside)
{
    struct err err = {0};
    err_set(&err, ERR_DEVICE, "secret/path is gone");
    EXPECT(strstr(written(&err), "secret") == NULL);
    EXPECT(strstr(written(&err), "internal_error") != NULL);
}

TEST(errors_are_json_whatever_their_text_holds)
{
    struct err err = {.code = ERR_VALUE};
    for (int i = 1; i < 256; i++) {
        snprintf(err.text, sizeof err.text, "x%cy%c", i, 255 - i);
        snprintf(err.param, sizeof err.param, "%c", i);
        json_t *parsed = json_loads(written(&err), JSON_REJECT_DUPLICATES, NULL);
        EXPECT(parsed != NULL);
        json_decref(parsed);
        EXPECT(strchr(written(&err), '\n') == NULL);
    }
}

TEST(usage_has_its_details)
{
    struct buf out = {0};
    struct engine_usage usage = {.prompt_tokens = 7, .cached_tokens = 4, .output_tokens = 5};
    EXPECT_INT(openai_write_usage(&out, &usage, 2), 0);
    EXPECT_STR(out.data, "{\"prompt_tokens\":7,\"completion_tokens\":5,\"total_tokens\":12,"
                         "\"prompt_tokens_details\":{\"cached_tokens\":4,\"audio_tokens\":0},"
                         "\"completion_tokens_details\":{\"reasoning_tokens\":2,\"audio_tokens\":0,"
                         "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}");
    buf_free(&out);
}

TEST(finish_reasons_are_openai_s)
{
    EXPECT_STR(openai_finish(FINISH_STOP), "stop");
    EXPECT_STR(openai_finish(FINISH_LENGTH), "length");
}
