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

/* path: a model folder (every regular file directly in it), or one .gguf file, or one part of a
 * split one: then all its parts. ERR_IO with the errno text, ERR_FORMAT for what is neither and for
 * a part that is missing. */
int source_open(const char *path, struct source **out, struct err *err);

/* Files that are already in memory (the embedded demo model); files and bytes are borrowed. */
int source_open_memory(const char *name, const struct source_file *files, size_t n_files,
                       struct source **out, struct err *err);
void source_close(struct source *s); /* NULL allowed */

const char *source_name(const struct source *s); /* base name of the path: "Mistral-7B" */
const char *source_path(const struct source *s); /* for messages; "(embedded)" */
/* What tells this source's weight files from others, and from themselves before they were changed:
 * a hash of their names, sizes, places on the disk and times of change. 0: they are in memory. */
uint64_t source_identity(const struct source *s);
size_t source_count(const struct source *s);
const struct source_file *source_at(const struct source *s, size_t i);
const struct source_file *source_find(const struct source *s, const char *name); /* or NULL */
/* The .gguf file, of a split one the first part, or NULL. */
const struct source_file *source_gguf(const struct source *s);
/* Part 1..n of the .gguf file; n is 1 when it is not split, 0 when there is none. */
int source_n_parts(const struct source *s);
const struct source_file *source_part(const struct source *s, int no);
/* K and N of "m-0000K-of-0000N.gguf"; false: another name. */
bool source_split(const char *name, int *no, int *n_parts);
/* The bytes will not be read again soon: what of them a mapping keeps resident may be dropped. They
 * stay readable. */
void source_release(const struct source *s, const void *data, size_t n);
/* Mistral's own layout: params.json, and either no config.json or consolidated weights alone. */
bool source_is_mistral(const struct source *s);

#endif
