#include "digest.h"

#include <stdio.h>

#include <xxhash.h>

/* The library's own allocation: its state must be aligned as it says. */
struct digest *digest_begin(struct plim_err *err)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state || XXH3_128bits_reset(state) != XXH_OK) {
        XXH3_freeState(state);
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for a digest");
        return NULL;
    }
    return (struct digest *)state;
}

void digest_add(struct digest *digest, const void *data, size_t bytes)
{
    (void)XXH3_128bits_update((XXH3_state_t *)digest, data, bytes);
}

void digest_end(struct digest *digest, char text[33])
{
    text[0] = '\0';
    if (!digest)
        return;
    XXH128_hash_t hash = XXH3_128bits_digest((XXH3_state_t *)digest);
    snprintf(text, 33, "%016llx%016llx", (unsigned long long)hash.high64, (unsigned long long)hash.low64);
    XXH3_freeState((XXH3_state_t *)digest);
}
