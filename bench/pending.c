/* Places of what the engine does not have yet; each goes away with the commit that brings the real one. */

#include <stdio.h>

#include "plimsoll/synthetic.h"
#include "verb.h"
#include "workload_run.h"

__attribute__((weak)) const struct plim_synthetic_preset *plim_synthetic_presets(void)
{
    static const struct plim_synthetic_preset presets[] = { { "tiny", "for tests" }, { NULL, NULL } };

    return presets;
}

static int refuse(const char *what)
{
    fprintf(stderr, "plimsoll: %s is not part of this build yet\n", what);
    return 2;
}

int verb_model(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return refuse("model");
}

int verb_generate(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return refuse("generate");
}

int verb_perplexity(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return refuse("perplexity");
}

int workload_generate(struct workload_run *run, struct plim_err *err)
{
    (void)run;
    return plim_err_input(err, "generate is not part of this build yet");
}

int workload_perplexity(struct workload_run *run, struct plim_err *err)
{
    (void)run;
    return plim_err_input(err, "perplexity is not part of this build yet");
}
