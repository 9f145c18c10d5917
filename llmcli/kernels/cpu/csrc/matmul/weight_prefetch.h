/* How far ahead of the multiplication weights are prefetched, and from which addresses. Called by int4.h, int8.h and
   matmul.h. */
#ifndef LLM_CPU_MATMUL_WEIGHT_PREFETCH_H
#define LLM_CPU_MATMUL_WEIGHT_PREFETCH_H

#include "layout.h"
#include "../runtime/prefetch.h"

/* How many bytes ahead weights are prefetched; half as far where two streams are read at once. On Intel processors into
   the first-level cache (measured on Cascade Lake: a twentieth faster), elsewhere into the second level: the first
   level has too few pending line fills (measured on Zen 4: a tenth slower). */
enum { DISTANCE = 7168, HALF_DISTANCE = DISTANCE / 2 };
#ifdef LLM_INTEL
enum { PREFETCH_LEVEL = 3 };
#else
enum { PREFETCH_LEVEL = 2 };
#endif

/* The address of a row block, and of its rest, or NULL if the rest is not read. */
typedef struct {
    const char *near, *rest;
} WeightAddress;

static const WeightAddress NO_ADDRESS = {0};

/* The ranges of a matrix and its rest that are read, and the prefetch distance. */
typedef struct {
    ReadRange near, rest;
    int64_t ahead;
} ReadPlan;

/* The address of a row block; the rest of 4-bit blocks is seldom read. */
static inline WeightAddress weight_address(const Matrix *m, int index, int64_t block) {
    const char *rest = m->format == PACKED8 ? (const char *)rest_at(m, index, block) : NULL;
    return (WeightAddress){block_at(m, index, block), rest};
}

/* Codes follow the scales of their row block: the prefetch distance must exceed the length of these. */
static inline ReadPlan plan_reads(const Matrix *m, int index, int64_t last, WeightAddress next, int reads_rest) {
    int64_t ahead = reads_rest ? HALF_DISTANCE : DISTANCE;
    int64_t least = (m->format >= PACKED4 ? scale_bytes(m->format, groups_of(m)) : 0) + DISTANCE / 4;
    WeightAddress end = weight_address(m, index, last);
    return (ReadPlan){{end.near, next.near}, {end.rest, next.rest}, ahead > least ? ahead : least};
}

INLINE void prefetch_lines(const char *from, ReadRange o, const int lines) {
    if (from >= o.end && o.next) from = o.next + (from - o.end);
#pragma GCC unroll 5
    for (int line = 0; line < lines; line++) __builtin_prefetch(from + 64 * line, 0, PREFETCH_LEVEL);
}

/* Prefetch beyond group `g` of the row block at `near`, which begins with its scales: as many bytes as are read for a
   group, in whole lines. Prefetching one line twice in a row was a tenth to a third slower. */
INLINE void prefetch_near(const int format, const uint8_t *near, int g, const ReadPlan *c) {
    const char *from = (const char *)near + c->ahead;
    if (format == PACKED4) /* 304 bytes per group */
        prefetch_lines(from + 5 * 64 * g, c->near, 5);
    else if (g % 2 == 0) /* 288 bytes per group */
        prefetch_lines(from + 9 * 32 * g, c->near, 5);
    else
        prefetch_lines(from + 9 * 32 * g + 32, c->near, 4);
}

#endif
