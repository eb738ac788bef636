#include "plimsoll/progress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "plimsoll/clock.h"

#define TERMINAL_INTERVAL_NS ((uint64_t)100 * 1000 * 1000)
#define LINE_INTERVAL_NS ((uint64_t)5 * 1000 * 1000 * 1000)
#define BAR_COLUMNS 24

static const char *const clear_line = "\r\033[K";

void plim_progress_start(struct plim_progress *progress, FILE *stream, const char *title, const char *unit,
                         uint64_t total)
{
    const char *term = getenv("TERM");
    *progress = (struct plim_progress){ .stream = stream, .title = title, .unit = unit, .total = total };
    progress->start_ns = progress->last_drawn_ns = plim_now_ns();
    progress->terminal = stream && isatty(fileno(stream)) && term && strcmp(term, "dumb") != 0;
}

/* "12 s", "3:25", "1:02:10" */
static void format_eta(char *buffer, size_t size, uint64_t seconds)
{
    unsigned long long s = seconds;
    if (s < 100)
        snprintf(buffer, size, "%llu s", s);
    else if (s < 3600)
        snprintf(buffer, size, "%llu:%02llu", s / 60, s % 60);
    else
        snprintf(buffer, size, "%llu:%02llu:%02llu", s / 3600, s / 60 % 60, s % 60);
}

/* "title: 12/300 tensors, 12 s left" */
static void format_line(const struct plim_progress *progress, uint64_t now_ns, char *buffer, size_t size)
{
    char eta[32], left[48] = "";
    double elapsed_ns = (double)(now_ns - progress->start_ns);
    if (progress->done > 0 && progress->done < progress->total) {
        double left_ns = elapsed_ns * (double)(progress->total - progress->done) / (double)progress->done;
        format_eta(eta, sizeof eta, (uint64_t)(left_ns / 1e9 + 0.5));
        snprintf(left, sizeof left, ", %s left", eta);
    }
    snprintf(buffer, size, "%s: %llu/%llu %s%s", progress->title, (unsigned long long)progress->done,
             (unsigned long long)progress->total, progress->unit, left);
}

static int terminal_columns(FILE *stream)
{
    struct winsize size;
    if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return 80;
}

static void draw_bar(const struct plim_progress *progress, const char *line, const char *detail)
{
    char bar[BAR_COLUMNS + 1], text[400];
    uint64_t total = progress->total > 0 ? progress->total : 1;
    uint64_t done = progress->done < total ? progress->done : total;
    size_t filled = (size_t)((double)done / (double)total * BAR_COLUMNS);
    memset(bar, ' ', BAR_COLUMNS);
    memset(bar, '=', filled);
    bar[BAR_COLUMNS] = '\0';
    snprintf(text, sizeof text, "[%s] %s%s%.150s", bar, line, detail ? ": " : "", detail ? detail : "");
    /* A line that wraps can't be cleared with one escape. */
    fprintf(progress->stream, "%s%.*s", clear_line, terminal_columns(progress->stream) - 1, text);
    fflush(progress->stream);
}

void plim_progress_update(struct plim_progress *progress, uint64_t done, const char *detail)
{
    char line[200];
    progress->done = done;
    if (!progress->stream)
        return;
    uint64_t now_ns = plim_now_ns();
    uint64_t interval_ns = progress->terminal ? TERMINAL_INTERVAL_NS : LINE_INTERVAL_NS;
    if (now_ns - progress->last_drawn_ns < interval_ns)
        return;
    progress->last_drawn_ns = now_ns;
    progress->drawn = true;
    format_line(progress, now_ns, line, sizeof line);
    if (progress->terminal)
        draw_bar(progress, line, detail);
    else
        fprintf(progress->stream, "%s%s%s\n", line, detail ? ": " : "", detail ? detail : "");
}

void plim_progress_finish(struct plim_progress *progress)
{
    if (progress->stream && progress->terminal && progress->drawn) {
        fputs(clear_line, progress->stream);
        fflush(progress->stream);
    }
    progress->drawn = false;
}
