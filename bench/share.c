#include "share.h"

#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/file.h"
#include "plimsoll/process.h"

char *share_locate(const char *relative, struct plim_err *err)
{
    /* Installed; build/PRESET/plimsoll; build/PRESET/tests/NAME. */
    static const char *const roots[] = { "../share/plimsoll", "../..", "../../.." };
    char *self, *path = NULL;

    if (plim_path_exists(relative))
        return heap_strdup(relative, err);
    self = plim_self_path(err);
    if (!self)
        return NULL;
    *strrchr(self, '/') = '\0';
    for (size_t i = 0; i < sizeof roots / sizeof roots[0]; i++) {
        path = heap_printf(err, "%s/%s/%s", self, roots[i], relative);
        if (!path || plim_path_exists(path))
            goto out;
        free(path);
    }
    path = heap_strdup(relative, err);

out:
    free(self);
    return path;
}
