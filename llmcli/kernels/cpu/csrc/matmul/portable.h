/* Row blocks of 4-bit and 8-bit weights times a tile of tokens in plain C, for processors without AVX2 and NEON. Called by
   int4.h and int8.h. */
#ifndef LLM_CPU_MATMUL_PORTABLE_H
#define LLM_CPU_MATMUL_PORTABLE_H

#include "weight_prefetch.h"
#include "../simd/half.h"

#if !defined(USE_AVX512) && !defined(USE_AVX2) && !defined(USE_NEON)

/* `total` is only used with 4 bits, `shift` only with 8. */
INLINE void any_tile(Weights w, int groups, const Code *codes, const float *scale, const float *total,
                     const int32_t *shift, const int n, float *sums, const ReadPlan *plan, const int bits) {
    (void)plan;
    memset(sums, 0, (size_t)n * BLOCK_ROWS * sizeof *sums);
    for (int g = 0; g < groups; g++) {
        const uint8_t *scales = w.scales + (bits == 8 ? INT8_SCALE_BYTES : INT4_SCALE_BYTES) * g;
        uint8_t q[8][64];
        float d[BLOCK_ROWS], m[BLOCK_ROWS];
        if (bits == 8) memcpy(q, w.codes + INT8_CODE_BYTES * g, sizeof q);
        for (int j = 0; j < 8 && bits == 4; j++)
            for (int i = 0; i < 64; i++) q[j][i] = w.codes[INT4_CODE_BYTES * g + 64 * (j / 2) + i] >> 4 * (j % 2) & 15;
        for (int r = 0; r < BLOCK_ROWS; r++) {
            uint16_t half;
            memcpy(&half, scales + 2 * r, 2);
            d[r] = from_half(half);
            if (bits == 8) continue;
            memcpy(&half, scales + 32 + 2 * r, 2);
            m[r] = from_half(half);
        }
        for (int t = 0; t < n; t++) {
            int32_t dot[BLOCK_ROWS];
            for (int r = 0; r < BLOCK_ROWS; r++) dot[r] = bits == 8 ? shift[g * n + t] : 0;
            for (int j = 0; j < 8; j++) {
                const Code *a = codes + (int64_t)g * INPUT_CODES * n + 4 * (j * n + t);
                for (int r = 0; r < BLOCK_ROWS; r++)
                    dot[r] +=
                        q[j][4 * r] * a[0] + q[j][4 * r + 1] * a[2] + q[j][4 * r + 2] * a[1] + q[j][4 * r + 3] * a[3];
            }
            for (int r = 0; r < BLOCK_ROWS; r++) {
                float add = (float)dot[r] * (d[r] * scale[g * n + t]);
                sums[t * BLOCK_ROWS + r] += bits == 8 ? add : add + m[r] * total[g * n + t];
            }
        }
    }
}

#endif

#endif
