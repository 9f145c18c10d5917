/* Row blocks of 4-bit and 8-bit weights times a tile of tokens in plain C, for processors without AVX2. Called by
   int4.h and int8.h. */
#ifndef LLM_CPU_MATMUL_PORTABLE_H
#define LLM_CPU_MATMUL_PORTABLE_H

#include "layout.h"
#include "../simd/half.h"

/* 8-bit weights can be multiplied with a single token without most of their lower nibbles: given `error_weights`, these
   are read in groups whose weight is 0, and replaced by their mean in the others. The sums are then followed by their
   error bounds: the root of the sum, over the other groups, of the squared scale times the weight
   (logits/head_screening.h). */
#define MEAN_NIBBLE 7.5f

INLINE int is_read_whole(const float *error_weights, int g) { return !error_weights || error_weights[g] == 0; }

#if !defined(USE_AVX512) && !defined(USE_AVX2)

/* Add codes of 4 bits times `worth`; the lower nibbles are the even vectors. */
INLINE void add_nibbles(const uint8_t *from, int worth, uint8_t q[8][64]) {
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 64; i++)
            q[j][i] = (uint8_t)(q[j][i] + (from[64 * (j / 2) + i] >> 4 * (j % 2) & 15) * worth);
}

INLINE void portable_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total,
                          const int32_t *shift, const int n, float *sums, const int bits, const float *error_weights) {
    float error[BLOCK_ROWS] = {0};
    memset(sums, 0, (size_t)n * BLOCK_ROWS * sizeof *sums);
    for (int g = 0; g < groups; g++) {
        const uint8_t *scales = w.scales + (bits == 8 ? INT8_SCALE_BYTES : INT4_SCALE_BYTES) * g;
        const int is_whole = is_read_whole(error_weights, g);
        uint8_t q[8][64] = {{0}};
        float d[BLOCK_ROWS], m[BLOCK_ROWS] = {0};
        add_nibbles(w.codes + NIBBLE_BYTES * g, bits == 8 ? 16 : 1, q);
        if (bits == 8 && is_whole) add_nibbles(w.rest + NIBBLE_BYTES * g, 1, q);
        for (int r = 0; r < BLOCK_ROWS; r++) {
            uint16_t scale_bits, minimum;
            if (bits == 8) {
                memcpy(&scale_bits, scales + 2 * r, 2);
                d[r] = from_half(scale_bits);
                m[r] = is_whole ? 0 : MEAN_NIBBLE * d[r];
                if (!is_whole) error[r] += d[r] * d[r] * error_weights[g];
                continue;
            }
            join_scale(scales, w.rest + REST_BYTES * g, r, &scale_bits, &minimum);
            d[r] = from_half(scale_bits);
            m[r] = from_half(minimum);
        }
        for (int t = 0; t < n; t++) {
            int32_t dot[BLOCK_ROWS];
            for (int r = 0; r < BLOCK_ROWS; r++) dot[r] = bits == 8 ? shift[g * n + t] : 0;
            for (int j = 0; j < 8; j++) {
                const int8_t *upper = codes + (int64_t)g * INPUT_CODES * n + 4 * (j * n + t), *lower = upper + 32 * n;
                int32_t a[4];
                for (int i = 0; i < 4; i++) a[i] = upper[i] * 256 + lower[i];
                for (int r = 0; r < BLOCK_ROWS; r++)
                    dot[r] +=
                        q[j][4 * r] * a[0] + q[j][4 * r + 1] * a[1] + q[j][4 * r + 2] * a[2] + q[j][4 * r + 3] * a[3];
            }
            for (int r = 0; r < BLOCK_ROWS; r++) {
                float add = (float)dot[r] * (d[r] * scale[g * n + t]);
                sums[t * BLOCK_ROWS + r] += bits == 8 && is_whole ? add : add + m[r] * total[g * n + t];
            }
        }
    }
    for (int r = 0; r < BLOCK_ROWS && error_weights; r++) sums[BLOCK_ROWS + r] = sqrtf(error[r]);
}

#endif

#endif
