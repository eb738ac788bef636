#include "interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

static volatile sig_atomic_t requested;
static int pipe_ends[2] = { -1, -1 };

static void on_signal(int number)
{
    int saved = errno;
    ssize_t ignored;

    (void)number;
    requested = 1;
    ignored = write(pipe_ends[1], "!", 1);
    (void)ignored;
    errno = saved;
}

int interrupt_install(struct plim_err *err)
{
    static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND | SA_RESTART };

    if (pipe_ends[0] < 0 && pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return plim_err_errno(err, "making a pipe");
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction before;

        /* What nohup ignores stays ignored. */
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler == SIG_IGN)
            continue;
        if (sigaction(numbers[i], &action, NULL) < 0)
            return plim_err_errno(err, "installing a signal handler");
    }
    return 0;
}

bool interrupt_requested(void)
{
    return requested != 0;
}

int interrupt_fd(void)
{
    return pipe_ends[0];
}
