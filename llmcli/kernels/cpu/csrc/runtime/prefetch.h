/* Software prefetch of what a thread reads next, issued while it computes or waits, so that the memory bus is never idle. */
#ifndef LLM_CPU_RUNTIME_PREFETCH_H
#define LLM_CPU_RUNTIME_PREFETCH_H

#include "../simd/vector.h"

/* Where reading ends, and where it goes on, if that is known. */
typedef struct {
    const char *end, *next;
} Outlook;

/* What a thread will read next, asked for while it does something else: then memory is never idle. `rest` is what it reads
   at the same time in another place, or NULL. */
typedef struct {
    const char *at, *end, *rest;
} Onward;

/* Ask for a few lines, and only into the second cache. More at a time would make others wait. */
INLINE void ask_onward(Onward *o) {
    for (int line = 0; line < 8 && o->at < o->end; line++, o->at += 64) {
        __builtin_prefetch(o->at, 0, 2);
        if (!o->rest) continue;
        __builtin_prefetch(o->rest, 0, 2);
        o->rest += 64, line++;
    }
}

/* What will be needed soon, a part at a time: a core can wait for two dozen lines at once, and computes meanwhile. */
INLINE void ask_for(const char *from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

#endif
