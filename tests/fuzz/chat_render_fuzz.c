/* chat_render: any JSON as what a chat request gives a template (messages, tools,
 * chat_template_kwargs, add_generation_prompt, continue_final_message). Input: a byte that picks
 * the template, then the JSON. Spans of what renders are well-formed and hold no text of the
 * request, of which '@' is the mark; a final message that is continued ends the text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/source.h"
#include "engine/base/utf8.h"
#include "engine/template/chat.h"

/* The shapes of real templates: headers with trimmed contents; calls and tools as JSON; parts,
 * reasoning cut out of the text, the last user looked for; contents taken as they are. */
static const char *const templates[] = {
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] | trim + "
    "eos_token + '\n' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",

    "{%- if tools %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{%- elif m.tool_calls is defined and m.tool_calls %}[TOOL_CALLS]["
    "{%- for c in m.tool_calls %}{{ c.function | tojson(indent=2) }}{{ ', ' if not loop.last }}"
    "{%- endfor %}]{{ eos_token }}{%- elif m.role == 'tool' %}[TOOL_RESULTS]"
    "{{ {'content': m.content, 'call_id': m.tool_call_id} | tojson }}[/TOOL_RESULTS]"
    "{%- else %}{{ m.content }}{{ eos_token }}{%- endif %}{%- endfor %}",

    "{%- set ns = namespace(last=-1, system='') %}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- elif m.role == 'system' %}"
    "{%- set ns.system = ns.system ~ m.content %}{%- endif %}{%- endfor %}"
    "{%- macro text(c) %}{%- if c is string %}{{ c }}{%- elif c is iterable and c is not mapping %}"
    "{%- for p in c %}{{ p.text if p is mapping else p }}{%- endfor %}{%- endif %}{%- endmacro %}"
    "{{- ns.system | upper }}{%- for m in messages %}{%- set c = text(m.content) %}"
    "{%- if '</think>' in c %}{%- set t = c.split('</think>')[0].rstrip('\n').split('<think>')[-1] "
    "%}{%- set c = c.split('</think>')[-1].lstrip('\n') %}{%- else %}"
    "{%- set t = m.reasoning_content | default('') %}{%- endif %}<|im_start|>{{ m.role }}\n"
    "{%- if loop.index0 > ns.last and t and enable_thinking is not false %}<think>{{ t }}</think>"
    "{%- endif %}{{ c }}{% for k in m.tool_calls or [] %}\n{\"name\": \"{{ k.function.name }}\", "
    "\"arguments\": {{ k.function.arguments if k.function.arguments is string else "
    "k.function.arguments | tojson }}}{% endfor %}<|im_end|>\n{%- endfor %}",

    "{% for m in messages | rejectattr('role', 'equalto', 'tool') %}{{ m.content }}"
    "{% for k, v in (m | dictsort) %}{{ k }}={{ v }};{% endfor %}{{ (m.content | string)[-3:] }}"
    "{% endfor %}{{ messages | map(attribute='role') | unique | join(',') }}"};
enum { N_TEMPLATES = sizeof templates / sizeof templates[0] };

static void require(int held)
{
    if (!held)
        abort();
}

static struct chat *open_chat(const char *text)
{
    static const char config[] = "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}";
    struct source_file file = {"tokenizer_config.json", (const uint8_t *)config, sizeof config - 1};
    struct source *source = NULL;
    struct chat *chat = NULL;
    struct err err = {0};
    require(!source_open_memory("fuzz", &file, 1, &source, &err));
    require(!chat_open(source, NULL, NULL, text, NULL, &chat, &err));
    source_close(source);
    return chat;
}

static void check(const struct template_text *out)
{
    size_t last = 0;
    for (size_t i = 0; i < out->n_trusted; i++) {
        struct text_span span = out->trusted[i];
        require(span.start < span.end && span.end <= out->text.size);
        require(i == 0 || span.start > last);
        last = span.end;
        require(!memchr(out->text.data + span.start, '@', span.end - span.start));
    }
    require(utf8_valid(out->text.data ? out->text.data : "", out->text.size));
}

/* Whether the text ends with these words, white space aside. */
static int ends_with(const struct buf *text, const char *words, size_t n)
{
    size_t end = text->size;
    for (; n && strchr(" \t\r\n", *words); n--)
        words++;
    while (n && strchr(" \t\r\n", words[n - 1]))
        n--;
    while (end && strchr(" \t\r\n", text->data[end - 1]))
        end--;
    return n <= end && memcmp(text->data + end - n, words, n) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct chat *chats[N_TEMPLATES]; /* for the life of the process */
    json_t *root = size ? json_loadb((const char *)data + 1, size - 1, 0, NULL) : NULL;
    const json_t *kwargs = json_object_get(root, "chat_template_kwargs");
    size_t which = size ? data[0] % N_TEMPLATES : 0;
    struct template_text out;
    struct err err = {0};
    if (!json_is_object(root) || (kwargs && !json_is_object(kwargs))) {
        json_decref(root);
        return 0;
    }
    if (!chats[which])
        chats[which] = open_chat(templates[which]);
    struct chat_request request = {
        .messages = json_object_get(root, "messages"),
        .tools = json_object_get(root, "tools"),
        .kwargs = kwargs,
        .add_generation_prompt = json_is_true(json_object_get(root, "add_generation_prompt")),
        .continue_final_message = json_is_true(json_object_get(root, "continue_final_message")),
    };
    int code = chat_render(chats[which], &request, &out, &err);
    require(code == err.code && (!code || err.text[0]));
    if (!code) {
        size_t n = json_array_size(request.messages);
        const json_t *last = json_object_get(json_array_get(request.messages, n - 1), "content");
        check(&out);
        /* the first template keeps every message, in order, at the end of its text */
        if (which == 0 && request.continue_final_message && json_is_string(last) &&
            !memchr(json_string_value(last), 0, json_string_length(last)) &&
            !strpbrk(json_string_value(last), "\x0b\x0c\x1c\x1d\x1e\x1f\xc2\xe1\xe2\xe3"))
            require(ends_with(&out.text, json_string_value(last), json_string_length(last)));
        template_text_free(&out);
    }
    json_decref(root);
    return 0;
}
