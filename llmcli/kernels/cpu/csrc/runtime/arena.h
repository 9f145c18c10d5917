/* Zeroed memory for the decoder's buffers, freed together. It comes from mmap, so that pages that are never used take
   no memory; calloc may reuse memory, which it then has to fill with zeros. Called by buffers.h and decoder.c. */
#ifndef LLM_CPU_RUNTIME_ARENA_H
#define LLM_CPU_RUNTIME_ARENA_H

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { LINE = 64, CHUNK = 1 << 16 };

typedef struct {
    void *start;
    size_t size;
} Mapping;

/* All allocations of a decoder. */
typedef struct {
    Mapping *mappings;
    int count, failed;
    char *free; /* the free part of the last chunk, for small allocations */
    size_t left;
} Arena;

/* Builds with AddressSanitizer allocate each buffer separately, which guards its ends. */
#if defined(MAP_ANONYMOUS) && !defined(__SANITIZE_ADDRESS__)
#define FROM_SYSTEM
#endif

/* NULL without memory. */
static char *new_mapping(Arena *m, size_t size) {
    Mapping *mappings = realloc(m->mappings, sizeof *mappings * (size_t)(m->count + 1));
    if (!mappings) return NULL;
    m->mappings = mappings;
#ifdef FROM_SYSTEM
    void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return NULL;
#else
    void *start = calloc(1, size);
    if (!start) return NULL;
#endif
    mappings[m->count++] = (Mapping){start, size};
    return (char *)start + (LINE - (uintptr_t)start % LINE) % LINE;
}

/* Zeroed memory in cache lines of no other allocation. NULL, and `failed` from then on, without memory. */
static void *arena_zeros(Arena *m, int64_t bytes) {
    size_t size = ((size_t)(bytes > 0 ? bytes : 1) + LINE - 1) / LINE * LINE;
    char *data = NULL;
    if (m->failed) return NULL;
#ifdef FROM_SYSTEM
    if (size < CHUNK && m->left < size) {
        m->free = new_mapping(m, CHUNK);
        m->left = m->free ? CHUNK : 0;
    }
    if (size < CHUNK && m->left >= size) {
        data = m->free;
        m->free += size, m->left -= size;
    } else if (size >= CHUNK) {
        data = new_mapping(m, size);
    }
#else
    data = new_mapping(m, size + LINE);
#endif
    m->failed = !data;
    return data;
}

static void arena_free(Arena *m) {
    for (int i = 0; i < m->count; i++) {
#ifdef FROM_SYSTEM
        munmap(m->mappings[i].start, m->mappings[i].size);
#else
        free(m->mappings[i].start);
#endif
    }
    free(m->mappings);
}

#endif
