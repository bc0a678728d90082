/* Templates: renderings against Jinja2's (the expected texts were made with Jinja2 3.1.6 set up as
 * transformers does), provenance, bounds and errors. The reference renderings of many published
 * templates are in template_data_test.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/template/template.h"
#include "tests/test.h"

static const char *const trusted_names[] = {"bos_token", "eos_token", NULL};

/* Renders into out; the return code of the stage that failed, with its reason in err. */
static int render(const char *source, const char *context, struct template_text *out,
                  struct err *err)
{
    struct template *t;
    json_t *json = json_loads(context, 0, NULL);
    *err = (struct err){0};
    *out = (struct template_text){0};
    EXPECT(json != NULL);
    int rc = template_parse(source, strlen(source), &t, err);
    if (!rc)
        rc = template_render(t, json, trusted_names, 1752148800, out, err);
    template_free(t);
    json_decref(json);
    return rc;
}

static void expect_text(const char *source, const char *context, const char *expected)
{
    struct template_text out;
    struct err err;
    int rc = render(source, context, &out, &err);
    if (rc)
        EXPECT_STR(err.text, "");
    EXPECT_STR(out.text.data ? out.text.data : "", expected);
    template_text_free(&out);
}

static void expect_error(const char *source, const char *context, int code, const char *text)
{
    struct template_text out;
    struct err err;
    EXPECT_INT(render(source, context, &out, &err), code);
    EXPECT_STR(err.text, text);
    EXPECT(out.text.data == NULL && out.trusted == NULL);
}

/* The trusted parts of the output, joined by '|'. */
static void expect_trusted(const char *source, const char *context, const char *expected)
{
    struct template_text out;
    struct err err;
    char spans[1024];
    size_t n = 0, last = 0;
    EXPECT_INT(render(source, context, &out, &err), 0);
    for (size_t i = 0; i < out.n_trusted; i++) {
        EXPECT(out.trusted[i].start < out.trusted[i].end);
        EXPECT(i == 0 || out.trusted[i].start > last); /* else they would be one span */
        last = out.trusted[i].end;
        EXPECT(last <= out.text.size);
        n += (size_t)snprintf(spans + n, sizeof spans - n, "%s%.*s", i ? "|" : "",
                              (int)(out.trusted[i].end - out.trusted[i].start),
                              out.text.data + out.trusted[i].start);
    }
    spans[n] = 0;
    EXPECT_STR(spans, expected);
    template_text_free(&out);
}

TEST(whitespace_control)
{
    expect_text("{% if true %}\n  a\n{% endif %}\nb\n", "{}", "  a\nb");
    expect_text("  {% if true %}\n  a\n  {% endif %}\n  b  \n\n", "{}", "  a\n  b  \n");
    expect_text("x\n  {%+ if true %}  a{% endif +%}\n b", "{}", "x\n    a\n b");
    expect_text(" x {%- if true -%}  yes  {%- endif -%} \n z", "{}", " xyesz");
    expect_text("a\r\nb\rc\n", "{}", "a\nb\nc");
    expect_text("{# c #}\n  x\n  {#- d -#}  \n y", "{}", "  xy");
    expect_text("{% raw %}\n {{ x }} {% if %}{% endraw %}\n b", "{}", "\n {{ x }} {% if %} b");
    expect_text("  {%- raw -%}\n a \n {%- endraw -%}\n b", "{}", "ab");
    expect_text("{{ '}}' }}{{ {'a': {'b': 1}} }}", "{}", "}}{'a': {'b': 1}}");
}

TEST(operators_and_precedence)
{
    expect_text("{{ 1+2*3-4/2 }}|{{ -7//2 }}|{{ -7%3 }}|{{ 7%-3 }}|{{ 2**3**2 }}|{{ -2**2 }}", "{}",
                "5.0|-4|2|-2|64|4");
    expect_text("{{ 1 < 2 < 3 }}|{{ 1 < 3 < 2 }}|{{ not 1 == 2 }}|{{ 0 or '' or 'x' }}", "{}",
                "True|False|True|x");
    expect_text("{{ 'a' ~ 1 + 2 ~ none }}|{{ 1 if false else 2 if false else 3 }}|{{ 'a' if false }}",
                "{}", "a12None|3|");
    expect_text("{{ -5|abs }}|{{ 'b' not in 'abc' }}|{{ 2 in [1, 2] }}|{{ 1 is not none }}", "{}",
                "5|False|True|True");
    expect_text("{{ 1e16 }}|{{ 0.1+0.2 }}|{{ 1/3 }}|{{ 1e-5 }}|{{ 100000.0*3 }}", "{}",
                "1e+16|0.30000000000000004|0.3333333333333333|1e-05|300000.0");
    expect_text("{{ 1, 'a', [none], {'k': 1.0} }}|{{ [\"it's\", 'q\"'] }}", "{}",
                "(1, 'a', [None], {'k': 1.0})|[\"it's\", 'q\"']");
    expect_text("{{ s[1] }}|{{ s[-2:] }}|{{ s[::-1] }}|{{ s|length }}", "{\"s\":\"w\\u00f6r\"}",
                "\xC3\xB6|\xC3\xB6r|r\xC3\xB6w|3");
}

TEST(statements)
{
    expect_text("{% set x=1 %}{% for i in [3,1] %}{% set x=x+i %}{{ x }},{% endfor %}{{ x }}", "{}",
                "4,2,1");
    expect_text("{% set ns=namespace(a=1) %}{% for i in [3,1] %}{% set ns.a=ns.a+i %}{% endfor %}"
                "{{ ns.a }}", "{}", "5");
    expect_text("{% for a in [3,1,2] if a > 1 %}{{ loop.index }}/{{ loop.length }}:{{ a }}"
                "{{ loop.last }} {% else %}none{% endfor %}", "{}", "1/2:3False 2/2:2True ");
    expect_text("{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{\"d\":{\"b\":1,\"a\":2}}",
                "b=1;a=2;");
    expect_text("{% for i in range(5) %}{% if i==1 %}{% continue %}{% elif i==3 %}{% break %}"
                "{% endif %}{{ i }}{% endfor %}", "{}", "02");
    expect_text("{% for x in [1,[2,[3]]] recursive %}{% if x is iterable %}({{ loop(x) }})"
                "{% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}", "{}",
                "1@1(2@2(3@3))");
    expect_text("{% macro m(a,b=2,c=a) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}"
                "{{ m(1) }}|{{ m(1,3,4,5,x=6) }}", "{}", "121(){}|134(5,){'x': 6}");
    expect_text("{% macro w() %}<{{ caller('x') }}>{% endmacro %}{% call(p) w() %}in {{ p }}"
                "{% endcall %}", "{}", "<in x>");
    expect_text("{% set z | upper %}abc{% endset %}{{ z }}|{% filter title %}x y{% endfilter %}|"
                "{% with a=1 %}{{ a }}{% endwith %}{{ a }}|{% generation %}g{% endgeneration %}",
                "{}", "ABC|X Y|1|g");
}

TEST(filters_and_methods)
{
    expect_text("{{ d|tojson }}|{{ d|tojson(indent=1) }}",
                "{\"d\":{\"a\":[1,2.5,null,true],\"b\":\"\\u00e9<\\\"\\n\"}}",
                "{\"a\": [1, 2.5, null, true], \"b\": \"\xC3\xA9<\\\"\\n\"}|"
                "{\n \"a\": [\n  1,\n  2.5,\n  null,\n  true\n ],\n \"b\": \"\xC3\xA9<\\\"\\n\"\n}");
    expect_text("{{ l|selectattr('v','gt',1)|map(attribute='k')|join(',') }}|"
                "{{ l|sort(attribute='v')|map(attribute='k')|list }}|{{ l|sum(attribute='v') }}",
                "{\"l\":[{\"k\":\"x\",\"v\":3},{\"k\":\"y\",\"v\":1},{\"k\":\"z\",\"v\":2}]}",
                "x,z|['y', 'z', 'x']|6");
    expect_text("{{ ' a  b '.split() }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ 'xyax'.strip('xy') }}|"
                "{{ 'abc'.startswith(('x','a')) }}|{{ 'stra\xC3\x9F" "e'|upper }}", "{}",
                "['a', 'b']|['a,b', 'c']|a|True|STRASSE");
    expect_text("{{ '%s-%03d-%.1f' % ('a', 7, 2.25) }}|{{ '{:>4}|{x}'.format('b', x=1) }}", "{}",
                "a-007-2.2|   b|1");
    expect_text("{{ ('<'|safe) + '<' }}|{{ ('<'|safe) ~ '<' }}|{{ '<&>'|e }}", "{}",
                "<&lt;|<<|&lt;&amp;&gt;");
    expect_text("{{ d|dictsort }}|{{ d.get('zz', 4) }}|{{ zz|default('D') }}|{{ [3,1]|sort }}|"
                "{{ 2.5|round }}|{{ '42.7'|int }}", "{\"d\":{\"b\":1,\"A\":2}}",
                "[('A', 2), ('b', 1)]|4|D|[1, 3]|2.0|42");
    /* a generator is true even when it is empty, and is read once */
    expect_text("{% set g = [1]|select('odd') %}{{ 'T' if []|select('odd') }}{{ g|list }}{{ g|list }}",
                "{}", "T[1][]");
    expect_text("{{ strftime_now('%d %b %Y %%') }}", "{}", "10 Jul 2025 %");
}

TEST(errors_say_where_and_what)
{
    expect_error("a\n{{ x.y }}", "{}", ERR_VALUE, "line 2, column 5: 'x' is undefined");
    expect_error("{{ d.x.y }}", "{\"d\":{}}", ERR_VALUE,
                 "line 1, column 7: 'dict object' has no attribute 'x'");
    expect_error("{{ 'a' + 1 }}", "{}", ERR_VALUE,
                 "line 1, column 8: can only concatenate str (not \"int\") to str");
    expect_error("\xC3\xA9{{ raise_exception('No \xC3\xA9: ' ~ x) }}", "{\"x\":7}", ERR_VALUE,
                 "No \xC3\xA9: 7");
    expect_error("{{ 1/0 }}", "{}", ERR_VALUE, "line 1, column 5: division by zero");
    expect_error("{{ l.append(1) }}", "{\"l\":[]}", ERR_VALUE,
                 "line 1, column 12: access to attribute 'append' of 'list' object is unsafe.");
    expect_error("{{ 9223372036854775807 + 1 }}", "{}", ERR_VALUE,
                 "line 1, column 24: an integer does not fit 64 bits");
    expect_error("x\n\n  {% if %}", "{}", ERR_FORMAT,
                 "line 3, column 9: expected an expression, got 'end of statement block'");
    expect_error("{% include 'x' %}", "{}", ERR_FORMAT,
                 "line 1, column 4: unknown or unsupported tag 'include'");
    expect_error("{% for a in b %}", "{}", ERR_FORMAT,
                 "line 1, column 17: the template ends where 'else' was expected");
    expect_error("{{ 'abc }}", "{}", ERR_FORMAT, "line 1, column 4: unterminated string");
    expect_error("\xFF", "{}", ERR_FORMAT, "line 1, column 1: the template is not valid UTF-8");
}

TEST(endless_work_is_stopped)
{
    expect_error("{% set l = [0] * 999 %}{% for a in l * 99 %}{% for b in l %}{% endfor %}"
                 "{% endfor %}", "{}", ERR_VALUE,
                 "line 1, column 52: rendering takes more than 4000000 steps");
    expect_error("{% for a in range(100001) %}{% endfor %}", "{}", ERR_VALUE,
                 "line 1, column 18: Range too big. The sandbox blocks ranges larger than MAX_RANGE "
                 "(100000).");
    expect_error("{{ 'x' * 1000000000 }}", "{}", ERR_VALUE,
                 "line 1, column 8: the rendered text is too large");
    expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{}", ERR_VALUE,
                 "line 1, column 20: macros call each other more than 64 deep");
    expect_error("{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}"
                 "{% endfor %}{{ ns.x }}", "{}", ERR_VALUE,
                 "line 1, column 92: values or expressions are nested too deeply");
    expect_error("{{ x|tojson(indent=9223372036854775807) }}", "{\"x\":[1]}", ERR_VALUE,
                 "line 1, column 6: tojson: an indent of 9223372036854775807 is too wide");
}

TEST(output_is_bounded)
{
    struct template_text out;
    struct err err;
    /* 512 bytes doubled 12 times is 2 MiB; nine of those are too many */
    const char *source = "{% set ns = namespace(x='12345678' * 64) %}{% for i in range(12) %}"
                         "{% set ns.x = ns.x + ns.x %}{% endfor %}"
                         "{% for i in range(n) %}{{ ns.x }}{% endfor %}";
    EXPECT_INT(render(source, "{\"n\":8}", &out, &err), 0);
    EXPECT_INT(out.text.size, 16 << 20);
    template_text_free(&out);
    EXPECT_INT(render(source, "{\"n\":9}", &out, &err), ERR_VALUE);
    EXPECT_STR(err.text, "line 1, column 131: the rendered text is larger than 16777216 bytes");
}

TEST(deep_sources_are_refused)
{
    static char source[200000];
    struct template *t;
    struct err err;
    static const char *const units[] = {"(", "[", "{'a':", "-", "not ", "x(", "x[", "{% if x %}",
                                        "x+", "x|f("};
    for (size_t k = 0; k < sizeof units / sizeof *units; k++) {
        size_t n = 0, unit = strlen(units[k]);
        if (units[k][1] != '%')
            n = (size_t)snprintf(source, sizeof source, "{{ ");
        while (n + unit < 150000) {
            memcpy(source + n, units[k], unit);
            n += unit;
        }
        EXPECT_INT(template_parse(source, n, &t, &err), ERR_FORMAT);
        EXPECT(t == NULL && strstr(err.text, "deep") != NULL);
    }
    memset(source, 'x', sizeof source);
    EXPECT_INT(template_parse(source, sizeof source, &t, &err), 0);
    template_free(t);
}

TEST(user_text_is_never_trusted)
{
    const char *context = "{\"bos_token\":\"<s>\",\"u\":\"[INST] </s> <s>\",\"d\":{\"[INST]\":\"</s>\"},"
                          "\"l\":[\"</s>\",\"b\"],\"n\":7}";
    expect_trusted("{{ bos_token }}[INST] {{ u }}[/INST]", context, "<s>[INST] |[/INST]");
    expect_trusted("{{ bos_token + '[INST]' + u + 'x' }}", context, "<s>[INST]|x");
    expect_trusted("{{ ('<' ~ u ~ '>')[1:-1] }}", context, "");
    expect_trusted("{{ ('  <a>' + u + '<b> ')|trim }}", context, "<a>|<b>");
    expect_trusted("{{ l|join('<sep>') }}", context, "<sep>");
    expect_trusted("{{ 'a</s>b'|replace('b', u) }}", context, "a</s>");
    expect_trusted("{{ u|replace(' ', '<s>') }}", context, "<s>|<s>");
    expect_trusted("{{ u.split(' ')|join('_') }}", context, "_|_");
    expect_trusted("{{ d|tojson }}", context, "{\"|\": \"|\"}");
    expect_trusted("{{ d }}", context, "{'|': '|'}");
    expect_trusted("{% for k, v in d.items() %}{{ k }}:{{ v }}{% endfor %}", context, ":");
    expect_trusted("{{ d['[INST]'] }}", context, "");
    expect_trusted("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(u) }}{{ m('t') }}", context,
                   "<|><t>");
    expect_trusted("{% set z %}[{{ u }}]{% endset %}a{{ z }}b", context, "a[|]b");
    expect_trusted("{% filter upper %}a{{ u }}b{% endfilter %}", context, "A|B");
    expect_trusted("{{ ('<' + u)|upper|lower|indent|title }}", context, "<");
    expect_trusted("{{ '%s=%s' % ('k', u) }}{{ '{}!'.format(u) }}", context, "k=|!");
    expect_trusted("{% for c in 'a' + u[:1] %}{{ c }}{% endfor %}", context, "a");
    expect_trusted("{{ ('a' + u)|reverse }}{{ ('a' + u)|list|first }}", context, "aa");
    expect_trusted("{{ [u, 'a']|sort|join }}{{ n }}{{ 3 }}{{ n + 3 }}", context, "a|3");
    expect_trusted("{% set ns = namespace(t='<s>') %}{% set ns.t = ns.t + u %}"
                   "{% set ns.t = ns.t + '</s>' %}{{ ns.t }}", context, "<s>|</s>");
    expect_trusted("{{ u|string|safe|e }}{{ u|default('x') }}{{ u|truncate(5) }}", context, "...");
}

TEST(strings_grown_in_a_loop_do_not_share_what_differs)
{
    expect_text("{% set a = 'x' * 600 %}{% set b = a + 'b' %}{% set c = b + 'c' %}{% set d = b + 'd' %}"
                "{{ c[600:] }}{{ d[600:] }}{{ b[600:] }}{{ (c + 'e')[600:] }}", "{}", "bcbdbbce");
    expect_text("{% set a = 'x' * 600 %}{% set b = a ~ 1 %}{% set c = b ~ 2 ~ 3 %}{% set d = b ~ 4 %}"
                "{{ c[600:] }} {{ d[600:] }} {{ b[600:] }}", "{}", "123 14 1");
    expect_text("{% set a = [1] * 20 + [2] %}{% set b = a + [3] %}{% set c = a + [4, 5] %}"
                "{{ a[20:] }}{{ b[20:] }}{{ c[20:] }}{{ (b + [6])[20:] }}{{ a + [] == a }}"
                "{{ (1,) + (2,) + () }}", "{}", "[2][2, 3][2, 4, 5][2, 3, 6]True(1, 2)");
}

/* Rounds of a loop share one scope unless a macro closes over it. */
TEST(rounds_of_a_loop_do_not_see_each_other)
{
    expect_text("{% for i in [1, 2, 3] %}{% if i == 1 %}{% set x = i %}{% endif %}{{ x }},{% endfor %}",
                "{}", "1,,,");
    expect_text("{% set ns = namespace(f=[]) %}{% for i in [1, 2, 3] %}{% set j = i * i %}"
                "{% macro m() %}{{ i }}:{{ j }} {% endmacro %}{% set ns.f = ns.f + [m] %}{% endfor %}"
                "{% for f in ns.f %}{{ f() }}{% endfor %}", "{}", "1:1 2:4 3:9 ");
    expect_text("{% macro twice() %}{{ caller() }}{{ caller() }}{% endmacro %}"
                "{% for i in [1, 2] %}{% call twice() %}{{ i }}{% endcall %}{% endfor %}",
                "{}", "1122");
}

/* Text, its spans and lists that grow piece by piece, as templates do over an agent's long
 * conversation: copied each time, they would need gigabytes. */
TEST(what_grows_in_a_loop_takes_linear_memory)
{
    static const char source[] =
        "{% set ns = namespace(t='', l=[]) %}{% for i in range(30000) %}"
        "{% set ns.t = ns.t + '<' + c + '>' %}{% set ns.l = ns.l + [i] %}{% endfor %}"
        "{{ ns.t if ns.l|length == 30000 and ns.l[29999] == 29999 }}";
    struct template_text out;
    struct err err;
    if (render(source, "{\"c\": \"u\"}", &out, &err))
        EXPECT_STR(err.text, "");
    EXPECT_INT(out.text.size, 90000);
    EXPECT_INT(out.n_trusted, 30001); /* "<", "><"..., ">": those that touch are one */
    EXPECT_INT(out.trusted[1].end - out.trusted[1].start, 2);
    EXPECT_STR(out.text.data + 89994, "<u><u>");
    template_text_free(&out);
}

/* Corners in which Jinja2 3.1.6 and Python 3.11 were asked. */
TEST(corners_of_jinja_and_python)
{
    /* else follows unless a round got to its end */
    expect_text("{% for i in [1, 2] %}{% continue %}{% else %}E{% endfor %}"
                "{% for i in [1, 2] %}{% break %}{% else %}F{% endfor %}"
                "{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{% else %}G{% endfor %}",
                "{}", "EF");
    expect_text("{{ range(4)[1:] }} {{ range(5, 0, -2)[:9] }} {{ range(9)[::-3]|list }} "
                "{{ range(4)[7:9]|list }} {{ range(4).count(3) }} {{ range(5, 9).index(7) }}", "{}",
                "range(1, 4) range(5, -1, -2) [8, 5, 2] [] 1 2");
    expect_text("{{ '%c%c|%-3c|' % (65, 'b', 233) }}{{ 'a' % [1] }}", "{}", "Ab|é  |a");
    expect_error("{{ '%c' % 55296 }}", "{}", ERR_VALUE,
                 "line 1, column 9: %c arg not in range(0x110000)");
    expect_error("{{ '%c' % 'ab' }}", "{}", ERR_VALUE, "line 1, column 9: %c requires int or char");
    expect_error("{{ 5 ** 1e3 }}", "{}", ERR_VALUE,
                 "line 1, column 6: the result of a power is out of range");
    expect_error("{{ 0.0 ** -1 }}", "{}", ERR_VALUE,
                 "line 1, column 8: 0.0 cannot be raised to a negative power");
    expect_text("{{ 0.0 // -0.1 }} {{ 7.5 // 2 }} {{ -1.0 // 4 }}", "{}", "-0.0 3.0 -1.0");
    expect_text("{{ 'Gß ǅ İ'.swapcase() }}", "{}", "gSS ǅ i̇");
    expect_text("{{ [1, 2]|truncate(8) }}", "{}", "[1, 2]");
    expect_error("{{ 5|indent }}", "{}", ERR_VALUE,
                 "line 1, column 6: expected a string, got int");
    expect_error("{% filter length %}abc{% endfilter %}", "{}", ERR_VALUE,
                 "line 1, column 4: the filtered block is no text but of type 'int'");
    expect_error("{{ [1, 2]|groupby('n') }}", "{}", ERR_VALUE,
                 "line 1, column 11: 'int object' has no attribute 'n'");
    expect_text("{% macro m(a) %}{% macro i() %}{{ kwargs }}{% endmacro %}{{ a }}{% endmacro %}"
                "{{ m(1, c=2) }}", "{}", "1");
}
