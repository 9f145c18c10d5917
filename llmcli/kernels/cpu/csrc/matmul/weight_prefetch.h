/* How far ahead of the multiplication weights are prefetched, and from which addresses. */
#ifndef LLM_CPU_MATMUL_WEIGHT_PREFETCH_H
#define LLM_CPU_MATMUL_WEIGHT_PREFETCH_H

#include "layout.h"
#include "../runtime/prefetch.h"

/* How far ahead weights are asked for, in bytes; of two places that are read side by side half as far each. On Intel's
   processors into the first cache (measured on Cascade Lake: a twentieth faster), elsewhere into the second: the first can
   wait for too few lines at a time (measured on Zen 4: a tenth slower). */
enum { AHEAD = 7168, HALF_AHEAD = AHEAD / 2 };
#ifdef LLM_INTEL
enum { ASKED_INTO = 3 };
#else
enum { ASKED_INTO = 2 };
#endif

/* Where row blocks lie from one on, and their rest, which is NULL where it is not read. */
typedef struct {
    const char *near, *rest;
} Place;

static const Place NOWHERE = {0};

/* How a matrix and its rest are read, and how far ahead it is asked for. */
typedef struct {
    Outlook near, rest;
    int64_t ahead;
} Course;

/* What is read of a matrix from a row block on; of 4 bits hardly any rest is. */
static inline Place place_at(const Matrix *m, int index, int64_t block) {
    const char *rest = m->format == PACKED8 ? (const char *)rest_at(m, index, block) : NULL;
    return (Place){block_at(m, index, block), rest};
}

/* Codes lie behind the numbers of their row block: what is asked for has to be further on than these are long. */
static inline Course course_to(const Matrix *m, int index, int64_t last, Place next, int reads_rest) {
    int64_t ahead = reads_rest ? HALF_AHEAD : AHEAD;
    int64_t least = (m->format >= PACKED4 ? number_bytes(m->format, groups_of(m)) : 0) + AHEAD / 4;
    Place end = place_at(m, index, last);
    return (Course){{end.near, next.near}, {end.rest, next.rest}, ahead > least ? ahead : least};
}

INLINE void ask_for_lines(const char *from, Outlook o, const int lines) {
    if (from >= o.end && o.next) from = o.next + (from - o.end);
#pragma GCC unroll 5
    for (int line = 0; line < lines; line++) __builtin_prefetch(from + 64 * line, 0, ASKED_INTO);
}

/* Ask for what lies behind group `g` of the row block that begins at `near`, whose numbers come first: as much further
   on as has been read up to the group. In whole lines: to ask for one twice in a row was a tenth to a third slower. */
INLINE void ask_for_near(const int format, const uint8_t *near, int g, const Course *c) {
    const char *from = (const char *)near + c->ahead;
    if (format == PACKED4) /* 304 bytes of a group */
        ask_for_lines(from + 5 * 64 * g, c->near, 5);
    else if (g % 2 == 0) /* 288 bytes */
        ask_for_lines(from + 9 * 32 * g, c->near, 5);
    else
        ask_for_lines(from + 9 * 32 * g + 32, c->near, 4);
}

#endif
