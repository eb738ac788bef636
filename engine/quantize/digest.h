#ifndef PLIM_DIGEST_H
#define PLIM_DIGEST_H

/* XXH3-128 digests, as 32 hexadecimal digits. */

#include <stddef.h>

#include "plimsoll/err.h"

struct digest;

struct digest *digest_begin(struct plim_err *err);
void digest_add(struct digest *digest, const void *data, size_t bytes);
/* Ends and frees it; `digest` may be NULL (the text is then empty). */
void digest_end(struct digest *digest, char text[33]);

#endif
