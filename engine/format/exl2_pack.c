/*
 * Packing of codes and scale levels into 32-bit words, and back (format notes, 2.1 and 2.4).
 *
 * Down a column the codes of a group are one stream of bits, least significant first: code r of width b lies at bits
 * r*b ... r*b + b - 1. So every 32 rows take exactly b words, and no unit of 32 rows shares a word with the next.
 */

#include "exl2.h"

#include <string.h>

#define WORD_BITS            32
#define CODES_PER_SCALE_WORD 8

void exl2_pack_rows(const uint8_t *codes, size_t rows, size_t columns, unsigned bits, uint32_t *words)
{
    memset(words, 0, rows * bits / WORD_BITS * columns * sizeof *words);
    for (size_t r = 0; r < rows; r++) {
        size_t shift = r * bits % WORD_BITS;
        uint32_t *low = words + r * bits / WORD_BITS * columns;
        for (size_t n = 0; n < columns; n++) {
            uint64_t field = (uint64_t)codes[r * columns + n] << shift;
            low[n] |= (uint32_t)field;
            if (shift + bits > WORD_BITS)
                low[columns + n] |= (uint32_t)(field >> WORD_BITS);
        }
    }
}

void exl2_unpack_rows(const uint32_t *words, size_t rows, size_t columns, unsigned bits, uint8_t *codes)
{
    uint32_t mask = (1u << bits) - 1;
    for (size_t r = 0; r < rows; r++) {
        size_t shift = r * bits % WORD_BITS;
        const uint32_t *low = words + r * bits / WORD_BITS * columns;
        for (size_t n = 0; n < columns; n++) {
            uint64_t window = low[n];
            if (shift + bits > WORD_BITS)
                window |= (uint64_t)low[columns + n] << WORD_BITS;
            codes[r * columns + n] = (uint8_t)(window >> shift & mask);
        }
    }
}

void exl2_pack_scales(const uint8_t *levels, size_t columns, uint32_t *words)
{
    for (size_t w = 0; w < columns / CODES_PER_SCALE_WORD; w++) {
        uint32_t word = 0;
        for (size_t i = 0; i < CODES_PER_SCALE_WORD; i++)
            word |= (uint32_t)(levels[w * CODES_PER_SCALE_WORD + i] - 1) << 4 * i;
        words[w] = word;
    }
}
