#ifndef PLIM_TEXT_UNICODE_H
#define PLIM_TEXT_UNICODE_H

/* UTF-8 and the character classes that tokenizers split at. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"

#define TEXT_REPLACEMENT "\xef\xbf\xbd"     /* U+FFFD */

enum text_utf8 {
    TEXT_UTF8_VALID,        /* a whole character */
    TEXT_UTF8_INVALID,      /* bytes that begin no character: a maximal invalid part (Unicode 15, 3.9, table 3-8) */
    TEXT_UTF8_UNFINISHED,   /* the text ends inside what may become a character */
};

/* Looks at the start of a text of `length` > 0 bytes; *used is how many of them the verdict is about. */
enum text_utf8 text_utf8_step(const char *text, size_t length, size_t *used);

/* How many bytes at the start are whole, valid characters. */
size_t text_utf8_valid_prefix(const char *text, size_t length);

/* Appends the text with each maximal invalid part, and an unfinished end, replaced by U+FFFD, as Python does. */
int text_utf8_repair(struct text_buffer *out, const char *text, size_t length, struct plim_err *err);

/* The character at the start of valid text, and how many bytes it has. */
uint32_t text_utf8_decode(const char *text, size_t *used);

/* Writes at most 4 bytes; returns how many. */
size_t text_utf8_encode(uint32_t code_point, char *out);

/* How many bytes at the start are ASCII. */
size_t text_ascii_prefix(const char *text, size_t length);

/* Unicode's White_Space. */
bool text_is_space(uint32_t code_point);
/* \w of Unicode Technical Standard 18: Alphabetic, marks, decimal digits, connectors, joiners. */
bool text_is_word(uint32_t code_point);
/* General category N. */
bool text_is_numeric(uint32_t code_point);
/* ASCII punctuation and symbols, and general category P. */
bool text_is_punctuation(uint32_t code_point);

/*
 * The byte-level alphabet of GPT-2: each byte has a printable character. Bytes that are printable in Latin-1 stand for
 * themselves; the 68 others are U+0100, U+0101, ... in the order of their values.
 */
static inline uint32_t text_byte_level_character(uint8_t byte)
{
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte >= 0x7f && byte <= 0xa0)
        return 0x121u + byte - 0x7f;
    return byte == 0xad ? 0x143u : byte;
}

/* The other way round; -1 for a character outside the alphabet. */
static inline int text_byte_level_byte(uint32_t code_point)
{
    if (code_point >= 0x100 && code_point <= 0x120)
        return (int)(code_point - 0x100);
    if (code_point >= 0x121 && code_point <= 0x142)
        return (int)(code_point - 0x121 + 0x7f);
    if (code_point == 0x143)
        return 0xad;
    return code_point < 0x100 && text_byte_level_character((uint8_t)code_point) == code_point ? (int)code_point : -1;
}

#endif
