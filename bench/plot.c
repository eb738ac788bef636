/* What all plots share: finding cases, putting script and data together, running gnuplot. */

#include "plot.h"

#include <ctype.h>
#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heap.h"
#include "plimsoll/file.h"
#include "plimsoll/process.h"
#include "plimsoll/units.h"
#include "plot_parts.h"
#include "share.h"

/* ---- gnuplot's language ---- */

void put_quoted(FILE *out, const char *text)
{
    fputc('\'', out);
    for (; *text; text++) {
        if (*text == '\'')
            fputc('\'', out);   /* doubled */
        fputc((unsigned char)*text < ' ' ? ' ' : *text, out);
    }
    fputc('\'', out);
}

void put_variable(FILE *out, const char *name, const char *text)
{
    fprintf(out, "%s = ", name);
    put_quoted(out, text);
    fputc('\n', out);
}

void put_real(FILE *out, const char *name, double value)
{
    char text[32];
    fprintf(out, "%s = real(%s)\n", name, format_number(text, sizeof text, value));
}

struct plot_unit plot_unit_for(const char *unit, double most)
{
    static const struct {
        const char *base;
        double from;              /* values of at least this much have this unit; the last that fits */
        struct plot_unit unit;
    } table[] = {
        { "bytes", 0, { 1024.0, "KiB" } },         { "bytes", 1048576.0, { 1048576.0, "MiB" } },
        { "bytes", 10 * 1073741824.0, { 1073741824.0, "GiB" } },
        { "ns", 0, { 1e3, "µs" } },                { "ns", 2e6, { 1e6, "ms" } },
        { "ns", 2e9, { 1e9, "s" } },               { "bytes/s", 0, { 1e6, "MB/s" } },
        { "bytes/s", 2e9, { 1e9, "GB/s" } },       { "flop/s", 0, { 1e6, "MFLOP/s" } },
        { "flop/s", 2e9, { 1e9, "GFLOP/s" } },     { "flop/s", 2e12, { 1e12, "TFLOP/s" } },
    };
    struct plot_unit chosen = { 1, unit };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(unit, table[i].base) == 0 && most >= table[i].from)
            chosen = table[i].unit;
    }
    return chosen;
}

/* ---- cases and their labels ---- */

static const struct fact *find_dimension(const struct result_case *c, const char *name)
{
    const struct fact *fact = facts_find(&c->parameters, name);
    return fact ? fact : facts_find(&c->arguments, name);
}

double plot_dimension(const struct result_case *c, const char *name)
{
    const struct fact *fact = find_dimension(c, name);
    struct plim_err ignored = PLIM_ERR_INIT;
    int64_t count;
    char *end;
    if (!fact)
        return NAN;
    if (!fact->text)
        return fact->number;
    if (plim_parse_count(fact->text, &count, &ignored) == 0)
        return (double)count;
    double number = strtod(fact->text, &end);
    return end != fact->text && !*end ? number : NAN;
}

const char *plot_dimension_unit(const char *name)
{
    enum plim_parameter parameter;
    struct plim_err ignored = PLIM_ERR_INIT;
    return plim_parameter_find(name, &parameter, &ignored) == 0 ? plim_parameter_row(parameter)->unit : "";
}

/* The entry's name inside a case id, MODEL/NAME/SWEPT. */
static void entry_name(const struct result_case *c, char *out, size_t size)
{
    const char *from = c->id;
    size_t model_length = c->model ? strlen(c->model) : 0;
    if (model_length && strncmp(from, c->model, model_length) == 0 && from[model_length] == '/')
        from += model_length + 1;
    snprintf(out, size, "%.*s", (int)strcspn(from, "/"), from);
}

/* "llama3-8b", "chunked", "low_mem off", "prompt_tokens 512": the value, with a name where it says nothing alone. */
static void dimension_label(const struct result_case *c, const char *name, char *out, size_t size)
{
    const struct fact *fact = find_dimension(c, name);
    char number[32];
    const char *value = fact && fact->text ? fact->text : fact ? format_number(number, sizeof number, fact->number) : "-";
    bool is_word = isalpha((unsigned char)value[0]) && strcmp(value, "on") != 0 && strcmp(value, "off") != 0 &&
                   strcmp(value, "none") != 0;
    if (strcmp(name, "model") == 0)
        snprintf(out, size, "%s", c->model ? c->model : "");
    else if (strcmp(name, "case") == 0)
        entry_name(c, out, size);
    else if (is_word)
        snprintf(out, size, "%s", value);
    else
        snprintf(out, size, "%s %s", name, value);
}

static void append(char *out, size_t size, const char *text)
{
    size_t used = strlen(out);
    snprintf(out + used, size - used, "%s%s", used && *text ? ", " : "", text);
}

static bool has_own_engine(const struct plot_job *job, const struct result *result)
{
    for (size_t i = 0; i < job->result_count; i++)
        if (&job->results[i] != result && strcmp(result_engine(&job->results[i]), result_engine(result)) == 0)
            return false;
    return true;
}

/*
 * Several results in one plot are told apart by their engines, or, where two are of one engine, by their files' names:
 * "results/before.json" -> "before".
 */
static void result_label(const struct plot_job *job, const struct result *result, char *out, size_t size)
{
    if (has_own_engine(job, result)) {
        snprintf(out, size, "%s", result_engine(result));
        return;
    }
    const char *path = result->path ? result->path : "", *slash = strrchr(path, '/');
    const char *base = slash ? slash + 1 : path;
    size_t length = strlen(base);
    if (length > 5 && strcmp(base + length - 5, ".json") == 0)
        length -= 5;
    snprintf(out, size, "%.*s", (int)length, base);
}

/* The value of one dimension; the last one, with several results, is the result. */
static void dimension_of(const struct plot_job *job, const struct plot_case *item, size_t dimension, char *out,
                         size_t size)
{
    size_t named = 0;
    while (job->plot->series && job->plot->series[named])
        named++;
    if (dimension < named)
        dimension_label(item->c, job->plot->series[dimension], out, size);
    else
        result_label(job, &job->results[item->result], out, size);
}

static size_t dimension_count(const struct plot_job *job)
{
    size_t count = 0;
    while (job->plot->series && job->plot->series[count])
        count++;
    count += job->result_count > 1;
    return count < PLOT_DIMENSION_LIMIT ? count : PLOT_DIMENSION_LIMIT;
}

static void label_case(struct plot_case *item, const struct plot_job *job)
{
    char text[64];
    for (size_t d = 0, n = dimension_count(job); d < n; d++) {
        dimension_of(job, item, d, text, sizeof text);
        if (d == 0)
            snprintf(item->first, sizeof item->first, "%s", text);
        append(item->label, sizeof item->label, text);
    }
}

/* The label's part behind the first dimension. Set last: labels move while the list grows. */
static void set_rest(struct plot_case *item)
{
    item->rest = item->label + strlen(item->first);
    item->rest += strspn(item->rest, ", ");
}

/* A value's rank is the position of the first case that has it. */
static void rank_cases(struct plot_cases *cases, const struct plot_job *job)
{
    char mine[64], other[64];
    for (size_t d = 0, n = dimension_count(job); d < n; d++) {
        for (size_t i = 0; i < cases->count; i++) {
            size_t k = 0;
            dimension_of(job, &cases->items[i], d, mine, sizeof mine);
            do {
                dimension_of(job, &cases->items[k], d, other, sizeof other);
            } while (strcmp(mine, other) != 0 && ++k < i);
            cases->items[i].ranks[d] = k;
        }
    }
}

static int by_ranks(const void *a, const void *b)
{
    const struct plot_case *x = a, *y = b;
    for (size_t d = 0; d < PLOT_DIMENSION_LIMIT; d++) {
        if (x->ranks[d] != y->ranks[d])
            return x->ranks[d] < y->ranks[d] ? -1 : 1;
    }
    return strcmp(x->c->id, y->c->id);
}

int plot_cases_find(struct plot_cases *cases, const struct plot_job *job, struct plim_err *err)
{
    for (size_t r = 0; r < job->result_count; r++) {
        for (size_t i = 0; i < job->results[r].case_count; i++) {
            const struct result_case *c = &job->results[r].cases[i];
            if (fnmatch(job->plot->cases, c->id, 0) != 0)
                continue;
            struct plot_case *items = heap_room(cases->items, cases->count, sizeof *items, err);
            if (!items)
                return -1;
            cases->items = items;
            items[cases->count].c = c;
            items[cases->count].result = r;
            label_case(&items[cases->count], job);
            cases->count++;
        }
    }
    rank_cases(cases, job);
    if (cases->count)
        qsort(cases->items, cases->count, sizeof *cases->items, by_ranks);
    for (size_t i = 0; i < cases->count; i++)
        set_rest(&cases->items[i]);
    return 0;
}

/* ---- script and data ---- */

int plot_streams_open(struct plot_streams *streams, struct plot_text *text, struct plim_err *err)
{
    streams->data = open_memstream(&text->data, &streams->data_bytes);
    streams->preamble = open_memstream(&text->preamble, &streams->preamble_bytes);
    if (!streams->data || !streams->preamble)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for a plot");
    return 0;
}

int plot_streams_close(struct plot_streams *streams, struct plim_err *err)
{
    bool data_written = streams->data && fclose(streams->data) == 0;
    bool preamble_written = streams->preamble && fclose(streams->preamble) == 0;
    if (!data_written || !preamble_written)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for a plot");
    return 0;
}

char *plot_read_style(const char *file, struct plim_err *err)
{
    static const char *const folders[] = { "tools/gnuplot", "gnuplot" };
    char *text = NULL, *path = NULL;
    size_t length;
    for (size_t i = 0; i < 2; i++) {
        char *relative = heap_printf(err, "%s/%s", folders[i], file);
        free(path);
        path = relative ? share_locate(relative, err) : NULL;
        free(relative);
        if (!path)
            return NULL;
        if (plim_path_exists(path))
            break;
    }
    if (plim_read_file(path, 1 << 20, &text, &length, err) < 0)
        plim_err_wrap(err, "reading the plot style");
    free(path);
    return text;
}

static const char *text_fact(const struct facts *facts, const char *name)
{
    const struct fact *fact = facts_find(facts, name);
    return fact && fact->text ? fact->text : "";
}

/* Whether what is drawn ran on the GPU: then that is the machine, and the processor only its host. */
static bool ran_on_gpu(const struct plot_cases *cases)
{
    for (size_t i = 0; i < cases->count; i++)
        if (strcmp(text_fact(&cases->items[i].c->parameters, "backend"), "cuda") == 0)
            return true;
    return false;
}

/* "AMD EPYC 7763, 2 cores, avx2, OpenBLAS core Haswell" */
static void describe_machine(const struct plot_job *job, const struct plot_cases *cases, char *out, size_t size)
{
    const struct result *result = &job->results[0];
    const struct fact *cores = facts_find(&result->machine, "cores");
    const char *core = text_fact(&result->machine, "blas_core"), *cpu = text_fact(&result->machine, "cpu_model");
    char text[96];
    for (size_t i = 1; i < job->result_count; i++) {
        if (strcmp(job->results[i].machine_class, result->machine_class) != 0) {
            snprintf(out, size, "several machines");
            return;
        }
    }
    if (ran_on_gpu(cases) && *text_fact(&result->machine, "gpu")) {
        snprintf(out, size, "%s, CUDA %s", text_fact(&result->machine, "gpu"), text_fact(&result->machine, "cuda_runtime"));
        return;
    }
    snprintf(out, size, "%s", *cpu ? cpu : result->machine_class);
    if (cores && !cores->text) {
        snprintf(text, sizeof text, "%.0f core%s", cores->number, cores->number == 1 ? "" : "s");
        append(out, size, text);
    }
    append(out, size, text_fact(&result->machine, "isa"));
    if (*core) {
        snprintf(text, sizeof text, "OpenBLAS core %s", core);
        append(out, size, text);
    }
}

static void put_heading(FILE *out, const struct plot_job *job, const struct plot_cases *cases, const char *name)
{
    char machine[400], subtitle[800] = "";
    describe_machine(job, cases, machine, sizeof machine);
    for (size_t i = 0; i < cases->count; i++) {   /* each model once */
        size_t k = 0;
        while (k < i && strcmp(cases->items[k].c->model, cases->items[i].c->model) != 0)
            k++;
        if (k == i && strlen(subtitle) < 200)
            append(subtitle, sizeof subtitle, cases->items[i].c->model);
    }
    size_t used = strlen(subtitle);
    snprintf(subtitle + used, sizeof subtitle - used, "%s%s   (%.10s)", used ? "   on   " : "", machine,
             job->results[0].started_utc);
    fprintf(out, "# Drawn by plimsoll plot. To redraw, in this directory: gnuplot %s.gp\n\n", name);
    put_variable(out, "name", name);
    fprintf(out, "data = name . '.tsv'\n");
    put_variable(out, "formats", job->formats);
    put_variable(out, "title", job->plot->title);
    put_variable(out, "subtitle", subtitle);
}

static int write_script(const struct plot_job *job, const struct plot_cases *cases, const struct plot_text *text,
                        const char *name, const char *path, struct plim_err *err)
{
    char *style = plot_read_style("style.gp", err), *own = style ? plot_read_style(text->style, err) : NULL, *script = NULL;
    size_t bytes = 0;
    int rc = -1;
    FILE *out = own ? open_memstream(&script, &bytes) : NULL;
    if (out) {
        put_heading(out, job, cases, name);
        fprintf(out, "%s\n# ---- style.gp\n\n%s\n# ---- %s\n\n%s", text->preamble, style, text->style, own);
        if (fclose(out) == 0)
            rc = plim_write_file(path, script, bytes, err);
        else
            plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for a plot");
    } else if (own) {
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for a plot");
    }
    free(script);
    free(own);
    free(style);
    return rc;
}

static int write_files(const struct plot_job *job, const struct plot_cases *cases, const struct plot_text *text,
                       const char *name, struct plim_err *err)
{
    char *data_path = heap_printf(err, "%s/%s.tsv", job->directory, name);
    char *script_path = data_path ? heap_printf(err, "%s/%s.gp", job->directory, name) : NULL;
    int rc = script_path ? plim_write_file(data_path, text->data, strlen(text->data), err) : -1;
    if (rc == 0)
        rc = write_script(job, cases, text, name, script_path, err);
    free(data_path);
    free(script_path);
    return rc;
}

static int draw(const struct plot_job *job, const struct plot_cases *cases, struct plot_text *text, struct plim_err *err)
{
    switch (job->plot->kind) {
    case PLOT_CURVE:
        return plot_curve(job, cases, text, err);
    case PLOT_BARS:
        return plot_metric_bars(job, cases, text, err);
    case PLOT_TAG_BARS:
        break;
    }
    return plot_tag_bars(job, cases, text, err);
}

int plot_write(const struct plot_job *job, char **name, struct plim_err *err)
{
    struct plot_cases cases = { 0 };
    struct plot_text text = { 0 };
    int rc = -1;

    *name = NULL;
    if (plot_cases_find(&cases, job, err) < 0)
        goto out;
    rc = draw(job, &cases, &text, err);
    if (rc < 0 || !text.data)
        goto out;
    *name = heap_printf(err, "%s-%s", job->results[0].suite_name, job->plot->name);
    rc = *name ? write_files(job, &cases, &text, *name, err) : -1;

out:
    if (rc < 0) {
        plim_err_wrap(err, "plot %s", job->plot->name);
        free(*name);
        *name = NULL;
    }
    free(text.data);
    free(text.preamble);
    free(cases.items);
    return rc;
}

/* ---- gnuplot ---- */

/* The first words that it says, for an error message. */
static void read_words(int fd, char *words, size_t size)
{
    char rest[512];
    size_t used = 0;
    ssize_t got;
    while (used + 1 < size && (got = read(fd, words + used, size - 1 - used)) > 0)
        used += (size_t)got;
    words[used] = '\0';
    while (read(fd, rest, sizeof rest) > 0)   /* so that it does not block on a full pipe */
        ;
}

int plot_draw(const char *directory, const char *name, struct plim_err *err)
{
    struct plim_process process = { 0 };
    struct plim_process_exit status = { 0 };
    char *there = realpath(directory, NULL), words[600] = "", quoted[2 * 4096];
    char *script = heap_printf(err, "%s.gp", name), *go_there = NULL;
    int rc = -1;

    if (!there) {
        plim_err_errno(err, "opening %s", directory);
        goto out;
    }
    FILE *out = fmemopen(quoted, sizeof quoted, "w");
    if (!script || !out)
        goto out;
    put_quoted(out, there);
    fclose(out);
    go_there = heap_printf(err, "cd %s", quoted);
    if (!go_there)
        goto out;

    /* env finds it in PATH, and says 127 when it isn't there. */
    const char *argv[] = { "/usr/bin/env", "gnuplot", "-e", go_there, script, NULL };
    struct plim_process_options options = { .argv = argv };
    if (plim_process_start(&process, &options, err) < 0)
        goto out;
    read_words(process.errors_of_child, words, sizeof words);
    if (plim_process_wait(&process, &status, err) < 0)
        goto out;
    if (!status.signaled && status.status == 127)
        plim_err_set(err, PLIM_ERR_SYSTEM,
                     "gnuplot is not installed (Debian, Ubuntu: apt install gnuplot-nox); %s/%s is ready for it", directory,
                     script);
    else if (status.signaled || status.status != 0)
        plim_err_set(err, PLIM_ERR_SYSTEM, "gnuplot could not draw %s/%s: %s", directory, script, words);
    else
        rc = 0;

out:
    plim_process_release(&process);
    free(there);
    free(script);
    free(go_there);
    return rc;
}
