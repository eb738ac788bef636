#ifndef PLIM_MARKUP_H
#define PLIM_MARKUP_H

/* Text inside XML and HTML. Everything that did not come from this program's own source goes through here. */

#include <stdio.h>

/*
 * Writes `text` so that it is plain text in element content and in a quoted attribute, of HTML and of XML 1.0: the five
 * special characters become references; what XML cannot hold (control characters) and what is not UTF-8 becomes U+FFFD.
 */
void markup_put(FILE *out, const char *text);

/* The same for text that is formatted first; longer than 1,000 bytes is cut. */
void markup_printf(FILE *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
