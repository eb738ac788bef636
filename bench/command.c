#include "command.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heap.h"
#include "interrupt.h"
#include "plimsoll/process.h"

#define ARGUMENT_LIMIT 30
#define LAST_WORDS 400
#define STOPPING_NS ((uint64_t)3 * 1000000000)   /* a build stops its compilers, git removes what it was making */

struct capture {
    struct plim_process process;
    FILE *log;
    char *output;                     /* what standard output said so far */
    size_t output_bytes;
    bool log_output;
    bool deaf;                        /* to interrupts */
    char last_words[LAST_WORDS + 1];  /* the last that it said of itself */
};

static void remember(struct capture *c, const char *chunk, size_t bytes)
{
    size_t from = bytes > LAST_WORDS ? bytes - LAST_WORDS : 0;

    memcpy(c->last_words, chunk + from, bytes - from);
    c->last_words[bytes - from] = '\0';
}

static int keep(struct capture *c, const char *chunk, size_t bytes, struct plim_err *err)
{
    char *grown = realloc(c->output, c->output_bytes + bytes + 1);

    if (!grown)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    memcpy(grown + c->output_bytes, chunk, bytes);
    c->output = grown;
    c->output_bytes += bytes;
    grown[c->output_bytes] = '\0';
    return 0;
}

/* Reads what is there. 0 at the end of the stream. */
static int take(struct capture *c, int fd, bool is_output, struct plim_err *err)
{
    char chunk[4096];
    ssize_t got = read(fd, chunk, sizeof chunk);

    if (got < 0)
        return errno == EINTR ? 1 : 0;
    if (got == 0)
        return 0;
    if (!is_output || c->log_output)   /* what is asked for is no reason why it failed */
        remember(c, chunk, (size_t)got);
    if (c->log && (!is_output || c->log_output))
        fwrite(chunk, 1, (size_t)got, c->log);
    return is_output && keep(c, chunk, (size_t)got, err) < 0 ? -1 : 1;
}

static int listen_to(struct capture *c, struct plim_err *err)
{
    int output = 1, errors = 1;

    while (output || errors) {
        struct pollfd fds[3] = { { .fd = output ? c->process.from_child : -1, .events = POLLIN },
                                 { .fd = errors ? c->process.errors_of_child : -1, .events = POLLIN },
                                 { .fd = c->deaf ? -1 : interrupt_fd(), .events = POLLIN } };

        if (poll(fds, 3, -1) < 0 && errno != EINTR)
            return plim_err_errno(err, "waiting for a program");
        if (!c->deaf && interrupt_requested())
            return plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted");
        if (fds[0].revents && (output = take(c, c->process.from_child, true, err)) < 0)
            return -1;
        if (fds[1].revents && (errors = take(c, c->process.errors_of_child, false, err)) < 0)
            return -1;
    }
    return 0;
}

static void stop(struct plim_process *process)
{
    plim_process_signal(process, SIGTERM);
    plim_process_ended_within(process, STOPPING_NS);
}

static int run(struct capture *c, const char *const *argv, struct plim_err *err)
{
    const char *full[ARGUMENT_LIMIT + 2] = { "/usr/bin/env" };
    struct plim_process_options options = { .argv = full };
    struct plim_process_exit exit;
    size_t count = 0;

    for (; argv[count] && count < ARGUMENT_LIMIT; count++)
        full[count + 1] = argv[count];
    if (plim_process_start(&c->process, &options, err) < 0)
        return -1;
    if (listen_to(c, err) < 0) {
        stop(&c->process);
        return -1;
    }
    if (plim_process_wait(&c->process, &exit, err) < 0)
        return -1;
    if (exit.signaled || exit.status != 0) {
        c->last_words[strcspn(c->last_words, "\n")] = '\0';
        return plim_err_set(err, PLIM_ERR_SYSTEM, "%s %s: %s %d%s%s", argv[0], argv[1] ? argv[1] : "",
                            exit.signaled ? "signal" : "exit status", exit.status, *c->last_words ? ": " : "",
                            c->last_words);
    }
    while (c->output_bytes && c->output[c->output_bytes - 1] == '\n')
        c->output[--c->output_bytes] = '\0';
    return 0;
}

char *command_output(const char *const *argv, FILE *log, struct plim_err *err)
{
    struct capture c = { .process = PLIM_PROCESS_INIT, .log = log };
    int rc = keep(&c, "", 0, err) < 0 ? -1 : run(&c, argv, err);

    plim_process_release(&c.process);
    if (rc == 0)
        return c.output;
    free(c.output);
    return NULL;
}

int command_run(const char *const *argv, FILE *log, struct plim_err *err)
{
    struct capture c = { .process = PLIM_PROCESS_INIT, .log = log, .log_output = true };
    int rc = run(&c, argv, err);

    plim_process_release(&c.process);
    free(c.output);
    return rc;
}

void command_clear_up(const char *const *argv)
{
    struct capture c = { .process = PLIM_PROCESS_INIT, .deaf = true };
    struct plim_err ignored = PLIM_ERR_INIT;

    run(&c, argv, &ignored);
    plim_process_release(&c.process);
    free(c.output);
}
