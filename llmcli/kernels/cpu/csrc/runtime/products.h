/* Matrix products shared among the threads by row blocks, and where each thread reads first. */
#ifndef LLM_CPU_RUNTIME_PRODUCTS_H
#define LLM_CPU_RUNTIME_PRODUCTS_H

#include "../matmul/matmul.h"
#include "context.h"

typedef struct {
    const Matrix *matrix;
    const Input *in;
    float *out;
    int64_t ld;
} Product;

static int64_t share_of_rows(const Worker *w, const Product *products, int count, int64_t *first) {
    int64_t total = 0;
    for (int i = 0; i < count; i++) total += row_blocks(products[i].matrix);
    return share(w, total, first);
}

typedef struct {
    Product products[3];
    int count;
} Products;

/* As much as a thread may ask for before it reads, in bytes. */
enum { ONWARD = 1 << 17 };

/* A worker will read on at `next`, if that is known, of which products have asked for the beginning. */
static void go_on_at(Worker *w, Place next) {
    w->onward = (Onward){0};
    if (!next.near || !is_single(w->context)) return;
    int64_t asked = next.rest ? HALF_AHEAD : AHEAD;
    w->onward = (Onward){next.near + asked, next.near + ONWARD, next.rest ? next.rest + asked : NULL};
}

/* Each worker computes its share of the rows of all products taken together, and then reads on at `next`. */
static void compute(Worker *w, const Product *products, int count, Place next) {
    int64_t first, last = share_of_rows(w, products, count, &first), at = 0;
    for (int i = 0; i < count; i++) {
        const Product *p = products + i;
        int64_t blocks = row_blocks(p->matrix), from = first - at, to = last - at;
        if (from < 0) from = 0;
        if (to > blocks) to = blocks;
        at += blocks;
        Place then = i + 1 < count && last > at ? place_at(products[i + 1].matrix, 0, 0) : next;
        if (from < to) multiply(p->matrix, 0, p->in, p->out, p->ld, (int)from, (int)to, then);
    }
    go_on_at(w, next);
}

/* Where a worker will begin to read. */
static Place beginning(const Worker *w, const Product *products, int count) {
    int64_t first;
    share_of_rows(w, products, count, &first);
    for (int i = 0; i < count; i++) {
        int64_t blocks = row_blocks(products[i].matrix);
        if (first < blocks) return place_at(products[i].matrix, 0, first);
        first -= blocks;
    }
    return NOWHERE;
}

#endif
