/* source: the files of one model, from a folder, a single file, or the binary itself.
 *
 * Whatever reads model files (weights, config, tokenizer, template) asks a source by file name and
 * gets bytes. Folder files are mmapped read-only, privately; a source is immutable after open and
 * may be read by any thread; what it hands out lives until source_close. */
#ifndef SIROCCO_SOURCE_H
#define SIROCCO_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

struct source_file {
    const char *name; /* "config.json": no folder part */
    const uint8_t *data;
    size_t size;
};

struct source; /* opaque */

/* path: a model folder (every regular file directly in it), or one .gguf file. ERR_IO with the
 * errno text, ERR_FORMAT for what is neither. */
int source_open(const char *path, struct source **out, struct err *err);

/* Files that are already in memory (the embedded demo model); files and bytes are borrowed. */
int source_open_memory(const char *name, const struct source_file *files, size_t n_files,
                       struct source **out, struct err *err);
void source_close(struct source *s); /* NULL allowed */

const char *source_name(const struct source *s); /* base name of the path: "Mistral-7B" */
const char *source_path(const struct source *s); /* for messages; "(embedded)" */
size_t source_count(const struct source *s);
const struct source_file *source_at(const struct source *s, size_t i);
const struct source_file *source_find(const struct source *s, const char *name); /* or NULL */
const struct source_file *source_gguf(const struct source *s); /* the .gguf file, or NULL */
/* Mistral's own layout: params.json, and either no config.json or consolidated weights alone. */
bool source_is_mistral(const struct source *s);

#endif
