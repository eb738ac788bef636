#include "markup.h"

#include <stdarg.h>
#include <string.h>
#include <utf8proc.h>

#define REPLACEMENT "\xef\xbf\xbd"

/* XML 1.0, production 2: what may stand in a document at all. */
static int is_xml_character(utf8proc_int32_t c)
{
    return c == '\t' || c == '\n' || c == '\r' || (c >= 0x20 && c != 0x7f && c != 0xfffe && c != 0xffff);
}

static void put_character(FILE *out, const char *bytes, size_t length)
{
    switch (*bytes) {
    case '&':
        fputs("&amp;", out);
        return;
    case '<':
        fputs("&lt;", out);
        return;
    case '>':
        fputs("&gt;", out);
        return;
    case '"':
        fputs("&quot;", out);
        return;
    case '\'':
        fputs("&#39;", out);
        return;
    default:
        fwrite(bytes, 1, length, out);
    }
}

void markup_put(FILE *out, const char *text)
{
    size_t left = strlen(text);
    while (left > 0) {
        utf8proc_int32_t c;
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)left, &c);
        if (length > 0 && is_xml_character(c))
            put_character(out, text, (size_t)length);
        else
            fputs(REPLACEMENT, out);
        size_t step = length > 0 ? (size_t)length : 1;
        text += step;
        left -= step;
    }
}

void markup_printf(FILE *out, const char *format, ...)
{
    char text[1000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    markup_put(out, text);
}
