/* Matrix products shared among the threads by row blocks. Called by attention, feed-forward, experts and output
   head. */
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

/* The most products with one input, and the most bytes a thread prefetches before it reads them. */
enum { MOST_PRODUCTS = 5, MAX_PREFETCHED = 1 << 17 };

/* Set the worker's cursor behind the part of `next` that products have already prefetched. */
static void prefetch_next_weights(Worker *w, const char *next) {
    w->cursor = (PrefetchCursor){0};
    if (next && is_single_token(w->context)) w->cursor = (PrefetchCursor){next + DISTANCE, next + MAX_PREFETCHED};
}

/* Each worker computes its share of the row blocks of all products together. `next`: the weights that are read
   afterwards. */
static void multiply_products(Worker *w, const Product *products, int count, const char *next) {
    int64_t first, last = share_of_rows(w, products, count, &first), at = 0;
    for (int i = 0; i < count; i++) {
        const Product *p = products + i;
        int64_t blocks = row_blocks(p->matrix), from = first - at, to = last - at;
        if (from < 0) from = 0;
        if (to > blocks) to = blocks;
        at += blocks;
        const char *then = i + 1 < count && last > at ? block_at(products[i + 1].matrix, 0, 0) : next;
        if (from < to) multiply(p->matrix, 0, p->in, p->out, p->ld, (int)from, (int)to, then);
    }
    prefetch_next_weights(w, next);
}

/* The address of the first weights a worker reads for some products. */
static const char *first_address(const Worker *w, const Product *products, int count) {
    int64_t first;
    share_of_rows(w, products, count, &first);
    for (int i = 0; i < count; i++) {
        int64_t blocks = row_blocks(products[i].matrix);
        if (first < blocks) return block_at(products[i].matrix, 0, first);
        first -= blocks;
    }
    return NULL;
}

#endif
