/* Places of what the engine does not have yet; each goes away with the commit that brings the real one. */

#include <stdio.h>

#include "verb.h"

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
