/* spm: the one file that includes the sentencepiece library. Its proto comes validated from
 * spm_model.c; any thread may encode, for the processor is only read after it is loaded. */
#include "engine/tokenizer/spm.h"

#ifdef WITHOUT_SENTENCEPIECE

#include <stdio.h>

struct spm *spm_open(const void *, size_t, char *reason, size_t reason_size)
{
    snprintf(reason, reason_size, "this tokenizer needs a build with sentencepiece");
    return nullptr;
}

void spm_close(struct spm *) {}

int spm_encode(const struct spm *, const char *, size_t, int (*)(void *, int32_t), void *)
{
    return -1;
}

#else

#include <sentencepiece_processor.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

struct spm {
    sentencepiece::SentencePieceProcessor processor;
};

static void explain(char *reason, size_t size, const char *text)
{
    if (size > 0)
        snprintf(reason, size, "%s", text);
}

struct spm *spm_open(const void *proto, size_t size, char *reason, size_t reason_size)
{
    struct spm *s = nullptr;
    explain(reason, reason_size, "out of memory");
    try {
        s = new (std::nothrow) spm;
        if (!s)
            return nullptr;
        auto status = s->processor.LoadFromSerializedProto(
            absl::string_view(static_cast<const char *>(proto), size));
        if (status.ok())
            return s;
        explain(reason, reason_size, status.ToString().c_str());
    } catch (const std::exception &thrown) {
        explain(reason, reason_size, thrown.what());
    } catch (...) {
        explain(reason, reason_size, "the sentencepiece library failed");
    }
    delete s;
    return nullptr;
}

void spm_close(struct spm *s)
{
    delete s;
}

int spm_encode(const struct spm *s, const char *text, size_t n, int (*take)(void *, int32_t),
               void *context)
{
    try {
        std::vector<int> ids;
        if (!s->processor.Encode(absl::string_view(text, n), &ids).ok())
            return -1;
        for (int id : ids) {
            int result = take(context, id);
            if (result)
                return result;
        }
        return 0;
    } catch (...) {
        return -1;
    }
}

#endif
