/* Places of what the engine does not have yet; each goes away with the commit that brings the real one. */

#include "plimsoll/synthetic.h"

__attribute__((weak)) const struct plim_synthetic_preset *plim_synthetic_presets(void)
{
    static const struct plim_synthetic_preset presets[] = { { "tiny", "for tests" }, { NULL, NULL } };

    return presets;
}

__attribute__((weak)) int plim_synthetic_make(const struct plim_synthetic *options, const char *directory,
                                              struct plim_err *err)
{
    (void)options;
    return plim_err_input(err, "%s: synthetic models are not part of this build yet", directory);
}
