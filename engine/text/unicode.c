#include "unicode.h"

#include <string.h>

#include <utf8proc.h>

enum text_utf8 text_utf8_step(const char *text, size_t length, size_t *used)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned char lead = s[0];
    *used = 1;
    if (lead < 0x80)
        return TEXT_UTF8_VALID;
    if (lead < 0xc2 || lead > 0xf4)
        return TEXT_UTF8_INVALID;

    /* The second byte's range keeps out overlong forms, surrogates and what lies past U+10FFFF (table 3-7). */
    unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    size_t wanted = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    for (size_t i = 1; i < wanted; i++) {
        *used = i;
        if (i == length)
            return TEXT_UTF8_UNFINISHED;
        if (s[i] < low || s[i] > high)
            return TEXT_UTF8_INVALID;
        low = 0x80;
        high = 0xbf;
    }
    *used = wanted;
    return TEXT_UTF8_VALID;
}

size_t text_ascii_prefix(const char *text, size_t length)
{
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        uint64_t word;
        memcpy(&word, text + i, 8);
        if (word & 0x8080808080808080u)
            break;
    }
    while (i < length && (unsigned char)text[i] < 0x80)
        i++;
    return i;
}

size_t text_utf8_valid_prefix(const char *text, size_t length)
{
    size_t i = 0, used;
    while (i < length) {
        i += text_ascii_prefix(text + i, length - i);
        while (i < length && (unsigned char)text[i] >= 0x80) {
            if (text_utf8_step(text + i, length - i, &used) != TEXT_UTF8_VALID)
                return i;
            i += used;
        }
    }
    return i;
}

int text_utf8_repair(struct text_buffer *out, const char *text, size_t length, struct plim_err *err)
{
    for (size_t i = 0, used; i < length; i += used) {
        used = text_utf8_valid_prefix(text + i, length - i);
        if (text_buffer_append(out, text + i, used, err) < 0)
            return -1;
        i += used;
        used = 0;
        if (i == length)
            break;
        text_utf8_step(text + i, length - i, &used);
        if (text_buffer_append(out, TEXT_REPLACEMENT, 3, err) < 0)
            return -1;
    }
    return 0;
}

uint32_t text_utf8_decode(const char *text, size_t *used)
{
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80) {
        *used = 1;
        return s[0];
    }
    if (s[0] < 0xe0) {
        *used = 2;
        return (s[0] & 0x1fu) << 6 | (s[1] & 0x3fu);
    }
    if (s[0] < 0xf0) {
        *used = 3;
        return (s[0] & 0x0fu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
    }
    *used = 4;
    return (s[0] & 0x07u) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu);
}

size_t text_utf8_encode(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* ---- classes ---- */

bool text_is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= 0x09 && c <= 0x0d);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

static utf8proc_category_t category(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c);
}

/* Other_Alphabetic outside the marks: circled, squared and negative letters. */
static bool is_enclosed_letter(uint32_t c)
{
    return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
           (c >= 0x1f170 && c <= 0x1f189);
}

bool text_is_word(uint32_t c)
{
    switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return is_enclosed_letter(c) || c == 0x200c || c == 0x200d;
    }
}

bool text_is_numeric(uint32_t c)
{
    if (c < 0x80)
        return c >= '0' && c <= '9';
    utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool text_is_punctuation(uint32_t c)
{
    if (c < 0x80)
        return c > ' ' && c < 0x7f && !(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z');
    utf8proc_category_t k = category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}
