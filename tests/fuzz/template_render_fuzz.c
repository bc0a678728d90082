/* template_render: input is template source, then optionally a NUL and a JSON context (else one of
 * a usual conversation). Whatever renders has well-formed spans: ascending, disjoint, not touching,
 * inside the text; and the untrusted marker of the context is in none of them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/template/template.h"

static const char usual[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"@@\"},{\"role\":\"user\",\"content\":"
    "\"@@@ \\u00e9@ @\\n@\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"@\","
    "\"function\":{\"name\":\"@\",\"arguments\":{\"@\":\"@\",\"@@\":[null,true,{\"@\":[\"@\"]}]}}}]}],"
    "\"tools\":null,\"add_generation_prompt\":true,\"bos_token\":\"<s>\",\"eos_token\":\"</s>\","
    "\"s\":\"@@\",\"l\":[\"@\",\"@@\"],\"d\":{\"@\":\"@\"}}";

static void require(int held)
{
    if (!held)
        abort();
}

static void check(const struct template_text *out, int marked)
{
    size_t last = 0;
    for (size_t i = 0; i < out->n_trusted; i++) {
        struct text_span span = out->trusted[i];
        require(span.start < span.end && span.end <= out->text.size);
        require(i == 0 || span.start > last);
        last = span.end;
        if (marked)
            require(!memchr(out->text.data + span.start, '@', span.end - span.start));
    }
    require(utf8_valid(out->text.data ? out->text.data : "", out->text.size));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const trusted[] = {"bos_token", "eos_token", NULL};
    const uint8_t *split = memchr(data, 0, size);
    size_t n = split ? (size_t)(split - data) : size;
    json_t *context = split ? json_loadb((const char *)split + 1, size - n - 1, 0, NULL)
                            : json_loads(usual, 0, NULL);
    struct template *t = NULL;
    struct template_text out;
    struct err err = {0};
    /* the marker can only come from the context if the source can not spell it */
    int marked = !split && !memchr(data, '@', n) && !memchr(data, '\\', n);
    if (json_is_object(context) && template_parse((const char *)data, n, &t, &err) == 0) {
        int rc = template_render(t, context, trusted, 1752148800, &out, &err);
        require(rc == 0 || err.text[0] || rc == ERR_VALUE);
        if (rc == 0) {
            check(&out, marked);
            template_text_free(&out);
        }
    }
    template_free(t);
    json_decref(context);
    return 0;
}
