/* What a model directory holds, from its files' headers alone. */

#include "model_files.h"

int plim_model_inspect(const char *directory, struct plim_model_info *out, struct plim_err *err)
{
    struct model_files files = { 0 };
    struct plim_pool *pool = NULL;
    int rc = -1;

    if (plim_pool_open(&pool, NULL, err) < 0)
        goto out;
    if (model_files_open(&files, pool, directory, err) < 0)
        goto out;
    if (model_files_info(out, &files, err) < 0)
        goto out;
    rc = 0;

out:
    model_files_close(&files);
    plim_pool_close(pool);
    if (rc < 0)
        plim_err_wrap(err, "%s", directory);
    return rc;
}
