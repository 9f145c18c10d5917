/* How far ahead of the multiplication weights are prefetched, and from which addresses. Called by int4.h, int8.h and
   matmul.h. */
#ifndef LLM_CPU_MATMUL_WEIGHT_PREFETCH_H
#define LLM_CPU_MATMUL_WEIGHT_PREFETCH_H

#include "layout.h"
#include "../runtime/prefetch.h"

/* How many bytes ahead weights are prefetched. On Intel processors into the first-level cache (measured on Cascade
   Lake: a twentieth faster), elsewhere into the second level: the first level has too few pending line fills (measured
   on Zen 4: a tenth slower). */
enum { DISTANCE = 7168 };
#ifdef LLM_INTEL
enum { PREFETCH_LEVEL = 3 };
#else
enum { PREFETCH_LEVEL = 2 };
#endif

/* The range of a matrix that is read, and the prefetch distance. */
typedef struct {
    ReadRange range;
    int64_t ahead;
} ReadPlan;

/* Codes follow the scales of their row block: the prefetch distance must exceed the length of these. `next`: the
   weights that are read after row block `last`, or NULL. */
static inline ReadPlan plan_reads(const Matrix *m, int index, int64_t last, const char *next) {
    int64_t least = (m->format >= PACKED4 ? scale_bytes(m->format, groups_of(m)) : 0) + DISTANCE / 4;
    return (ReadPlan){{block_at(m, index, last), next}, DISTANCE > least ? DISTANCE : least};
}

INLINE void prefetch_lines(const char *from, ReadRange o, const int lines) {
    if (from >= o.end && o.next) from = o.next + (from - o.end);
#pragma GCC unroll 9
    for (int line = 0; line < lines; line++) __builtin_prefetch(from + 64 * line, 0, PREFETCH_LEVEL);
}

/* Prefetch beyond group `g` of the row block at `block`, which begins with its scales: as many bytes as are read for a
   group, in whole lines. Prefetching one line twice in a row was a tenth to a third slower. */
INLINE void prefetch_group(const int format, const uint8_t *block, int g, const ReadPlan *c) {
    const char *from = (const char *)block + c->ahead;
    if (format == PACKED4) /* 320 bytes per group */
        prefetch_lines(from + 5 * 64 * g, c->range, 5);
    else if (g % 2 == 0) /* 544 bytes per group */
        prefetch_lines(from + 17 * 32 * g, c->range, 9);
    else
        prefetch_lines(from + 17 * 32 * g + 32, c->range, 8);
}

#endif
