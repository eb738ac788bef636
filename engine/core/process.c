#include "plimsoll/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plimsoll/clock.h"

extern char **environ;

/* ---- pipes ---- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Moves a descriptor above 0, 1 and 2, so that putting the child's pipes there overwrites none of them. */
static int above_standard(int fd)
{
    if (fd < 0 || fd > 2)
        return fd;
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return moved;
}

/* Both ends closed on exec. */
static int open_pipe(int ends[2], struct plim_err *err)
{
    if (pipe2(ends, O_CLOEXEC) < 0) {
        ends[0] = ends[1] = -1;
        return plim_err_errno(err, "making a pipe");
    }
    ends[0] = above_standard(ends[0]);
    ends[1] = above_standard(ends[1]);
    if (ends[0] < 0 || ends[1] < 0)
        return plim_err_errno(err, "making a pipe");
    return 0;
}

/* ---- starting ---- */

static bool same_variable(const char *a, const char *b)
{
    size_t length = strcspn(a, "=");
    return strncmp(a, b, length) == 0 && b[length] == '=';
}

/* Our environment with `added` entries replacing those of the same name. The array is the caller's, its text not. */
static char **merge_environment(const char *const *added, struct plim_err *err)
{
    size_t ours = 0, theirs = 0, count = 0;
    while (environ && environ[ours])
        ours++;
    while (added && added[theirs])
        theirs++;
    char **merged = calloc(ours + theirs + 1, sizeof *merged);
    if (!merged) {
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
        return NULL;
    }
    for (size_t i = 0; i < ours; i++) {
        bool replaced = false;
        for (size_t j = 0; j < theirs && !replaced; j++)
            replaced = same_variable(added[j], environ[i]);
        if (!replaced)
            merged[count++] = environ[i];
    }
    for (size_t j = 0; j < theirs; j++)
        merged[count++] = (char *)(uintptr_t)added[j];
    return merged;
}

struct child_plan {
    const char *const *argv;
    char **environment;
    int input, output, errors;   /* become 0, 1, 2 */
    int failure;                 /* exec's errno goes here */
    pid_t parent;
};

/* Between fork and exec: async-signal-safe calls only. */
static _Noreturn void become_child(const struct child_plan *plan)
{
    sigset_t none;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != plan->parent)
        _exit(127);   /* it died before the line above */
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(plan->input, 0) >= 0 && dup2(plan->output, 1) >= 0 && dup2(plan->errors, 2) >= 0)
        execve(plan->argv[0], (char *const *)(uintptr_t)plan->argv, plan->environment);
    int failure = errno;
    ssize_t ignored = write(plan->failure, &failure, sizeof failure);
    (void)ignored;
    _exit(127);
}

/* Waits for the exec: the pipe closes without a word when it worked. Returns its errno otherwise. */
static int exec_failure(int fd)
{
    int failure = 0;
    ssize_t got;
    do {
        got = read(fd, &failure, sizeof failure);
    } while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof failure ? failure : 0;
}

static pid_t reap(pid_t pid, int *status, struct rusage *usage)
{
    pid_t got;
    do {
        got = wait4(pid, status, 0, usage);
    } while (got < 0 && errno == EINTR);
    return got;
}

int plim_process_start(struct plim_process *process, const struct plim_process_options *options,
                       struct plim_err *err)
{
    int input[2] = { -1, -1 }, output[2] = { -1, -1 }, errors[2] = { -1, -1 }, failure[2] = { -1, -1 };
    char **environment = NULL;
    int rc = -1;
    *process = (struct plim_process){ .to_child = -1, .from_child = -1, .errors_of_child = -1 };

    environment = merge_environment(options->environment, err);
    if (!environment || open_pipe(input, err) < 0 || open_pipe(output, err) < 0 || open_pipe(errors, err) < 0 ||
        open_pipe(failure, err) < 0)
        goto out;
    struct child_plan plan = { options->argv, environment, input[0], output[1], errors[1], failure[1], getpid() };
    pid_t pid = fork();
    if (pid < 0) {
        plim_err_errno(err, "starting %s", options->argv[0]);
        goto out;
    }
    if (pid == 0)
        become_child(&plan);
    setpgid(pid, pid);   /* both sides do it, so that neither can be too late */
    close_fd(&failure[1]);
    errno = exec_failure(failure[0]);
    if (errno != 0) {
        plim_err_errno(err, "starting %s", options->argv[0]);
        reap(pid, NULL, NULL);
        goto out;
    }
    *process = (struct plim_process){ pid, input[1], output[0], errors[0] };
    input[1] = output[0] = errors[0] = -1;
    rc = 0;

out:
    free(environment);
    for (int end = 0; end < 2; end++) {
        close_fd(&input[end]);
        close_fd(&output[end]);
        close_fd(&errors[end]);
        close_fd(&failure[end]);
    }
    return rc;
}

/* ---- ending ---- */

void plim_process_signal(struct plim_process *process, int signal_number)
{
    if (process->pid > 0)
        kill(-process->pid, signal_number);
}

/* Whether the child has ended; it stays to be reaped, so its id is still its own. */
static bool has_ended(pid_t pid)
{
    siginfo_t info = { 0 };
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

bool plim_process_ended_within(struct plim_process *process, uint64_t duration_ns)
{
    if (process->pid <= 0 || has_ended(process->pid))
        return true;
    int fd = (int)syscall(SYS_pidfd_open, process->pid, 0);
    uint64_t deadline_ns = plim_now_ns() + duration_ns;
    for (;;) {
        uint64_t now_ns = plim_now_ns();
        uint64_t left_ns = now_ns < deadline_ns ? deadline_ns - now_ns : 0;
        uint64_t left_ms = (left_ns + 999999) / 1000000;
        struct pollfd ended = { fd, POLLIN, 0 };
        /* Without pidfds (kernels before 5.3) look every 10 ms; poll ignores the descriptor -1. */
        if (left_ms > (fd < 0 ? 10u : 1000u))
            left_ms = fd < 0 ? 10 : 1000;
        poll(&ended, 1, (int)left_ms);
        bool over = has_ended(process->pid);
        if (over || left_ns == 0) {
            close_fd(&fd);
            return over;
        }
    }
}

int plim_process_wait(struct plim_process *process, struct plim_process_exit *out, struct plim_err *err)
{
    int status = 0, rc = 0;
    siginfo_t info;
    struct rusage usage;
    pid_t pid = process->pid;
    *out = (struct plim_process_exit){ 0 };
    if (pid <= 0)
        return plim_err_set(err, PLIM_ERR_INTERNAL, "waiting for a process that does not run");
    close_fd(&process->to_child);
    while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        continue;
    kill(-pid, SIGKILL);   /* what it started and left behind; its own id can't have been given away yet */
    if (reap(pid, &status, &usage) == pid) {
        out->signaled = WIFSIGNALED(status);
        out->status = out->signaled ? WTERMSIG(status) : WEXITSTATUS(status);
        out->peak_rss_bytes = (int64_t)usage.ru_maxrss * 1024;
        out->user_ns = (uint64_t)usage.ru_utime.tv_sec * 1000000000u + (uint64_t)usage.ru_utime.tv_usec * 1000u;
        out->system_ns = (uint64_t)usage.ru_stime.tv_sec * 1000000000u + (uint64_t)usage.ru_stime.tv_usec * 1000u;
    } else {
        rc = plim_err_errno(err, "waiting for process %ld", (long)pid);
    }
    process->pid = 0;
    close_fd(&process->from_child);
    close_fd(&process->errors_of_child);
    return rc;
}

void plim_process_release(struct plim_process *process)
{
    if (process->pid > 0) {
        plim_process_signal(process, SIGKILL);
        reap(process->pid, NULL, NULL);
        process->pid = 0;
        close_fd(&process->to_child);
        close_fd(&process->from_child);
        close_fd(&process->errors_of_child);
    }
}

/* ---- ourselves ---- */

char *plim_self_path(struct plim_err *err)
{
    char *path = realpath("/proc/self/exe", NULL);
    if (!path)
        plim_err_errno(err, "finding the running program");
    return path;
}

int64_t plim_peak_rss_bytes(void)
{
    char line[256];
    long long kib = 0;
    FILE *file = fopen("/proc/self/status", "re");
    if (!file)
        return 0;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "VmHWM: %lld", &kib) == 1)
            break;
    }
    fclose(file);
    return (int64_t)kib * 1024;
}
