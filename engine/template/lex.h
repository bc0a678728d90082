/* lex: template source to tokens, one at a time. Internal to engine/template.
 *
 * Rules as in Jinja 3 with trim_blocks and lstrip_blocks on and keep_trailing_newline off (template
 * designer documentation, "Whitespace Control" and "Escaping"). */
#ifndef SIROCCO_TEMPLATE_LEX_H
#define SIROCCO_TEMPLATE_LEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/err.h"

#define TOKEN_LIST(X)                                                                              \
    X(TOKEN_END, "end of template")                                                                \
    X(TOKEN_TEXT, "template text")                                                                 \
    X(TOKEN_PRINT_BEGIN, "begin of print statement")                                               \
    X(TOKEN_PRINT_END, "end of print statement")                                                   \
    X(TOKEN_BLOCK_BEGIN, "begin of statement block")                                               \
    X(TOKEN_BLOCK_END, "end of statement block")                                                   \
    X(TOKEN_NAME, "name")                                                                          \
    X(TOKEN_STRING, "string")                                                                      \
    X(TOKEN_INT, "integer")                                                                        \
    X(TOKEN_FLOAT, "float")                                                                        \
    X(TOKEN_ADD, "+")                                                                              \
    X(TOKEN_SUB, "-")                                                                              \
    X(TOKEN_MUL, "*")                                                                              \
    X(TOKEN_DIV, "/")                                                                              \
    X(TOKEN_FLOORDIV, "//")                                                                        \
    X(TOKEN_MOD, "%")                                                                              \
    X(TOKEN_POW, "**")                                                                             \
    X(TOKEN_TILDE, "~")                                                                            \
    X(TOKEN_EQ, "==")                                                                              \
    X(TOKEN_NE, "!=")                                                                              \
    X(TOKEN_LT, "<")                                                                               \
    X(TOKEN_LE, "<=")                                                                              \
    X(TOKEN_GT, ">")                                                                               \
    X(TOKEN_GE, ">=")                                                                              \
    X(TOKEN_IN, "in")                                                                              \
    X(TOKEN_NOT_IN, "not in")                                                                      \
    X(TOKEN_ASSIGN, "=")                                                                           \
    X(TOKEN_DOT, ".")                                                                              \
    X(TOKEN_COMMA, ",")                                                                            \
    X(TOKEN_COLON, ":")                                                                            \
    X(TOKEN_SEMICOLON, ";")                                                                        \
    X(TOKEN_PIPE, "|")                                                                             \
    X(TOKEN_LPAREN, "(")                                                                           \
    X(TOKEN_RPAREN, ")")                                                                           \
    X(TOKEN_LBRACKET, "[")                                                                         \
    X(TOKEN_RBRACKET, "]")                                                                         \
    X(TOKEN_LBRACE, "{")                                                                           \
    X(TOKEN_RBRACE, "}")

#define TOKEN_ENUM(name, text) name,
enum token_kind { TOKEN_LIST(TOKEN_ENUM) TOKEN_COUNT };
#undef TOKEN_ENUM

struct token {
    enum token_kind kind;
    uint32_t at;      /* byte offset in the source */
    const char *text; /* TEXT, NAME: in the source; STRING: decoded, in the arena */
    size_t n;
    int64_t i;
    double f;
};

enum lex_mode { LEX_TEXT, LEX_PRINT, LEX_BLOCK };
enum { LEX_BRACKETS_MAX = 256 };

struct lexer {
    const char *source;
    size_t n, pos;
    enum lex_mode mode;
    bool text_done; /* the text before the delimiter at pos has been given out */
    char brackets[LEX_BRACKETS_MAX]; /* the closers awaited */
    int n_brackets;
    struct arena *arena; /* for decoded strings */
};

void lex_init(struct lexer *l, const char *source, size_t n, struct arena *arena);
/* ERR_FORMAT "line 3, column 7: ..." or ERR_NOMEM. */
int lex_next(struct lexer *l, struct token *token, struct err *err);
const char *lex_kind_text(enum token_kind kind);

/* 1-based line and column (in characters) of a byte offset. */
void lex_place(const char *source, size_t at, size_t *line, size_t *column);

#endif
