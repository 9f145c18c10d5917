/* Memory from the system's hands: what is never used of it takes none. The C library may hand out what it has already,
   and must then fill it with zeros. */
#ifndef LLM_CPU_RUNTIME_ARENA_H
#define LLM_CPU_RUNTIME_ARENA_H

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { LINE = 64, CHUNK = 1 << 16 };

typedef struct {
    void *start;
    size_t size;
} Piece;

/* All that has been handed out, to be given back together. */
typedef struct {
    Piece *pieces;
    int count, failed;
    char *free; /* of the last chunk, from which small things are cut */
    size_t left;
} Memory;

/* Checked builds ask the library for each thing by itself, which guards what lies beside. */
#if defined(MAP_ANONYMOUS) && !defined(__SANITIZE_ADDRESS__)
#define FROM_SYSTEM
#endif

/* NULL where there is none. */
static char *new_piece(Memory *m, size_t size) {
    Piece *pieces = realloc(m->pieces, sizeof *pieces * (size_t)(m->count + 1));
    if (!pieces) return NULL;
    m->pieces = pieces;
#ifdef FROM_SYSTEM
    void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return NULL;
#else
    void *start = calloc(1, size);
    if (!start) return NULL;
#endif
    pieces[m->count++] = (Piece){start, size};
    return (char *)start + (LINE - (uintptr_t)start % LINE) % LINE;
}

/* Zeros on lines of the processor's cache that nothing else lies on. NULL, and `failed` from then on, where there are
   none. */
static void *get_zeros(Memory *m, int64_t bytes) {
    size_t size = ((size_t)(bytes > 0 ? bytes : 1) + LINE - 1) / LINE * LINE;
    char *data = NULL;
    if (m->failed) return NULL;
#ifdef FROM_SYSTEM
    if (size < CHUNK && m->left < size) {
        m->free = new_piece(m, CHUNK);
        m->left = m->free ? CHUNK : 0;
    }
    if (size < CHUNK && m->left >= size) {
        data = m->free;
        m->free += size, m->left -= size;
    } else if (size >= CHUNK) {
        data = new_piece(m, size);
    }
#else
    data = new_piece(m, size + LINE);
#endif
    m->failed = !data;
    return data;
}

static void give_back(Memory *m) {
    for (int i = 0; i < m->count; i++) {
#ifdef FROM_SYSTEM
        munmap(m->pieces[i].start, m->pieces[i].size);
#else
        free(m->pieces[i].start);
#endif
    }
    free(m->pieces);
}

#endif
