/* Row blocks of 4-bit and 8-bit weights times a tile of tokens, for Arm processors of 64 bits. Called by int4.h and
   int8.h. */
#ifndef LLM_CPU_MATMUL_NEON_H
#define LLM_CPU_MATMUL_NEON_H

#include "weight_prefetch.h"

#ifdef USE_NEON

/* Add to each of four rows the products of its four bytes in `q` with the four bytes in one lane of `a`. */
#ifdef __ARM_FEATURE_DOTPROD
#define DOT_LANE(sum, q, a, lane) vdotq_laneq_s32(sum, q, a, lane)
#else
INLINE int32x4_t dot_four(int32x4_t sum, int8x16_t q, int8x16_t a) {
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(q), vget_low_s8(a)));
    return vaddq_s32(sum, vpaddq_s32(low, vpaddlq_s16(vmull_high_s8(q, a))));
}

#define DOT_LANE(sum, q, a, lane)                                                                        \
    dot_four(sum, q, vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(a), lane)))
#endif

/* Add the products of 32 columns of four rows with the bytes of `step` tokens of a tile of n. 16 bytes of codes are the
   fours of 4 tokens, or two fours of 2 tokens, or four fours of one token. */
INLINE void add_columns(int32x4_t *sums, const int8x16_t q[8], const int8_t *codes, const int n, const int step) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; j += 4 / step) {
        int8x16_t a = vld1q_s8(codes + 4 * n * j);
        if (step == 4) {
            sums[0] = DOT_LANE(sums[0], q[j], a, 0);
            sums[1] = DOT_LANE(sums[1], q[j], a, 1);
            sums[2] = DOT_LANE(sums[2], q[j], a, 2);
            sums[3] = DOT_LANE(sums[3], q[j], a, 3);
        } else if (step == 2) {
            sums[0] = DOT_LANE(sums[0], q[j], a, 0);
            sums[1] = DOT_LANE(sums[1], q[j], a, 1);
            sums[0] = DOT_LANE(sums[0], q[j + 1], a, 2);
            sums[1] = DOT_LANE(sums[1], q[j + 1], a, 3);
        } else {
            sums[0] = DOT_LANE(sums[0], q[j], a, 0);
            sums[0] = DOT_LANE(sums[0], q[j + 1], a, 1);
            sums[0] = DOT_LANE(sums[0], q[j + 2], a, 2);
            sums[0] = DOT_LANE(sums[0], q[j + 3], a, 3);
        }
    }
}

INLINE float32x4_t load_halves(const uint8_t *from) {
    uint16x4_t bits;
    memcpy(&bits, from, sizeof bits);
    return vcvt_f32_f16(vreinterpret_f16_u16(bits));
}

/* Weights of four rows and 32 columns, as signed bytes: 8 bits are stored with an offset of 128. */
INLINE void read_columns(int8x16_t q[8], const uint8_t *block, const int bits) {
    const uint8x16_t low = vdupq_n_u8(15), sign = vdupq_n_u8(128);
#pragma GCC unroll 8
    for (int j = 0; j < bits; j++) {
        uint8x16_t all = vld1q_u8(block + 64 * j);
        if (bits == 8) {
            q[j] = vreinterpretq_s8_u8(veorq_u8(all, sign));
        } else {
            q[2 * j] = vreinterpretq_s8_u8(vandq_u8(all, low));
            q[2 * j + 1] = vreinterpretq_s8_u8(vshrq_n_u8(all, 4));
        }
    }
}

/* `total` is only used with 4 bits. */
INLINE void any_tile(Weights w, int groups, const Code *codes, const float *scale, const float *total,
                     const int32_t *shift, const int n, float *sums, const ReadPlan *plan, const int bits) {
    const int format = bits == 4 ? PACKED4 : PACKED8, step = n < 4 ? n : 4;
    float32x4_t acc[4][TILE];
    (void)shift;
    for (int r = 0; r < 4; r++)
        for (int t = 0; t < n; t++) acc[r][t] = vdupq_n_f32(0);
    for (int g = 0; g < groups; g++) {
        const uint8_t *block = w.codes + code_bytes(format, g);
        const uint8_t *scales = w.scales + (bits == 4 ? INT4_SCALE_BYTES : INT8_SCALE_BYTES) * g;
        prefetch_group(format, w.scales, g, plan);
        for (int r = 0; r < 4; r++) {
            int8x16_t q[8];
            read_columns(q, block + 16 * r, bits);
            float32x4_t d = load_halves(scales + 8 * r), m = vdupq_n_f32(0);
            if (bits == 4) m = load_halves(scales + 32 + 8 * r);
#pragma GCC unroll 1
            for (int t = 0; t < n; t += step) {
                int32x4_t dots[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
                add_columns(dots, q, codes + 4 * t, n, step);
#pragma GCC unroll 4
                for (int i = 0; i < step; i++) dots[i] = vshlq_n_s32(dots[i], 8);
                add_columns(dots, q, codes + 4 * (8 * n + t), n, step);
#pragma GCC unroll 4
                for (int i = 0; i < step; i++) {
                    float32x4_t factor = vmulq_n_f32(d, scale[t + i]), *to = &acc[r][t + i];
                    *to = vfmaq_f32(*to, vcvtq_f32_s32(dots[i]), factor);
                    if (bits == 4) *to = vfmaq_n_f32(*to, m, total[t + i]);
                }
            }
        }
        codes += INPUT_CODES * n, scale += n;
        if (bits == 4) total += n;
    }
    for (int t = 0; t < n; t++)
        for (int r = 0; r < 4; r++) vst1q_f32(sums + t * BLOCK_ROWS + 4 * r, acc[r][t]);
}

#endif

#endif
