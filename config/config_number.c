/* config_number: numbers with their units, as options carry them. Pure functions; nothing depends
 * on the locale, and nothing is read that is not wholly understood. */
#include "config/config_parse.h"

#include <string.h>
#include <strings.h>

enum { BAD = -1, FINE = 0, OUT_OF_RANGE = 1, DIGITS_MAX = 15 };

struct unit {
    const char *suffix;
    int64_t factor;
};

static const struct unit BYTE_UNITS[] = {{"", 1},
                                         {"k", (int64_t)1 << 10},
                                         {"m", (int64_t)1 << 20},
                                         {"g", (int64_t)1 << 30},
                                         {"t", (int64_t)1 << 40},
                                         {NULL, 0}};
static const struct unit MS_UNITS[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {NULL, 0}};
static const struct unit SECOND_UNITS[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000},
                                           {NULL, 0}};
static const struct unit NO_UNITS[] = {{"", 1}, {NULL, 0}};

static const struct unit *units_of(enum config_kind kind)
{
    return kind == CONFIG_BYTES     ? BYTE_UNITS
           : kind == CONFIG_MS      ? MS_UNITS
           : kind == CONFIG_SECONDS ? SECOND_UNITS
                                    : NO_UNITS;
}

/* The unit that is all of text; 0: none. */
static int64_t unit_factor(const struct unit *units, const char *text)
{
    for (; units->suffix; units++)
        if (!strcasecmp(units->suffix, text))
            return units->factor;
    return 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int read_whole(const struct config_option *o, const char *text, int64_t *out)
{
    bool negative = *text == '-', overflow = false;
    int64_t value = 0;
    text += negative;
    if (!is_digit(*text))
        return BAD;
    for (; is_digit(*text); text++)
        overflow |= __builtin_mul_overflow(value, 10, &value) ||
                    __builtin_add_overflow(value, *text - '0', &value);
    int64_t factor = unit_factor(units_of(o->kind), text);
    if (factor == 0)
        return BAD;
    overflow |= __builtin_mul_overflow(value, factor, &value);
    *out = negative ? -value : value;
    if (overflow || (double)*out < o->min || (double)*out > o->max)
        return OUT_OF_RANGE;
    return o->power_of_two && (value & (value - 1)) != 0 ? OUT_OF_RANGE : FINE;
}

/* Digits with at most one point. Up to 15 digits and a power of ten are exact in a double, so that
 * one division rounds correctly. */
static int read_decimal(const struct config_option *o, const char *text, double *out)
{
    bool negative = *text == '-', point = false;
    int64_t digits = 0, divisor = 1;
    int n_digits = 0, n_seen = 0;
    for (text += negative; is_digit(*text) || (*text == '.' && !point); text++) {
        if (*text == '.') {
            point = true;
            continue;
        }
        n_seen++;
        if (n_digits == 0 && *text == '0' && !point)
            continue;
        if (++n_digits > DIGITS_MAX)
            return OUT_OF_RANGE;
        digits = digits * 10 + (*text - '0');
        divisor *= point ? 10 : 1;
    }
    int64_t factor = unit_factor(units_of(o->kind), text);
    if (n_seen == 0 || factor == 0)
        return BAD;
    *out = (double)digits / (double)divisor;
    if (o->kind == CONFIG_SECONDS && factor != 1000)
        *out = *out * (double)factor / 1000.0;
    *out = negative ? -*out : *out;
    return *out < o->min || *out > o->max ? OUT_OF_RANGE : FINE;
}

int config_number(const struct config_option *o, const char *text, double *value, int64_t *whole)
{
    if (o->kind == CONFIG_DECIMAL || o->kind == CONFIG_SECONDS)
        return read_decimal(o, text, value);
    return read_whole(o, text, whole);
}
