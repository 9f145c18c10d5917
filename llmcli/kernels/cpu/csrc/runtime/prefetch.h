/* Software prefetch of what a thread reads next, while it computes or waits: the memory bus is never idle. Called by
   everything that reads weights or the KV cache. */
#ifndef LLM_CPU_RUNTIME_PREFETCH_H
#define LLM_CPU_RUNTIME_PREFETCH_H

#include "../simd/vector.h"

/* The end of a memory range that is being read, and the address of the next range, if known. */
typedef struct {
    const char *end, *next;
} ReadRange;

/* What a thread reads next, prefetched while it does other work. */
typedef struct {
    const char *at, *end;
} PrefetchCursor;

/* Prefetch a few lines into the second-level cache. More at a time would delay other loads. */
INLINE void prefetch_some(PrefetchCursor *o) {
    for (int line = 0; line < 8 && o->at < o->end; line++, o->at += 64) __builtin_prefetch(o->at, 0, 2);
}

/* Prefetch `bytes` bytes: a core has about two dozen pending line fills, and computes meanwhile. */
INLINE void prefetch_bytes(const char *from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

#endif
