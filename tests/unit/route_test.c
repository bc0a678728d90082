/* Tests of server/route.c: what each method and raw path finds. */
#include "server/route.h"

#include <string.h>

#include "server/api.h"
#include "tests/test.h"

static const struct route *find(const char *method, const char *path, const char **allow)
{
    const char *tail;
    return route_find(method, path, &tail, allow);
}

TEST(rows_are_found_by_method_and_path)
{
    const char *allow;
    EXPECT(find("POST", "/v1/chat/completions", &allow)->handle == api_chat);
    EXPECT(find("POST", "/v1/completions", &allow)->handle == api_completions);
    EXPECT(find("POST", "/v1/fim/completions", &allow)->handle == api_fim);
    EXPECT(find("POST", "/infill", &allow)->handle == api_infill);
    EXPECT(find("POST", "/tokenize", &allow)->handle == api_tokenize);
    EXPECT(find("POST", "/detokenize", &allow)->handle == api_detokenize);
    EXPECT(find("POST", "/apply-template", &allow)->handle == api_apply_template);
    EXPECT(find("GET", "/v1/models", &allow)->handle == api_models);
    EXPECT(find("GET", "/health", &allow)->handle == api_health);
    EXPECT(find("HEAD", "/metrics", &allow)->handle == api_metrics);
}

TEST(prefix_row_gives_the_tail)
{
    const char *tail, *allow;
    const struct route *row = route_find("GET", "/v1/models/org/name:1", &tail, &allow);
    EXPECT(row != NULL && row->handle == api_model);
    EXPECT_STR(tail, "org/name:1");
    EXPECT(route_find("GET", "/v1/models/", &tail, &allow) == NULL);
    EXPECT(allow == NULL);
}

TEST(paths_are_matched_raw)
{
    static const char *const paths[] = {"//v1/models",    "/v1//models", "/V1/models",
                                        "/v1/%6dodels",   "/v1",         "/",
                                        "/health/",       "/healthx",    "/v1/models;x=1",
                                        "/v1/../health"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        const char *allow = "unset";
        EXPECT(find("GET", paths[i], &allow) == NULL);
        EXPECT(allow == NULL);
    }
}

static const char *guess(const char *path)
{
    const char *meant = route_guess(path);
    return meant ? meant : "";
}

TEST(a_path_that_is_nearly_right_has_a_guess)
{
    EXPECT_STR(guess("/chat/completions"), "/v1/chat/completions");
    EXPECT_STR(guess("/v1/v1/chat/completions"), "/v1/chat/completions");
    EXPECT_STR(guess("/v1//chat/completions"), "/v1/chat/completions");
    EXPECT_STR(guess("//v1/models//"), "/v1/models");
    EXPECT_STR(guess("/api/v1/completions"), "/v1/completions");
    EXPECT_STR(guess("/v1/health"), "/health");
    EXPECT_STR(guess("/v1/models/"), "/v1/models");
    EXPECT_STR(guess("/v1/responses"), "/v1/chat/completions");
    EXPECT_STR(guess("/completion"), "/v1/completions");
    EXPECT_STR(guess("/v1/embeddings"), "");
    EXPECT_STR(guess("/"), "");
    EXPECT_STR(guess(""), "");
    EXPECT_STR(guess("/subcompletions"), "");
    char path[600];
    memset(path, 'a', sizeof path);
    strcpy(path + sizeof path - 8, "/models");
    EXPECT_STR(guess(path), "");
}

TEST(other_methods_are_told_what_is_allowed)
{
    const char *allow;
    EXPECT(find("GET", "/v1/chat/completions", &allow) == NULL);
    EXPECT_STR(allow, "POST");
    EXPECT(find("HEAD", "/v1/completions", &allow) == NULL);
    EXPECT_STR(allow, "POST");
    EXPECT(find("POST", "/health", &allow) == NULL);
    EXPECT_STR(allow, "GET, HEAD");
    EXPECT(find("get", "/health", &allow) == NULL);
    EXPECT_STR(allow, "GET, HEAD");
}

TEST(only_probes_are_open)
{
    for (int i = 0; i < route_count; i++) {
        const char *path = route_table[i].path;
        bool probe = strcmp(path, "/health") == 0 || strcmp(path, "/ready") == 0;
        EXPECT_INT(route_table[i].open, probe);
        bool answers = strncmp(path, "/v1/", 4) == 0 || strcmp(route_table[i].method, "POST") == 0;
        EXPECT_INT(route_table[i].model, answers);
        EXPECT(route_table[i].label != NULL);
    }
}
