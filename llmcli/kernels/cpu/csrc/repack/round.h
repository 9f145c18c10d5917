/* Round 32 columns of 16 rows to 8 or 4 bits, as model/quantized/quantize.py does with torch: with the scale (and
   minimum) of least squared error. Used by pack.h. */
#ifndef LLM_CPU_REPACK_ROUND_H
#define LLM_CPU_REPACK_ROUND_H

#include "numbers.h"

/* 32 columns of some rows of a row block, as they are packed: codes of 4 or 8 bits. */
typedef struct {
    uint32_t fours[8][BLOCK_ROWS]; /* four codes each, the first lowest */
    uint16_t scale[BLOCK_ROWS], minimum[BLOCK_ROWS];
} Codes;

typedef float Values[GROUP][BLOCK_ROWS]; /* by column */
typedef float Row16[BLOCK_ROWS];         /* a number of each row */

/* Convert to float16 and back, clamped to its greatest number; NaN stays NaN. */
INLINE void round_to_half(Row16 numbers, uint16_t *halves) {
    const vf greatest = broadcast(65504);
    for (int r = 0; r < BLOCK_ROWS; r += LANES) {
        vf x = load(numbers + r);
        x = select_lanes(x > greatest, greatest, x);
        store(numbers + r, select_lanes(x < -greatest, -greatest, x));
    }
    to_halves(numbers, halves);
    from_halves(halves, numbers);
}

/* 1 / scale, or 0 where the scale is 0. */
INLINE void invert(const Row16 scale, Row16 inverse) {
    for (int r = 0; r < BLOCK_ROWS; r += LANES) {
        const vf x = load(scale + r), zero = {0};
        store(inverse + r, select_lanes(x == zero, zero, 1 / x));
    }
}

/* Round to a whole number between bounds; NaN becomes the lower. */
INLINE float round_between(float value, float low, float high) {
    value = __builtin_rintf(value);
    value = value > low ? value : low;
    return value < high ? value : high;
}

/* A scale of 1/127 of the greatest magnitude, and codes from 0 to 255 for -128 to 127. */
static void round_to_8_bits(const Values values, Codes *to) {
    uint32_t magnitude[BLOCK_ROWS] = {0};
    Row16 scale, inverse;
    /* As bits, because NaN is greater than any number then. */
    for (int i = 0; i < GROUP; i++)
        for (int r = 0; r < BLOCK_ROWS; r++) {
            uint32_t bits;
            memcpy(&bits, &values[i][r], sizeof bits);
            bits &= 0x7fffffff;
            magnitude[r] = bits > magnitude[r] ? bits : magnitude[r];
        }
    memcpy(scale, magnitude, sizeof scale);
    for (int r = 0; r < BLOCK_ROWS; r++) scale[r] /= 127;
    round_to_half(scale, to->scale);
    invert(scale, inverse);
    for (int i = 0; i < 8; i++)
        for (int r = 0; r < BLOCK_ROWS; r++) {
            uint32_t four = 0;
            for (int k = 0; k < 4; k++)
                four |= (uint32_t)(128 + (int)round_between(values[4 * i + k][r] * inverse[r], -128, 127)) << 8 * k;
            to->fours[i][r] = four;
        }
}

/* A line, value = scale * code + minimum, with the scale's inverse. */
typedef struct {
    Row16 scale, minimum, inverse;
    uint16_t scale_half[BLOCK_ROWS], minimum_half[BLOCK_ROWS];
} Line;

INLINE void round_line(Line *line) {
    round_to_half(line->scale, line->scale_half);
    round_to_half(line->minimum, line->minimum_half);
    invert(line->scale, line->inverse);
}

INLINE float code_of(float value, const Line *line, int r) {
    return round_between((value - line->minimum[r]) * line->inverse[r], 0, 15);
}

/* The same as a vector of whole numbers, for adding up; infinite values become bounds, NaN a number. */
INLINE vf codes_of(vf above, vf inverse) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    vf code = above * inverse;
#ifdef USE_AVX512
    code = (vf)_mm512_min_ps(_mm512_max_ps((__m512)code, _mm512_setzero_ps()), _mm512_set1_ps(15));
#else
    code = vmin(vmax(code, broadcast(0)), broadcast(15));
#endif
    return code + shift - shift;
}

/* The squared error of rounding to the codes of `line`, and the line of least squared error for these codes. */
INLINE void fit_line(const Values values, const Line *line, Row16 error, Line *fitted) {
    Row16 codes, sum;
    for (int r = 0; r < BLOCK_ROWS; r += LANES) {
        const vf minimum = load(line->minimum + r), scale = load(line->scale + r), inverse = load(line->inverse + r);
        vf wrongs = {0}, ones = {0}, twos = {0}, all = {0}, both = {0};
        for (int i = 0; i < GROUP; i++) {
            /* Relative to the minimum, which keeps the sums accurate. */
            const vf above = load(values[i] + r) - minimum, code = codes_of(above, inverse);
            const vf wrong = code * scale - above;
            wrongs += wrong * wrong;
            ones += code;
            twos += code * code;
            all += above;
            both += code * above;
        }
        store(error + r, wrongs);
        store(codes + r, ones);
        store(sum + r, all);
        const vf spread = twos - ones * ones * (1.0f / GROUP);
        store(fitted->scale + r, (both - ones * all * (1.0f / GROUP)) / vmax(spread, broadcast(1e-6f)));
    }
    round_to_half(fitted->scale, fitted->scale_half);
    for (int r = 0; r < BLOCK_ROWS; r += LANES) {
        const vf rest = load(sum + r) - load(fitted->scale + r) * load(codes + r);
        store(fitted->minimum + r, load(line->minimum + r) + rest * (1.0f / GROUP));
    }
}

/* Of each row the line with the smaller error. */
INLINE void keep_better(const Line *line, const Row16 error, Line *best, Row16 least) {
    for (int r = 0; r < BLOCK_ROWS; r += LANES) {
        const vf now = load(error + r), before = load(least + r);
        const vi better = now < before;
        store(least + r, select_lanes(better, now, before));
        store(best->scale + r, select_lanes(better, load(line->scale + r), load(best->scale + r)));
        store(best->minimum + r, select_lanes(better, load(line->minimum + r), load(best->minimum + r)));
    }
}

/* Start from shares of the range; in each of three rounds fit codes to the line, and then the line to the codes. */
static void round_to_4_bits(const Values values, Codes *to) {
    Row16 low, high, least, error, not_finite;
    Line line, next, best;
    memcpy(low, values[0], sizeof low);
    memcpy(high, values[0], sizeof high);
    for (int r = 0; r < BLOCK_ROWS; r++) not_finite[r] = 0;
    for (int i = 0; i < GROUP; i++)
        for (int r = 0; r < BLOCK_ROWS; r++) {
            low[r] = values[i][r] < low[r] ? values[i][r] : low[r];
            high[r] = values[i][r] > high[r] ? values[i][r] : high[r];
            not_finite[r] += values[i][r] * 0; /* NaN */
        }
    for (int share = 0; share < 3; share++) {
        const float cut = share * 0.05f;
        for (int r = 0; r < BLOCK_ROWS; r++) {
            const float range = high[r] - low[r];
            line.minimum[r] = low[r] + range * cut + not_finite[r];
            line.scale[r] = (range - 2 * (range * cut)) / 15;
        }
        for (int step = 0; step < 3; step++) {
            round_line(&line);
            fit_line(values, &line, error, &next);
            if (share || step) {
                keep_better(&line, error, &best, least);
            } else {
                best = line;
                memcpy(least, error, sizeof least);
            }
            line = next;
        }
    }
    round_line(&best);
    memcpy(to->scale, best.scale_half, sizeof to->scale);
    memcpy(to->minimum, best.minimum_half, sizeof to->minimum);
    for (int i = 0; i < 8; i++)
        for (int r = 0; r < BLOCK_ROWS; r++) {
            uint32_t four = 0;
            for (int k = 0; k < 4; k++) four |= (uint32_t)code_of(values[4 * i + k][r], &best, r) << 8 * k;
            to->fours[i][r] = four;
        }
}

#endif
