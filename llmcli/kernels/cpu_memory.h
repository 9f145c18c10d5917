/* Memory from the system's hands: what is never used of it takes none. The C library may hand out what it has already,
   and must then fill it with zeros. */
#ifndef LLM_CPU_MEMORY_H
#define LLM_CPU_MEMORY_H

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

typedef struct {
    void *data; /* on a line of the processor's cache */
    void *start;
    size_t size;
} Memory;

/* Checked builds ask the library, which guards what lies beside. */
#if defined(MAP_ANONYMOUS) && !defined(__SANITIZE_ADDRESS__)
#define FROM_SYSTEM
#endif

/* 0, or 1 where there is none. */
static int get_zeros(Memory *m, int64_t bytes) {
    m->size = (size_t)(bytes > 0 ? bytes : 1) + 64;
#ifdef FROM_SYSTEM
    m->start = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->start == MAP_FAILED) return 1;
#else
    m->start = calloc(1, m->size);
    if (!m->start) return 1;
#endif
    m->data = (char *)m->start + (64 - (uintptr_t)m->start % 64);
    return 0;
}

static void give_back(Memory *m) {
#ifdef FROM_SYSTEM
    munmap(m->start, m->size);
#else
    free(m->start);
#endif
}

#endif
