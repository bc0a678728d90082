/* cmd_render: `sirocco render`: one chat template over the contexts of many lines. One thread; no
 * state beyond a call. */
#include <string.h>
#include <time.h>

#include "engine/template/chat.h"
#include "server/cmd.h"

const char cmd_render_usage[] =
    "usage: sirocco render --template PATH [--name NAME] [--now YYYY-MM-DDTHH:MM:SS] --jsonl\n\n"
    "Renders a chat template: each line {\"context\": {...}} of standard input becomes a line\n"
    "{\"text\": ...} or {\"error\": KIND, \"message\": ...}.\n\n"
    "  --template PATH         a template, a JSON file with chat_template, a GGUF, a model folder\n"
    "  --name NAME             which of its named templates\n"
    "  --now TIME              what strftime_now formats (the time it is)\n";

struct render_run {
    struct chat *chat;
    time_t now;
};

/* Failures of the template carry their place; what raise_exception says does not. */
static const char *kind_of(const struct err *err)
{
    return strncmp(err->text, "line ", 5) == 0 ? "TemplateRuntimeError" : "TemplateError";
}

static int render_line(void *user, const json_t *line, struct buf *out, struct err *err)
{
    static const char *const trusted[] = {"bos_token", "eos_token", NULL};
    const struct render_run *run = user;
    const json_t *context = json_object_get(line, "context");
    struct template_text text = {0};
    (void)err;
    if (!json_is_object(context)) {
        cmd_error(out, "InvalidLine", "context is not an object");
        return 0;
    }
    const json_t *tools = json_object_get(context, "tools");
    const json_t *messages = json_object_get(context, "messages");
    bool open = json_is_true(json_object_get(line, "continue_final_message"));
    json_t *marked = open ? json_copy((json_t *)context) : NULL;
    struct err failed = {0};
    int rc = 0;
    if (open && json_object_set_new(marked, "messages", chat_mark_open(messages, &failed)))
        rc = failed.code ? failed.code : err_set(&failed, ERR_NOMEM, "out of memory");
    if (!rc)
        rc = template_render(chat_template(run->chat, json_array_size(tools) > 0),
                             open ? marked : context, trusted, run->now, &text, &failed);
    if (!rc && open)
        rc = chat_leave_open(messages, &text, &failed);
    json_decref(marked);
    if (rc) {
        cmd_error(out, rc == ERR_VALUE ? kind_of(&failed) : err_name(rc), failed.text);
    } else {
        buf_text(out, "{\"text\":");
        buf_json_string(out, text.text.data ? text.text.data : "", text.text.size);
        buf_byte(out, '}');
    }
    template_text_free(&text);
    return 0;
}

static int read_now(const char *text, time_t *now, struct err *err)
{
    struct tm tm = {.tm_isdst = -1};
    const char *end = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
    *now = text ? mktime(&tm) : time(NULL);
    if (text && (!end || *end || *now == (time_t)-1))
        return err_set(err, ERR_USAGE, "render: --now takes local time as 2025-07-10T12:00:00");
    return 0;
}

/* A template that does not parse answers every line alike. */
static int refuse_line(void *user, const json_t *line, struct buf *out, struct err *err)
{
    (void)line, (void)err;
    cmd_error(out, "TemplateSyntaxError", ((const struct err *)user)->text);
    return 0;
}

int cmd_render(int argc, char **argv, FILE *in, FILE *out, struct err *err)
{
    const char *path = NULL, *name = NULL, *now = NULL;
    bool jsonl = false;
    const struct cmd_option options[] = {{"--template", &path, NULL},
                                         {"--name", &name, NULL},
                                         {"--now", &now, NULL},
                                         {"--jsonl", NULL, &jsonl}};
    struct render_run run = {0};
    int rc = cmd_options(argc, argv, options, sizeof options / sizeof options[0], err);
    if (!rc && (!path || !jsonl))
        rc = err_set(err, ERR_USAGE,
                     "usage: sirocco render --template PATH [--name NAME] [--now TIME] --jsonl");
    if (!rc)
        rc = read_now(now, &run.now, err);
    if (rc)
        return rc;
    struct err broken = {0};
    rc = chat_open_path(path, name, &run.chat, &broken);
    if (rc == ERR_FORMAT && strstr(broken.text, "line "))
        return cmd_lines(in, out, refuse_line, &broken, err);
    if (rc)
        return err_set(err, rc, "%s", broken.text);
    rc = cmd_lines(in, out, render_line, &run, err);
    chat_close(run.chat);
    return rc;
}
