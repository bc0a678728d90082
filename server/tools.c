/* tools: checks the functions a chat request offers and the choice among them, and builds the list
 * that templates see. A prep worker's; no state beyond one call. */
#include "server/tools.h"

#include <stdio.h>
#include <string.h>

#include "server/field.h"

static const char UNENFORCED[] =
    "Unsupported value: '%s' asks for %s, which needs constrained decoding; this server does not "
    "constrain its output yet. %s";
static const char USE_AUTO[] = "Use tool_choice 'auto' and check the arguments.";

struct path {
    char text[96];
};

static struct path path_of(const char *list, size_t i, const char *member)
{
    struct path p;
    snprintf(p.text, sizeof p.text, "%.32s[%zu]%s", list, i, member);
    return p;
}

static struct path below(const char *path, const char *member)
{
    struct path p;
    snprintf(p.text, sizeof p.text, "%.70s.%.20s", path, member);
    return p;
}

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while reading tools");
}

static int missing(struct err *err, const char *path)
{
    return err_param(err, ERR_MISSING, path, "Missing required parameter: '%s'.", path);
}

/* A string member that has to be there, of 1 to bytes_max bytes. */
static int need_string(const json_t *object, const char *path, const char *member, size_t bytes_max,
                       const char **out, struct err *err)
{
    struct path p = below(path, member);
    const json_t *value = field_get(object, member);
    if (!value)
        return missing(err, p.text);
    if (!json_is_string(value))
        return field_type_error(err, p.text, "a string", value);
    if (json_string_length(value) > bytes_max)
        return err_param(err, ERR_STRING_LONG, p.text,
                         "Invalid '%s': string too long. Expected at most %zu bytes, but got %zu.",
                         p.text, bytes_max, json_string_length(value));
    *out = field_word(value);
    return 0;
}

static bool is_name(const char *text)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789_-";
    return text[0] && !text[strspn(text, allowed)];
}

static int check_name(const json_t *function, const char *path, const char **name, struct err *err)
{
    struct path p = below(path, "name");
    int code = need_string(function, path, "name", TOOLS_NAME_BYTES_MAX, name, err);
    if (code || is_name(*name))
        return code;
    return err_param(err, ERR_VALUE, p.text,
                     "Invalid '%s': string does not match pattern. Expected a string that matches "
                     "the pattern '^[a-zA-Z0-9_-]+$'.",
                     p.text);
}

/* The other members of a function: description, parameters, strict. */
static int check_members(const json_t *function, const char *path, struct err *err)
{
    const json_t *description = field_get(function, "description");
    const json_t *parameters = field_get(function, "parameters");
    const json_t *strict = field_get(function, "strict");
    struct path p = below(path, "description");
    if (description && !json_is_string(description))
        return field_type_error(err, p.text, "a string", description);
    if (description && json_string_length(description) > TOOLS_DESCRIPTION_BYTES_MAX)
        return err_param(err, ERR_STRING_LONG, p.text,
                         "Invalid '%s': string too long. Expected at most %d bytes, but got %zu.",
                         p.text, TOOLS_DESCRIPTION_BYTES_MAX, json_string_length(description));
    p = below(path, "parameters");
    if (parameters && !json_is_object(parameters))
        return field_type_error(err, p.text, "an object", parameters);
    p = below(path, "strict");
    if (strict && !json_is_boolean(strict))
        return field_type_error(err, p.text, "a boolean", strict);
    if (json_is_true(strict))
        return err_param(err, ERR_UNSUPPORTED_VALUE, p.text, UNENFORCED, p.text,
                         "arguments that follow the schema",
                         "Leave 'strict' out, or false, and check the arguments.");
    return 0;
}

/* {"type": "function", "function": ..} as templates know it; NULL: out of memory. */
static json_t *build_tool(const json_t *function)
{
    json_t *copy = json_copy((json_t *)function);
    int failed = 0;
    if (!copy)
        return NULL;
    json_object_del(copy, "strict");
    if (!field_get(copy, "parameters"))
        failed = json_object_set_new(copy, "parameters",
                                     json_pack("{s:s, s:{}}", "type", "object", "properties"));
    if (failed) {
        json_decref(copy);
        return NULL;
    }
    return json_pack("{s:s, s:o}", "type", "function", "function", copy);
}

static bool has_name(const struct tools *t, const char *name)
{
    for (int i = 0; i < t->n_names; i++)
        if (!strcmp(t->names[i], name))
            return true;
    return false;
}

/* One function, checked, to the lists. path: of the object with the name. */
static int add_function(struct tools *t, const json_t *function, const char *path, const char **at,
                        struct arena *arena, struct err *err)
{
    const char *name = NULL;
    int code = check_name(function, path, &name, err);
    if (!code)
        code = check_members(function, path, err);
    if (code)
        return code;
    struct path p = below(path, "name");
    if (has_name(t, name))
        return err_param(err, ERR_VALUE, p.text, "Invalid '%s': two functions have the name '%s'.",
                         p.text, name);
    json_t *tool = build_tool(function);
    char *copy = arena_copy(arena, name, strlen(name));
    int failed = json_array_append_new(t->offered, tool); /* takes tool, fails on NULL */
    if (failed || !copy)
        return no_memory(err);
    at[t->n_names++] = copy;
    return 0;
}

static int add_tool(struct tools *t, const json_t *tool, size_t i, const char **at,
                    struct arena *arena, struct err *err)
{
    const char *type = NULL;
    struct path p = path_of("tools", i, "");
    if (!json_is_object(tool))
        return field_type_error(err, p.text, "an object", tool);
    int code = need_string(tool, p.text, "type", TOOLS_NAME_BYTES_MAX, &type, err);
    if (code)
        return code;
    if (strcmp(type, "function")) {
        struct path at_type = below(p.text, "type");
        return err_param(err, strcmp(type, "custom") ? ERR_VALUE : ERR_UNSUPPORTED_VALUE,
                         at_type.text, "Invalid value for '%s': this server supports 'function'.",
                         at_type.text);
    }
    const json_t *function = field_get(tool, "function");
    p = path_of("tools", i, ".function");
    if (!function)
        return missing(err, p.text);
    if (!json_is_object(function))
        return field_type_error(err, p.text, "an object", function);
    return add_function(t, function, p.text, at, arena, err);
}

static int add_all(struct tools *t, const json_t *list, const char *name, struct arena *arena,
                   struct err *err)
{
    size_t n = json_array_size(list);
    if (n > TOOLS_MAX)
        return err_param(err, ERR_ARRAY_LONG, name,
                         "Invalid '%s': array too long. Expected at most %d, but got %zu.", name,
                         TOOLS_MAX, n);
    const char **names = arena_array(arena, n, sizeof *names);
    t->names = names;
    t->offered = json_array();
    if (!names || !t->offered)
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_array_get(list, i);
        struct path p = path_of(name, i, "");
        int code;
        if (!t->legacy)
            code = add_tool(t, one, i, names, arena, err);
        else
            code = json_is_object(one) ? add_function(t, one, p.text, names, arena, err)
                                       : field_type_error(err, p.text, "an object", one);
        if (code)
            return code;
    }
    return 0;
}

/* ---- the choice */

static void offer_none(struct tools *t)
{
    json_decref(t->offered);
    t->offered = NULL;
    t->n_names = 0;
}

static int unknown_choice(struct err *err, const char *param)
{
    return err_param(err, ERR_VALUE, param,
                     "Invalid value for '%s': expected 'none', 'auto', 'required', or an object "
                     "that names a function.",
                     param);
}

/* {"function": {"name": ..}}, or in the older form {"name": ..}: of an offered function. */
static int check_named(const struct tools *t, const json_t *choice, const char *path,
                       const char **name, struct err *err)
{
    struct path p = t->legacy ? (struct path){""} : below(path, "function");
    const json_t *function = t->legacy ? choice : field_get(choice, "function");
    if (t->legacy)
        snprintf(p.text, sizeof p.text, "%s", path);
    if (!function)
        return missing(err, p.text);
    if (!json_is_object(function))
        return field_type_error(err, p.text, "an object", function);
    int code = need_string(function, p.text, "name", TOOLS_NAME_BYTES_MAX, name, err);
    if (code || has_name(t, *name))
        return code;
    p = below(p.text, "name");
    return err_param(err, ERR_VALUE, p.text, "Invalid value for '%s': no tool has the name '%s'.",
                     p.text, *name);
}

/* Keep the offered functions that keep[] marks. */
static void offer_some(struct tools *t, const bool *keep)
{
    const char **names = (const char **)t->names;
    int n = 0;
    for (int i = 0; i < t->n_names; i++) {
        if (keep[i])
            names[n++] = names[i];
        else
            json_array_remove(t->offered, (size_t)n);
    }
    t->n_names = n;
    if (!n)
        offer_none(t);
}

static int choose_allowed(struct tools *t, const json_t *choice, struct err *err)
{
    static const char PATH[] = "tool_choice.allowed_tools";
    bool keep[TOOLS_MAX] = {false};
    const char *mode = NULL, *name = NULL;
    const json_t *allowed = field_get(choice, "allowed_tools");
    if (!allowed)
        return missing(err, PATH);
    if (!json_is_object(allowed))
        return field_type_error(err, PATH, "an object", allowed);
    int code = need_string(allowed, PATH, "mode", TOOLS_NAME_BYTES_MAX, &mode, err);
    if (code)
        return code;
    const json_t *list = field_get(allowed, "tools");
    if (!list)
        return missing(err, "tool_choice.allowed_tools.tools");
    if (!json_is_array(list))
        return field_type_error(err, "tool_choice.allowed_tools.tools", "an array", list);
    if (strcmp(mode, "auto") && strcmp(mode, "required"))
        return err_param(err, ERR_VALUE, "tool_choice.allowed_tools.mode",
                         "Invalid value for 'tool_choice.allowed_tools.mode': expected 'auto' or "
                         "'required'.");
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct path p = path_of("tool_choice.allowed_tools.tools", i, "");
        const json_t *one = json_array_get(list, i);
        if (!json_is_object(one))
            return field_type_error(err, p.text, "an object", one);
        code = check_named(t, one, p.text, &name, err);
        for (int k = 0; k < t->n_names && !code; k++)
            keep[k] = keep[k] || !strcmp(t->names[k], name);
        if (code)
            return code;
    }
    if (!strcmp(mode, "required"))
        return err_param(err, ERR_UNSUPPORTED_VALUE, "tool_choice.allowed_tools.mode", UNENFORCED,
                         "tool_choice.allowed_tools.mode", "a call in any case", USE_AUTO);
    offer_some(t, keep);
    return 0;
}

static int choose_object(struct tools *t, const json_t *choice, const char *param, struct err *err)
{
    const char *type = "function", *name = NULL;
    if (!t->legacy) {
        int code = need_string(choice, param, "type", TOOLS_NAME_BYTES_MAX, &type, err);
        if (code)
            return code;
        if (!strcmp(type, "allowed_tools"))
            return choose_allowed(t, choice, err);
        if (strcmp(type, "function"))
            return unknown_choice(err, param);
    }
    int code = check_named(t, choice, param, &name, err);
    return code ? code
                : err_param(err, ERR_UNSUPPORTED_VALUE, param, UNENFORCED, param,
                            "a call of one function in any case", USE_AUTO);
}

static int choose(struct tools *t, const json_t *root, struct err *err)
{
    const char *param = t->legacy ? "function_call" : "tool_choice";
    const json_t *choice = field_get(root, param);
    if (!choice)
        return 0;
    if (!json_is_string(choice) && !json_is_object(choice))
        return field_type_error(err, param, "a string or an object", choice);
    const char *word = json_is_string(choice) ? field_word(choice) : NULL;
    if (word && !strcmp(word, "auto"))
        return 0;
    if (word && !strcmp(word, "none")) {
        offer_none(t);
        return 0;
    }
    if (!t->n_names)
        return err_param(err, ERR_VALUE, param,
                         "Invalid value for '%s': it is only allowed when '%s' are specified.",
                         param, t->legacy ? "functions" : "tools");
    if (!word)
        return choose_object(t, choice, param, err);
    if (t->legacy || (strcmp(word, "required") && strcmp(word, "any"))) /* "any": Mistral's API */
        return unknown_choice(err, param);
    return err_param(err, ERR_UNSUPPORTED_VALUE, param, UNENFORCED, param, "a call in any case",
                     USE_AUTO);
}

int tools_parse(const json_t *root, struct tools *out, struct arena *arena, struct err *err)
{
    const json_t *tools = NULL, *functions = NULL;
    *out = (struct tools){.parallel = true};
    int code = field_array(root, "tools", &tools, err);
    if (code >= 0)
        code = field_array(root, "functions", &functions, err);
    if (code >= 0)
        code = field_bool(root, "parallel_tool_calls", &out->parallel, err);
    if (code < 0)
        return code;
    bool newer = json_array_size(tools) > 0, older = json_array_size(functions) > 0;
    if (newer && (older || field_get(root, "function_call")))
        return err_param(err, ERR_UNSUPPORTED_PARAM, older ? "functions" : "function_call",
                         "Unsupported parameter: '%s' can not stand beside 'tools'.",
                         older ? "functions" : "function_call");
    out->legacy = older || (!newer && field_get(root, "function_call"));
    out->parallel = out->parallel && !out->legacy;
    code = newer || older
               ? add_all(out, newer ? tools : functions, newer ? "tools" : "functions", arena, err)
               : 0;
    if (!code)
        code = choose(out, root, err);
    if (code)
        tools_free(out);
    return code;
}

void tools_free(struct tools *t)
{
    if (!t)
        return;
    json_decref(t->offered);
    t->offered = NULL;
}
