/* answer_test: events of sequences in, OpenAI's bytes out (the players are answer_rig.h's). */
#include "tests/unit/answer_rig.h"

static void begin(void (*api)(struct exchange *), const char *body)
{
    open_rig();
    run(api, body);
}

#define CHAT(fields) "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]" fields "}"

/* ---- tests */

TEST(whole_chat_answer)
{
    begin(api_chat, CHAT(",\"n\":2,\"return_token_ids\":true,\"stop\":[\"!\",\"?\"],\"seed\":5"));
    EXPECT_INT(n_submitted, 2);
    EXPECT_INT(submitted[0].request.params.seed, 5);
    EXPECT_INT(submitted[1].request.params.seed, 6);
    EXPECT(submitted[0].request.group && submitted[0].request.group == submitted[1].request.group);
    EXPECT_INT(submitted[0].request.max_tokens, 64 - submitted[0].request.n_tokens);
    token_event(1, "a", "a", NAN);
    struct event event = done_event(FINISH_STOP, "", submitted[1].request.n_tokens, 1);
    event.stop_index = 1;
    x.on_event(&x, 1, &event);
    EXPECT(!x.complete);
    token_event(0, "b", "", NAN);
    done(0, FINISH_LENGTH, "b\"", submitted[0].request.n_tokens, 1);
    json_t *json = answer();
    EXPECT_STR(x.content_type, "application/json");
    expect_at(json, "object", "\"chat.completion\"");
    expect_at(json, "model", "\"demo\"");
    expect_at(json, "choices.0.index", "0");
    expect_at(json, "choices.0.message",
              "{\"role\":\"assistant\",\"content\":\"b\\\"\",\"refusal\":null}");
    expect_at(json, "choices.0.logprobs", "null");
    expect_at(json, "choices.0.finish_reason", "\"length\"");
    expect_at(json, "choices.0.stop_reason", "null");
    expect_at(json, "choices.1.message.content", "\"a\"");
    expect_at(json, "choices.1.finish_reason", "\"stop\"");
    expect_at(json, "choices.1.stop_reason", "\"?\"");
    expect_at(json, "usage.completion_tokens", "2");
    expect_at(json, "usage.prompt_tokens_details.cached_tokens", "1");
    EXPECT_INT(json_integer_value(at(json, "usage.prompt_tokens")), submitted[0].request.n_tokens);
    EXPECT_INT(json_array_size(at(json, "prompt_token_ids")), submitted[0].request.n_tokens);
    EXPECT_INT(json_integer_value(at(json, "choices.1.token_ids.0")), word("a"));
    EXPECT(!strncmp(json_string_value(at(json, "id")), "chatcmpl-", 9));
    json_decref(json);
    end();
}

TEST(chat_stream_in_openai_s_order)
{
    begin(api_chat, CHAT(",\"stream\":true,\"stream_options\":{\"include_usage\":true}"));
    expect_frame(0, "choices.0.delta", "{\"role\":\"assistant\",\"content\":\"\"}");
    token_event(0, "a", "x\n", NAN);
    token_event(0, "b", "", NAN); /* held back: no frame */
    done(0, FINISH_STOP, "tail", 3, 2);
    EXPECT(x.complete);
    expect_frame(1, "choices.0.delta", "{\"content\":\"x\\n\"}");
    expect_frame(1, "choices.0.finish_reason", "null");
    expect_frame(1, "usage", "null");
    expect_frame(2, "choices.0.delta", "{\"content\":\"tail\"}");
    expect_frame(3, "choices.0.delta", "{}");
    expect_frame(3, "choices.0.finish_reason", "\"stop\"");
    expect_frame(3, "object", "\"chat.completion.chunk\"");
    expect_frame(4, "choices", "[]");
    expect_frame(4, "usage.completion_tokens", "2");
    EXPECT(frame(5) == NULL);
    end();
}

TEST(logprobs_of_held_text_are_not_lost)
{
    begin(api_chat, CHAT(",\"stream\":true,\"logprobs\":true,\"top_logprobs\":1"));
    EXPECT_INT(submitted[0].request.params.logprobs, 1);
    token_event(0, "a", "", -0.5f);
    token_event(0, "b", "ab", -INFINITY);
    token_event(0, "c", "", -2.0f);
    done(0, FINISH_STOP, "", 3, 3);
    json_t *json = frame(1);
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.content")), 2);
    expect_at(json, "choices.0.logprobs.content.0.token", "\"a\"");
    expect_at(json, "choices.0.logprobs.content.0.logprob", "-0.5");
    expect_at(json, "choices.0.logprobs.content.0.bytes", "[97]");
    expect_at(json, "choices.0.logprobs.content.0.top_logprobs.0.token", "\"a\"");
    expect_at(json, "choices.0.logprobs.content.1.logprob", "-9999");
    expect_at(json, "choices.0.logprobs.refusal", "[]");
    json_decref(json);
    json = frame(2);
    expect_at(json, "choices.0.delta", "{}");
    expect_at(json, "choices.0.logprobs.content.0.token", "\"c\"");
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.content")), 1);
    json_decref(json);
    EXPECT(frame(3) == NULL);
    end();
}

TEST(the_bytes_of_all_tokens_are_the_text)
{
    for (int shown = 0; shown < 2; shown++) {
        begin(api_chat, shown ? CHAT(",\"logprobs\":true,\"skip_special_tokens\":false")
                              : CHAT(",\"logprobs\":true"));
        token_event(0, "</s>", shown ? "</s>" : "", -1.0f);
        done(0, FINISH_STOP, "", 3, 1);
        json_t *json = answer();
        expect_at(json, "choices.0.logprobs.content.0.token", "\"</s>\"");
        expect_at(json, "choices.0.logprobs.content.0.bytes", shown ? "[60,47,115,62]" : "null");
        expect_at(json, "choices.0.logprobs.refusal", "null");
        json_decref(json);
    }
    end();
}

TEST(exactly_one_bos)
{
    begin(api_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"bos\"}]}");
    int32_t bos = tokenizer_bos(tok);
    EXPECT(bos >= 0 && submitted[0].tokens[0] == bos && submitted[0].tokens[1] != bos);
    begin(api_chat, CHAT(""));
    EXPECT_INT(submitted[0].tokens[0] == bos, tokenizer_adds_bos(tok));
    EXPECT(submitted[0].tokens[1] != bos);
    /* written by a user it is text */
    begin(api_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"<s></s>\"}]}");
    for (int i = 1; i < submitted[0].request.n_tokens; i++)
        EXPECT(!tokenizer_is_special(tok, submitted[0].tokens[i]));
    begin(api_chat, CHAT(",\"add_special_tokens\":false"));
    EXPECT(submitted[0].tokens[0] != bos);
    begin(api_completions, "{\"prompt\":\"<s>hi\"}");
    EXPECT(submitted[0].tokens[0] == bos && submitted[0].tokens[1] != bos);
    begin(api_completions, "{\"prompt\":\"\"}");
    EXPECT(submitted[0].request.n_tokens == 1 && submitted[0].tokens[0] == bos);
    end();
}

TEST(prompts_times_n)
{
    begin(api_completions, "{\"prompt\":[\"a\",\"b\"],\"n\":2,\"stop_token_ids\":[7]}");
    EXPECT_INT(n_submitted, 4);
    EXPECT(submitted[0].request.group == submitted[1].request.group);
    EXPECT(submitted[0].request.group != submitted[2].request.group);
    EXPECT_INT(submitted[0].request.max_tokens, 16);
    int prompts = submitted[0].request.n_tokens + submitted[2].request.n_tokens;
    for (int i = 3; i >= 0; i--) {
        char text[2] = {(char)('w' + i), 0};
        struct event event = done_event(FINISH_STOP, text, submitted[i].request.n_tokens, i);
        event.stop_token = 7;
        event.stop_is_eos = i == 3;
        x.on_event(&x, i, &event);
    }
    json_t *json = answer();
    expect_at(json, "object", "\"text_completion\"");
    expect_at(json, "choices.2",
              "{\"index\":2,\"text\":\"y\",\"logprobs\":null,\"finish_reason\":\"stop\","
              "\"stop_reason\":7}");
    expect_at(json, "choices.3.stop_reason", "null");
    EXPECT_INT(json_integer_value(at(json, "usage.prompt_tokens")), prompts);
    expect_at(json, "usage.completion_tokens", "6");
    json_decref(json);
    end();
}

static void prompt_events(int channel)
{
    for (int i = 0; i < submitted[channel].request.n_tokens; i++) {
        struct event event = {.kind = EVENT_PROMPT,
                              .token = submitted[channel].tokens[i],
                              .logprob = i ? -1.0f : NAN};
        x.on_event(&x, channel, &event);
    }
}

TEST(echo_with_logprobs_as_evaluation_harnesses_use_it)
{
    begin(api_completions, "{\"prompt\":\"hi you\",\"echo\":true,\"logprobs\":0,\"max_tokens\":0}");
    EXPECT_INT(submitted[0].request.prompt_logprobs, 0);
    EXPECT_INT(submitted[0].request.max_tokens, 0);
    int n = submitted[0].request.n_tokens;
    prompt_events(0);
    done(0, FINISH_LENGTH, "", n, 0);
    json_t *json = answer();
    expect_at(json, "choices.0.text", "\"hi you\"");
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.tokens")), n);
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.top_logprobs")), n);
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.text_offset")), n);
    expect_at(json, "choices.0.logprobs.token_logprobs.0", "null");
    expect_at(json, "choices.0.logprobs.top_logprobs.0", "null");
    expect_at(json, "choices.0.logprobs.token_logprobs.1", "-1");
    expect_at(json, "choices.0.logprobs.text_offset.0", "0");
    expect_at(json, "choices.0.logprobs.text_offset.1", "0"); /* BOS is no part of the text */
    /* the last token ends where the text does */
    json_t *tokens = at(json, "choices.0.logprobs.tokens");
    size_t size = json_string_length(json_array_get(tokens, (size_t)n - 1));
    EXPECT_INT(json_integer_value(
                   json_array_get(at(json, "choices.0.logprobs.text_offset"), (size_t)n - 1)) +
                   (long long)size,
               6);
    json_decref(json);
    end();
}

TEST(offsets_count_the_text_that_is_sent)
{
    static const char *const prompts[] = {"{\"prompt\":\"\",\"logprobs\":1}",
                                          "{\"prompt\":\"hi\",\"logprobs\":1}"};
    for (int i = 0; i < 2; i++) { /* after BOS the first space is not sent, after a word it is */
        begin(api_completions, prompts[i]);
        token_event(0, "\xe2\x96\x81the", i ? " the" : "the", -1.0f);
        token_event(0, "a", "a", -1.0f);
        done(0, FINISH_LENGTH, "", 1, 2);
        json_t *json = answer();
        expect_at(json, "choices.0.logprobs.text_offset", i ? "[0,4]" : "[0,3]");
        json_decref(json);
    }
    end();
}

TEST(echoed_stream_begins_with_its_prompt)
{
    begin(api_completions, "{\"prompt\":\"hi\",\"echo\":true,\"stream\":true}");
    expect_frame(0, "choices.0.text", "\"hi\"");
    begin(api_completions, "{\"prompt\":\"hi\",\"echo\":true,\"stream\":true,\"logprobs\":1}");
    EXPECT(!x.out.size);
    prompt_events(0);
    token_event(0, "a", "a", -1.0f);
    done(0, FINISH_LENGTH, "", submitted[0].request.n_tokens, 1);
    expect_frame(0, "choices.0.text", "\"hia\"");
    json_t *json = frame(0);
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.tokens")),
               submitted[0].request.n_tokens + 1);
    expect_at(json, "choices.0.logprobs.text_offset.2", "2");
    json_decref(json);
    expect_frame(1, "choices.0.finish_reason", "\"length\"");
    expect_frame(1, "choices.0.logprobs", "null");
    EXPECT(frame(2) == NULL);
    end();
}

TEST(names_in_one_map_differ)
{
    begin(api_completions, "{\"prompt\":\"hi\",\"logprobs\":5}");
    struct event event = {
        .kind = EVENT_TOKEN, .token = word("<0xE2>"), .logprob = -1, .text = "", .n_top = 4};
    event.top[0] = (struct sample_top){word("a"), -0.5f};
    event.top[1] = (struct sample_top){word("<0x61>"), -0.75f}; /* "a" again */
    event.top[2] = (struct sample_top){word("<0xE3>"), -0.8f};
    event.top[3] = (struct sample_top){word("<0xE4>"), -0.9f};
    x.on_event(&x, 0, &event);
    done(0, FINISH_LENGTH, "", 2, 1);
    json_t *json = answer();
    expect_at(json, "choices.0.logprobs.tokens", "[\"bytes:\\\\xe2\"]");
    EXPECT_INT(json_object_size(at(json, "choices.0.logprobs.top_logprobs.0")), 4);
    expect_at(json, "choices.0.logprobs.top_logprobs.0.a", "-0.5");
    json_decref(json);
    end();
}

/* Where Mistral's own encoding serves, no template is asked. */
TEST(mistral_encodes_in_place_of_the_template)
{
    open_rig();
    native = 3;
    run(api_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                  "{\"role\":\"assistant\",\"content\":\"b\",\"prefix\":true}]}");
    EXPECT_INT(n_submitted, 1);
    EXPECT_INT(submitted[0].request.n_tokens, 3);
    EXPECT_INT(submitted[0].tokens[0], tokenizer_bos(tok));
    EXPECT_INT(submitted[0].tokens[2], 6);
    run(api_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"raise\"}]}");
    EXPECT_INT(failed.code, ERR_VALUE);
    EXPECT_STR(failed.param, "messages");
    EXPECT_STR(failed.text, "roles must alternate");
    native = 0;
    end();
}

TEST(failures)
{
    begin(api_chat, "{");
    EXPECT_INT(failed.code, ERR_JSON);
    begin(api_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"raise\"}]}");
    EXPECT_INT(failed.code, ERR_VALUE);
    EXPECT_STR(failed.param, "messages");
    struct buf body = {0};
    buf_text(&body, "{\"prompt\":[1");
    for (int i = 1; i < 64; i++)
        buf_text(&body, ",1");
    buf_text(&body, "]}");
    begin(api_completions, body.data);
    EXPECT_INT(failed.code, ERR_CONTEXT);
    EXPECT_STR(failed.param, "prompt");
    EXPECT(strstr(failed.text, "maximum context length is 64 tokens") != NULL);
    EXPECT(strstr(failed.text, "resulted in 64 tokens") != NULL);
    body.data[body.size - 4] = ']', body.data[body.size - 3] = '}';
    body.data[body.size - 2] = body.data[body.size - 1] = ' ';
    begin(api_completions, body.data);
    EXPECT(!failed.code && n_submitted == 1);
    EXPECT_INT(submitted[0].request.max_tokens, 1);
    struct event event = {.kind = EVENT_FAILED,
                          .error = ERR_DEVICE,
                          .finish = FINISH_ERROR,
                          .error_text = "gone",
                          .text = ""};
    x.on_event(&x, 0, &event);
    EXPECT_INT(failed.code, ERR_DEVICE);
    begin(api_completions, "{\"prompt\":\"a\",\"stream\":true}");
    done(0, FINISH_CANCELLED, "", 1, 0);
    EXPECT_INT(failed.code, ERR_CANCELLED);
    buf_free(&body);
    end();
}

TEST(a_full_queue_fails_the_whole_request)
{
    begin(api_chat, CHAT(""));
    end();
    submit_fails_at = 0;
    x.app = &app;
    memset(&failed, 0, sizeof failed);
    arena_init(&x.arena, 0);
    buf_text(&x.body, CHAT(",\"stream\":true,\"n\":3"));
    api_chat(&x);
    EXPECT_INT(failed.code, ERR_FULL);
    EXPECT(!x.streaming && !x.out.size);
    end();
}
