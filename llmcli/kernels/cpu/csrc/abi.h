/* The structures that Python passes to the kernel, in the order of `c_structs.py`; tests/kernels/cpu/test_abi.py
   compares both. Sizes are in values unless said otherwise. */
#ifndef LLM_CPU_ABI_H
#define LLM_CPU_ABI_H

#include <stdint.h>

#define LLM_ABI 21

enum { FLOAT32, BFLOAT16, PACKED4, PACKED8, INT8_ROWS }; /* INT8_ROWS: of the cache */
enum { NO_NORM, RMS_NORM, LAYER_NORM, SCALED };
enum { SILU, GELU, GELU_TANH, RELU, RELU2, QUICK_GELU, XIELU };
enum { QK_PLAIN, QK_HEAD, QK_WHOLE, QK_EACH_HEAD, QK_ROTATED, QK_ROTATED_HEAD, QK_WEIGHTLESS };
enum {
    BY_SOFTMAX,
    BY_SIGMOID,
    BY_SOFTMAX_OF_CHOSEN,
    BY_SIGMOID_OF_CHOSEN,
    BY_SIGMOID_OF_BIASED,
    BY_SPARSE_MIXING
};

/* Of a table of embeddings in the blocks of its file. */
enum {
    STORED_F32,
    STORED_F16,
    STORED_BF16,
    STORED_Q4_0,
    STORED_Q4_1,
    STORED_Q5_0,
    STORED_Q5_1,
    STORED_Q8_0,
    STORED_Q2_K,
    STORED_Q3_K,
    STORED_Q4_K,
    STORED_Q5_K,
    STORED_Q6_K,
    STORED_IQ4_NL,
    STORED_IQ4_XS
};

/* Dense rows, or the packed blocks of model/quantized/matrix.py; one matrix or a stack of them. */
typedef struct {
    const void *data;
    const float *bias; /* (count, rows) or NULL */
    int64_t stride;    /* bytes from one matrix of a stack to the next */
    int32_t format, rows, columns, count;
} Matrix;

/* A matrix of embeddings that are looked up, or, if `blocks` is not NULL, blocks in one of the encodings above. */
typedef struct {
    Matrix matrix;
    const void *blocks;
    int64_t row_bytes;
    int32_t encoding;
} Table;

typedef struct {
    const float *weight, *bias; /* either may be NULL */
    float eps, factor;          /* SCALED multiplies by the factor */
    int32_t kind, each_head;    /* each_head: weight and bias have a row for every head */
} Norm;

typedef struct {
    Matrix router, gate_up, down; /* gate_up: only the up projections of experts without gates */
    const float *selection_bias, *expert_scale; /* (count) or NULL; expert_scale: factors on their weights */
    int32_t count, chosen, size, score, normalized, scales_input, groups, groups_chosen, best_two, clamped;
    float scale, alpha, limit, softcap, mixing_range, shared_scale; /* softcap: 0 is none */
    int32_t shared; /* size of the shared expert, or 0; its matrices are the layer's */
    Matrix shared_gate;
    Matrix latent_in, latent_out; /* to what the experts read, and from the sum of what they compute; data may be NULL */
    /* Each kind has separate norms: the layer's second norm is then that of the router's input. */
    int32_t own_norms;
    Norm input_norm, output_norm, shared_norm, shared_output_norm;
} Experts;

/* Latent attention: a row of rank + rope values for each position, whose first part all heads' values are made of. */
typedef struct {
    Matrix query; /* from a compressed query, which the layer's `q` makes, to all heads; data NULL: `q` makes these */
    Matrix to_keys, to_values; /* (heads, rank, nope) and (heads, value_dim, rank): to latents and from them */
    Norm query_norm, norm;     /* of the compressed query and of the latent */
    int32_t rank, nope, rope, value_dim; /* rank is 0 in other layers */
} Latent;

/* How a layer predicts and corrects several residual streams. */
typedef struct {
    const float *router;                  /* (streams, hidden), or NULL in a model with one stream */
    const float *prediction, *correction; /* (streams * streams, streams) and (streams, streams) */
    const float *scale; /* (hidden) or NULL: of the first stream, where the gate of the layer's vector reads it */
    Norm router_norm;
} Streams;

/* STATE_SPACE: Mamba-2, SELECTIVE_SCAN: Mamba, GATED_UNIT: RG-LRU */
enum { NO_RECURRENCE, DELTA, STATE_SPACE, SHORT_CONVOLUTION, SELECTIVE_SCAN, GATED_UNIT };

/* What a layer has in place of attention, or beside it. `in_proj` makes the inputs of the convolution, of a state space
   also its gates (before them) and step sizes (after them), of a selective scan its gates (after them), of a short
   convolution gates of inputs and of outputs (before them). */
typedef struct {
    Matrix in_proj, out_proj;
    int32_t kind, heads, groups; /* heads: of a gated unit blocks of channels; groups: key heads, or groups of heads that
                                    share B and C */
    int32_t key_dim, value_dim;  /* of a head's memory; of a state space the size of B and the values of a head, of a
                                    selective scan and a gated unit the size of a channel's memory and the channels */
    int32_t width, channels;     /* of the convolution */
    int32_t tiled;               /* head h belongs to group h modulo `groups`; otherwise neighbors share a group */
    int32_t sigmoid_gate;        /* otherwise the gate is SiLU */
    int32_t norm_first;          /* of a state space: the output is normalized before it is gated */
    int32_t channel_decay;       /* of the delta rule: each channel of a key fades by its own factor */
    float safe_decay;            /* not 0: logarithms of decays are this number times a sigmoid */
    float strength_scale, min_step, max_step;
    /* Of the delta rule (values), (heads or all keys) and (heads) rows. Of a selective scan `decay` makes step sizes from
       the first values of `decay_left`, behind which are B and C. Of a gated unit `gate` multiplies the output, `decay`
       and `strength` are the blocks (heads) of the gates of recurrence and input. */
    Matrix gate, decay, strength;
    Matrix gate_left, decay_left; /* to the few values that `gate` and `decay` read; data may be NULL */
    const float *conv, *conv_bias; /* (width, channels), and (channels) or NULL */
    const float *rate, *step_bias, *skip; /* rate: (heads), (channels, key_dim) or (channels), negative; step_bias: one for
                                             each decay; skip: (heads) or (channels), of Mamba */
    Norm norm;
    Norm step_norm, write_norm, read_norm; /* of a selective scan: of what step sizes are made from, of B and of C */
} RecurrentMixer;

typedef struct {
    Norm input_norm, second_norm, attention_output, feed_forward_output, q_norm, k_norm, v_norm;
    Norm attention_inner, feed_forward_inner; /* of the inputs of `o` and `down` */
    Matrix q, k, v, o, gate, up, down; /* k.data is NULL: keys and values are those of an earlier layer;
                                          v.data is NULL: values are the projected keys */
    Matrix attention_gate; /* to a factor on each value of the heads, or on each head; data may be NULL */
    float xielu_above, xielu_below; /* factors of the activation XIELU */
    const float *sinks, *slopes; /* (heads) or NULL; slopes of biases by distance */
    Experts experts;    /* experts.count is 0 in a dense layer */
    Matrix per_layer_gate, per_layer_down; /* data may be NULL */
    Norm per_layer_norm;
    Streams altup;
    Matrix laurel_left, laurel_right; /* a path of low rank beside attention; data may be NULL */
    Norm laurel_norm;
    const float *edit_reads, *edit_writes; /* (edits, inner) and (edits, hidden): rank-one updates of `down` */
    int32_t edits;                         /* 0 in a layer with experts */
    int32_t heads, kv_heads, key_dim, value_dim; /* latent attention: kv_heads are groups that are computed together,
                                                    key_dim and value_dim the sizes of a row and of a latent */
    Latent latent;
    RecurrentMixer recurrence;
    int32_t inner;  /* neurons of the dense feed-forward network */
    int32_t normed_sums; /* the output norms are of the residual stream after each addition */
    int32_t sparse; /* gates are cut off below a number of standard deviations above their mean: */
    float sparsity;
    int32_t rope;  /* which of the step's rotations, or -1 */
    int32_t window, chunk, scaling_interval, scaling_offset; /* 0: none */
    float scaling_beta;
    float scale, output_scale; /* of the scores, and of the residual stream after the layer */
} Layer;

/* A layer has attention, a recurrence, or both; or only a feed-forward network. */
static inline int has_attention(const Layer *layer) { return layer->q.data != 0; }
static inline int has_mixer(const Layer *layer) { return has_attention(layer) || layer->recurrence.kind; }
static inline int has_feed_forward(const Layer *layer) { return layer->up.data != 0 || layer->experts.count > 0; }

/* Per-layer embeddings: the table has a row of (layers, size) values for each token. */
typedef struct {
    Table table;
    Matrix projection; /* of the embedding, to as many values */
    Norm norm;
    int32_t size, tokens; /* size: 0 in a model without them; later tokens have the row of token 0 */
    float table_scale, projection_scale;
} PerLayer;

typedef struct {
    int32_t layers, hidden, vocabulary;
    int32_t streams;       /* residual streams, 1 in most models */
    int32_t first_sharing; /* from this layer on, all read the keys and values of earlier ones */
    int32_t capacity; /* tokens of a call */
    int32_t activation, gated, parallel, shared_norm, qk_norm, cache_format;
    int32_t input_format; /* of the inputs that short convolutions cache */
    int32_t gate_per_head, gate_softplus, rounded_biases;
    float clip, softcap, embed_scale, logit_scale, logit_softcap; /* clip, softcaps: 0 is none */
    Matrix embedding, positions, head;                                          /* positions.data may be NULL */
    Norm embed_norm;
    Norm norm;
    Matrix head_dense; /* a layer in front of the head: norm(activation(product)); data may be NULL */
    Norm head_norm;
    int32_t head_activation;
    PerLayer per_layer;
    const Matrix *spread, *merge; /* (streams - 1): from the embedding to other streams, and from these to the head */
    const Layer *layer;
} Model;

typedef struct {
    void *keys, *values;      /* (kv_heads, size, key_dim or value_dim) in the cache's format */
    int64_t first, size;      /* position of the first row, and rows of each head */
    /* Of a recurrent layer, in float32: the last inputs of its convolution (width - 1, channels), and the memories of its
       heads; a pass changes both. Of a short convolution `keys` are its inputs, as if they were the keys of one head. */
    void *tail, *memory;
    const void *before; /* the memories before the step, or NULL: those in `memory` */
} Segment;

typedef struct {
    const float *cos, *sin; /* (tokens, half) */
    int64_t half;
} Rotation;

typedef struct {
    const int32_t *ids;
    const Segment *segments;    /* of every layer, sequence by sequence */
    const Rotation *rotations;
    float *logits;              /* (tokens or 1, vocabulary) */
    int64_t start;              /* position of the first token */
    const int64_t *positions;   /* of each token, if every token belongs to a different sequence; otherwise NULL */
    const int32_t *rotated;     /* which row of the rotations each token has, or NULL: see `skipped` */
    int32_t tokens, only_last;
    int32_t greatest; /* output, for one row of logits: the first position of the maximum */
    int32_t skipped;  /* tokens whose rotations come before those of the step */
    int32_t continued; /* not the first pass of a call: memories are those in `memory` */
} Pass;

/* Sampling parameters; `SamplingParams` of engine/sampling/params.py explains them. */
typedef struct {
    double temperature, top_p, min_p;
    const double *uniforms; /* from 0 to 1, one for each token; unused at temperature 0 */
    const int32_t *ends;    /* end-of-sequence tokens */
    int32_t top_k;          /* not 0, unless the temperature is */
    int32_t vocabulary;     /* only the first `vocabulary` tokens may be sampled; of a text in a batch, 0: none is */
    int32_t end_count;
    int32_t alarm;          /* a file descriptor, or -1: generation stops once it is readable */
} Choice;

/* How rows of a matrix are packed: from which stored format of repack/pack.h into which packed one. */
typedef struct {
    const void *grid; /* the vectors of the formats IQ1 to IQ3 */
    int32_t format, kept, columns;
} Packing;

static inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

#endif
