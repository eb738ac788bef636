#ifndef TEST_SHA256_H
#define TEST_SHA256_H

/* SHA-256 (FIPS 180-4), for comparing with digests made elsewhere. */

#include <stddef.h>

/* Digest of `bytes` bytes as 64 lower-case hexadecimal digits and a NUL. */
void sha256_hex(const void *data, size_t bytes, char hex[65]);

#endif
