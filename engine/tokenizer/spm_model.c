/* spm_model: our own reader of sentencepiece .model files. Pure functions; any thread.
 *
 * The library trusts such a file in places (its normalizer's double array is indexed unchecked),
 * so every number here is checked first: wire format, counts, scores, piece texts, and each index
 * that the double array can ever produce. Known fields must have their declared wire type; fields
 * that encoding does not need (self tests, the denormalizer, training notes) are skipped and are
 * not written again. */
#include "engine/tokenizer/spm_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/base/utf8.h"
#include "engine/tokenizer/vocab.h"

/* ---- wire format (protobuf encoding specification) */

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct field {
    uint32_t number;
    enum wire wire;
    uint64_t value;       /* VARINT, 64, 32 */
    struct spm_text text; /* BYTES */
};

static bool read_varint(struct spm_text *in, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 70 && in->size; shift += 7) {
        uint8_t byte = *in->data++;
        in->size--;
        if (shift == 63 && byte > 1)
            return false;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static bool read_fixed(struct spm_text *in, size_t n, uint64_t *value)
{
    if (in->size < n)
        return false;
    *value = 0;
    for (size_t i = 0; i < n; i++)
        *value |= (uint64_t)in->data[i] << (8 * i);
    in->data += n;
    in->size -= n;
    return true;
}

/* The next field of a message that is not at its end; false when malformed. */
static bool read_field(struct spm_text *in, struct field *field)
{
    uint64_t key, n;
    *field = (struct field){0};
    if (!read_varint(in, &key) || key >> 3 == 0 || key >> 3 > 0x1fffffff)
        return false;
    field->number = (uint32_t)(key >> 3);
    field->wire = (enum wire)(key & 7);
    switch (field->wire) {
    case WIRE_VARINT:
        return read_varint(in, &field->value);
    case WIRE_64:
        return read_fixed(in, 8, &field->value);
    case WIRE_32:
        return read_fixed(in, 4, &field->value);
    case WIRE_BYTES:
        if (!read_varint(in, &n) || n > in->size)
            return false;
        field->text = (struct spm_text){in->data, (size_t)n};
        in->data += n;
        in->size -= n;
        return true;
    default: /* groups: not in this format */
        return false;
    }
}

static bool read_bool(const struct field *field, bool *value)
{
    *value = field->value != 0;
    return field->wire == WIRE_VARINT;
}

/* ---- messages; each returns NULL, or what is wrong with it */

static const char *read_piece(struct spm_text in, struct spm_piece *piece)
{
    struct field field;
    *piece = (struct spm_piece){.type = VOCAB_NORMAL};
    while (in.size) {
        if (!read_field(&in, &field))
            return "malformed";
        if (field.number == 1) {
            if (field.wire != WIRE_BYTES)
                return "piece is not a string";
            piece->text = field.text;
        } else if (field.number == 2) {
            uint32_t bits = (uint32_t)field.value;
            if (field.wire != WIRE_32)
                return "score is not a float";
            memcpy(&piece->score, &bits, sizeof bits);
        } else if (field.number == 3) {
            if (field.wire != WIRE_VARINT || field.value == 0 || field.value >= VOCAB_TYPE_COUNT)
                return "unknown type";
            piece->type = (int)field.value;
        }
    }
    const char *text = (const char *)piece->text.data;
    if (!isfinite(piece->score))
        return "score is not finite";
    if (piece->text.size == 0 || piece->text.size > VOCAB_TEXT_MAX)
        return "piece is empty or too long";
    if (!utf8_valid(text, piece->text.size) || memchr(text, 0, piece->text.size))
        return "piece is not UTF-8 text";
    if (piece->type == VOCAB_BYTE && vocab_byte_value(text, piece->text.size) < 0)
        return "a piece of type BYTE is not <0x00>..<0xFF>";
    return NULL;
}

static const char *read_trainer(struct spm_text in, struct spm_model *m)
{
    struct field field;
    while (in.size) {
        if (!read_field(&in, &field))
            return "trainer_spec is malformed";
        bool good = true;
        switch (field.number) {
        case 3:
            good = field.wire == WIRE_VARINT && field.value <= SPM_CHAR;
            m->type = (int)field.value;
            break;
        case 24:
            good = read_bool(&field, &m->space_as_suffix);
            break;
        case 35:
            good = read_bool(&field, &m->byte_fallback);
            break;
        case 46:
            good = field.wire == WIRE_BYTES;
            m->bos = field.text;
            break;
        case 47:
            good = field.wire == WIRE_BYTES;
            m->eos = field.text;
            break;
        default:
            break;
        }
        if (!good)
            return "trainer_spec has a field of wrong type or value";
    }
    return NULL;
}

static const char *read_normalizer(struct spm_text in, struct spm_model *m)
{
    struct field field;
    while (in.size) {
        if (!read_field(&in, &field))
            return "normalizer_spec is malformed";
        bool good = true;
        switch (field.number) {
        case 2:
            good = field.wire == WIRE_BYTES;
            m->charsmap = field.text;
            break;
        case 3:
            good = read_bool(&field, &m->dummy_prefix);
            break;
        case 4:
            good = read_bool(&field, &m->remove_extra_spaces);
            break;
        case 5:
            good = read_bool(&field, &m->escape_spaces);
            break;
        default:
            break;
        }
        if (!good)
            return "normalizer_spec has a field of wrong type";
    }
    return NULL;
}

/* ---- precompiled_charsmap: uint32 byte count, a double array of that size, NUL-ended strings.
 *
 * The double array (Aoe 1989, "An Efficient Digital Search Algorithm by Using a Double-Array
 * Structure", in the layout of darts-clone) is walked from state s by byte c to unit s ^ c, which
 * is read before it is compared; the unit leads to state s ^ c ^ offset, whose first unit is the
 * value when the leaf bit is set. So a state is safe when the whole 256-block around it is inside.
 */

static uint32_t unit_at(const uint8_t *units, size_t i)
{
    const uint8_t *p = units + 4 * i;
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t unit_offset(uint32_t unit)
{
    return unit >> 10 << ((unit & 1u << 9) >> 6);
}

static bool replacement_good(const uint8_t *strings, size_t size, uint32_t at)
{
    if (at >= size)
        return false;
    size_t left = size - at, most = left < SPM_REPLACEMENT_MAX ? left : SPM_REPLACEMENT_MAX;
    const uint8_t *end = memchr(strings + at, 0, most);
    return end && utf8_valid((const char *)strings + at, (size_t)(end - strings) - at);
}

static const char *walk(const uint8_t *units, size_t n, const uint8_t *strings, size_t size,
                        uint32_t *queue, uint8_t *seen)
{
    size_t head = 0, tail = 0;
    uint32_t root = unit_offset(unit_at(units, 0));
    if (root >= n)
        return "its root leads outside";
    queue[tail++] = root;
    seen[root] = 1;
    while (head < tail) {
        uint32_t state = queue[head++];
        if ((state | 0xff) >= n)
            return "an index leads outside";
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t at = state ^ byte, unit = unit_at(units, at);
            if ((unit & (1u << 31 | 0xff)) != byte)
                continue;
            uint32_t next = at ^ unit_offset(unit);
            if (next >= n)
                return "an index leads outside";
            if (unit >> 8 & 1 &&
                !replacement_good(strings, size, unit_at(units, next) & 0x7fffffff))
                return "a replacement is outside, not text, or too long";
            if (!seen[next]) {
                seen[next] = 1;
                queue[tail++] = next;
            }
        }
    }
    return NULL;
}

static int check_charsmap(struct spm_text map, const char *file, struct err *err)
{
    static const char where[] = "normalizer_spec.precompiled_charsmap";
    if (map.size == 0)
        return 0;
    if (map.size > SPM_CHARSMAP_MAX || map.size < 5)
        return err_set(err, ERR_FORMAT, "%s: %s: has %zu bytes", file, where, map.size);
    size_t array_bytes = unit_at(map.data, 0);
    if (array_bytes % 4 || array_bytes == 0 || array_bytes >= map.size - 4)
        return err_set(err, ERR_FORMAT, "%s: %s: %zu bytes of double array do not fit", file, where,
                       array_bytes);
    size_t n = array_bytes / 4;
    uint32_t *queue = calloc(n, sizeof *queue);
    uint8_t *seen = calloc(n, 1);
    const char *wrong = queue && seen ? walk(map.data + 4, n, map.data + 4 + array_bytes,
                                             map.size - 4 - array_bytes, queue, seen)
                                      : "out of memory";
    int code = queue && seen ? ERR_FORMAT : ERR_NOMEM;
    free(queue);
    free(seen);
    return wrong ? err_set(err, code, "%s: %s: %s", file, where, wrong) : 0;
}

/* ---- the model */

static int read_pieces(struct spm_model *m, struct spm_text in, const char *file, struct err *err)
{
    struct field field;
    for (struct spm_text count = in; count.size;) {
        if (!read_field(&count, &field))
            return err_set(err, ERR_FORMAT,
                           "%s: malformed at byte %zu (not a sentencepiece model?)", file,
                           (size_t)(count.data - in.data));
        m->n_pieces += field.number == 1;
    }
    if (m->n_pieces == 0 || m->n_pieces > SPM_PIECES_MAX)
        return err_set(err, ERR_FORMAT, "%s: pieces: there are %zu (1..%d allowed)", file,
                       m->n_pieces, SPM_PIECES_MAX);
    m->pieces = calloc(m->n_pieces, sizeof *m->pieces);
    if (!m->pieces)
        return err_set(err, ERR_NOMEM, "%s: out of memory", file);
    size_t i = 0;
    while (in.size && read_field(&in, &field)) {
        const char *wrong = NULL;
        if (field.number >= 1 && field.number <= 3 && field.wire != WIRE_BYTES)
            return err_set(err, ERR_FORMAT, "%s: field %u is not a message", file, field.number);
        if (field.number == 1) {
            wrong = read_piece(field.text, &m->pieces[i]);
            if (wrong)
                return err_set(err, ERR_FORMAT, "%s: pieces[%zu]: %s", file, i, wrong);
            i++;
        } else if (field.number == 2) {
            wrong = read_trainer(field.text, m);
        } else if (field.number == 3) {
            wrong = read_normalizer(field.text, m);
        }
        if (wrong)
            return err_set(err, ERR_FORMAT, "%s: %s", file, wrong);
    }
    return 0;
}

static int check_types(const struct spm_model *m, const char *file, struct err *err)
{
    static const char *const names[] = {"(none)", "UNIGRAM", "BPE", "WORD", "CHAR"};
    size_t counts[VOCAB_TYPE_COUNT] = {0};
    for (size_t i = 0; i < m->n_pieces; i++)
        counts[m->pieces[i].type]++;
    if (m->type != SPM_BPE && m->type != SPM_UNIGRAM)
        return err_set(err, ERR_FORMAT, "%s: trainer_spec.model_type %s is not supported", file,
                       names[m->type]);
    if (counts[VOCAB_UNKNOWN] != 1)
        return err_set(err, ERR_FORMAT, "%s: pieces: %zu are of type UNKNOWN (1 needed)", file,
                       counts[VOCAB_UNKNOWN]);
    if (counts[VOCAB_BYTE] != (m->byte_fallback ? 256 : 0))
        return err_set(err, ERR_FORMAT, "%s: pieces: %zu are of type BYTE, with byte_fallback %s",
                       file, counts[VOCAB_BYTE], m->byte_fallback ? "true" : "false");
    if (counts[VOCAB_NORMAL] + counts[VOCAB_USER] == 0)
        return err_set(err, ERR_FORMAT, "%s: pieces: none is of type NORMAL", file);
    return 0;
}

int spm_model_open(struct spm_model *m, const uint8_t *data, size_t size, const char *file,
                   struct err *err)
{
    *m = (struct spm_model){.type = SPM_UNIGRAM,
                            .dummy_prefix = true,
                            .remove_extra_spaces = true,
                            .escape_spaces = true,
                            .bos = {(const uint8_t *)"<s>", 3},
                            .eos = {(const uint8_t *)"</s>", 4}};
    int code = read_pieces(m, (struct spm_text){data, size}, file, err);
    if (!code)
        code = check_types(m, file, err);
    if (!code)
        code = check_charsmap(m->charsmap, file, err);
    if (code)
        spm_model_close(m);
    return code;
}

void spm_model_close(struct spm_model *m)
{
    free(m->pieces);
    *m = (struct spm_model){0};
}

/* ---- writing */

static void put_varint(struct buf *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        buf_byte(out, (char)(value | 0x80));
    buf_byte(out, (char)value);
}

static void put_number(struct buf *out, uint32_t number, uint64_t value)
{
    put_varint(out, number << 3 | WIRE_VARINT);
    put_varint(out, value);
}

static void put_bytes(struct buf *out, uint32_t number, const void *data, size_t size)
{
    put_varint(out, number << 3 | WIRE_BYTES);
    put_varint(out, size);
    buf_add(out, data, size);
}

static void put_piece(struct buf *out, struct buf *scratch, const struct spm_piece *piece)
{
    uint32_t bits;
    memcpy(&bits, &piece->score, sizeof bits);
    buf_clear(scratch);
    put_bytes(scratch, 1, piece->text.data, piece->text.size);
    put_varint(scratch, 2 << 3 | WIRE_32);
    for (int i = 0; i < 4; i++)
        buf_byte(scratch, (char)(bits >> (8 * i)));
    put_number(scratch, 3, (uint64_t)piece->type);
    put_bytes(out, 1, scratch->data, scratch->size);
}

int spm_model_write(const struct spm_model *m, bool dummy_prefix, struct buf *out)
{
    struct buf scratch;
    buf_init(&scratch, 0);
    for (size_t i = 0; i < m->n_pieces; i++)
        put_piece(out, &scratch, &m->pieces[i]);
    buf_clear(&scratch);
    put_number(&scratch, 3, (uint64_t)m->type);
    put_number(&scratch, 24, m->space_as_suffix);
    put_number(&scratch, 35, m->byte_fallback);
    put_bytes(out, 2, scratch.data, scratch.size);
    buf_clear(&scratch);
    put_bytes(&scratch, 2, m->charsmap.data, m->charsmap.size);
    put_number(&scratch, 3, dummy_prefix);
    put_number(&scratch, 4, m->remove_extra_spaces);
    put_number(&scratch, 5, m->escape_spaces);
    put_bytes(out, 3, scratch.data, scratch.size);
    int failed = scratch.failed ? scratch.failed : out->failed;
    buf_free(&scratch);
    return failed;
}
