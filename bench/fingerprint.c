#include "fingerprint.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <xxhash.h>

#include "gpu.h"
#include "heap.h"
#include "plimsoll/cpu.h"
#include "plimsoll/engine.h"
#include "version.h"
#include "yardstick.h"

/* ---- stable facts ---- */

/* Installed memory. The kernel keeps some per cent for itself, differently at every version: the next even GiB. */
static double ram_gib(void)
{
    double bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGE_SIZE);
    double pairs = bytes / (2.0 * 1024 * 1024 * 1024);

    return 2.0 * (double)(long long)(pairs + 0.999);
}

/* "6.18": patch releases don't make another machine. */
static void kernel_version(char *buffer, size_t size)
{
    struct utsname name;
    int major = 0, minor = 0;

    if (uname(&name) == 0 && sscanf(name.release, "%d.%d", &major, &minor) == 2)
        snprintf(buffer, size, "Linux %d.%d", major, minor);
    else
        snprintf(buffer, size, "unknown");
}

/* Virtual machines hide the model ("AMD EPYC"); family and model tell generations apart. */
static void cpu_family(char *buffer, size_t size)
{
    static const char *const wanted[] = { "cpu family", "model\t", "stepping" };
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];
    int values[3] = { 0 };

    while (file && fgets(line, sizeof line, file)) {
        for (int i = 0; i < 3; i++)
            if (strncmp(line, wanted[i], strlen(wanted[i])) == 0 && strchr(line, ':'))
                values[i] = atoi(strchr(line, ':') + 1);
        if (line[0] == '\n')
            break;
    }
    if (file)
        fclose(file);
    snprintf(buffer, size, "%d/%d/%d", values[0], values[1], values[2]);
}

int fingerprint_machine(struct facts *facts, struct plim_err *err)
{
    char brand[64], family[48], kernel[64], blas[256], core[64];
    enum plim_isa isa;

    if (plim_isa_select(&isa, err) < 0)
        return -1;
    plim_cpu_brand(brand, sizeof brand);
    cpu_family(family, sizeof family);
    kernel_version(kernel, sizeof kernel);
    plim_blas_describe(blas, sizeof blas, core, sizeof core);
    if (facts_set_text(facts, "cpu_model", brand, err) < 0 || facts_set_text(facts, "cpu_family", family, err) < 0 ||
        facts_set_text(facts, "isa", plim_isa_name(isa), err) < 0 ||
        facts_set_number(facts, "cores", plim_cpu_core_count(), err) < 0 ||
        facts_set_number(facts, "last_level_cache_bytes", (double)last_level_cache_bytes(), err) < 0 ||
        facts_set_number(facts, "ram_gib", ram_gib(), err) < 0 || facts_set_text(facts, "kernel", kernel, err) < 0 ||
        facts_set_text(facts, "compiler", plim_compiler, err) < 0 ||
        facts_set_text(facts, "compile_flags", plim_compile_flags, err) < 0 ||
        facts_set_text(facts, "build_type", plim_build_type, err) < 0 ||
        facts_set_text(facts, "blas", blas, err) < 0 || facts_set_text(facts, "blas_core", core, err) < 0)
        return -1;
    return gpu_facts(facts, err);
}

/* ---- recorded only ---- */

static double cpu_mhz(void)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];
    double mhz = 0;

    while (file && mhz == 0 && fgets(line, sizeof line, file))
        if (strncmp(line, "cpu MHz", 7) == 0 && strchr(line, ':'))
            mhz = strtod(strchr(line, ':') + 1, NULL);
    if (file)
        fclose(file);
    return mhz;
}

int fingerprint_recorded(struct facts *facts, struct plim_err *err)
{
    struct utsname name;
    double load = 0;
    const char *release = uname(&name) == 0 ? name.release : "unknown";
    const char *host = *release != 'u' ? name.nodename : "unknown";

    if (getloadavg(&load, 1) != 1)
        load = -1;
    if (facts_set_text(facts, "plimsoll_version", plim_version, err) < 0 ||
        facts_set_text(facts, "git_revision", plim_git_revision, err) < 0 ||
        facts_set_text(facts, "host", host, err) < 0 || facts_set_text(facts, "kernel_release", release, err) < 0 ||
        facts_set_number(facts, "load_average", load, err) < 0 || facts_set_number(facts, "cpu_mhz", cpu_mhz(), err) < 0)
        return -1;
    return gpu_recorded(facts, err);
}

/* ---- class ---- */

/* "AMD EPYC 7763 64-Core Processor" -> "amd-epyc-7763": lower case, joined by '-', without the words that say nothing. */
static void slug(const char *brand, char *buffer, size_t size)
{
    static const char *const noise[] = { "processor", "cpu", "core", "r", "tm", "gen", "with", "at", NULL };
    size_t used = 0;

    while (*brand && used + 1 < size) {
        char word[32];
        size_t length = 0;
        bool skip;

        while (*brand && !isalnum((unsigned char)*brand) && *brand != '@')
            brand++;
        if (*brand == '@')   /* "@ 2.20GHz" */
            break;
        while (isalnum((unsigned char)*brand)) {
            if (length + 1 < sizeof word)
                word[length++] = (char)tolower((unsigned char)*brand);
            brand++;
        }
        word[length] = '\0';
        skip = length == 0 || strncmp(brand, "-Core", 5) == 0;
        for (size_t i = 0; noise[i] && !skip; i++)
            skip = strcmp(word, noise[i]) == 0;
        if (skip || used + length + 2 > size)
            continue;
        used += (size_t)snprintf(buffer + used, size - used, "%s%s", used ? "-" : "", word);
    }
    buffer[used] = '\0';
}

char *fingerprint_class(const struct facts *machine, struct plim_err *err)
{
    const struct fact *brand = facts_find(machine, "cpu_model"), *isa = facts_find(machine, "isa");
    const struct fact *cores = facts_find(machine, "cores");
    XXH3_state_t *state = XXH3_createState();
    char name[40] = "";
    char *class;

    if (!state) {
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
        return NULL;
    }
    XXH3_64bits_reset(state);
    for (size_t i = 0; i < machine->count; i++) {
        char number[32];
        const char *text = machine->items[i].text;

        if (!text)
            text = format_number(number, sizeof number, machine->items[i].number);
        XXH3_64bits_update(state, machine->items[i].name, strlen(machine->items[i].name) + 1);
        XXH3_64bits_update(state, text, strlen(text) + 1);
    }
    slug(brand && brand->text ? brand->text : "", name, sizeof name);
    class = heap_printf(err, "%s-%dc-%s-%06llx", *name ? name : "unknown", cores ? (int)cores->number : 0,
                        isa && isa->text ? isa->text : "unknown",
                        (unsigned long long)(XXH3_64bits_digest(state) & 0xffffff));
    XXH3_freeState(state);
    return class;
}
