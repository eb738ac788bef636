/* `plimsoll worker`, hidden: what `plimsoll run` starts for each case. */

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "verb.h"
#include "worker.h"

int verb_worker(int argc, char **argv)
{
    int output;

    (void)argv;
    if (argc > 1 || isatty(STDIN_FILENO)) {
        fprintf(stderr, "plimsoll worker: speaks to `plimsoll run`, not to people\n");
        return 2;
    }
    /* The protocol gets a descriptor of its own: whatever a library prints goes to standard error, not between its
     * lines. */
    output = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (output < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
        perror("plimsoll worker");
        return 1;
    }
    return worker_serve(STDIN_FILENO, output);
}
