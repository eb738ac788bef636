#include "plimsoll/cpu.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/json.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const isa_names[PLIM_ISA_COUNT + 1] = { "portable", "avx2", "avx512", NULL };

const char *plim_isa_name(enum plim_isa isa)
{
    return isa_names[isa];
}

/* The builtins ask both the processor and, through XGETBV, whether the system saves the registers. */
bool plim_isa_supported(enum plim_isa isa)
{
    if (isa == PLIM_ISA_PORTABLE)
        return true;
#if defined(__x86_64__)
    __builtin_cpu_init();
    unsigned eax, ebx, ecx = 0, edx;
    bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);   /* no builtin has it in clang 14 */
    bool avx2 = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == PLIM_ISA_AVX2)
        return avx2;
    if (isa == PLIM_ISA_AVX512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512vnni");
#endif
    return false;
}

int plim_isa_select(enum plim_isa *out, struct plim_err *err)
{
    const char *wanted = getenv("PLIMSOLL_ISA");
    if (!wanted || !*wanted) {
        *out = PLIM_ISA_COUNT - 1;
        while (!plim_isa_supported(*out))
            (*out)--;
        return 0;
    }
    for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
        if (strcmp(wanted, isa_names[isa]) != 0)
            continue;
        if (!plim_isa_supported(isa))
            return plim_err_input(err, "PLIMSOLL_ISA=%s: this processor does not support it", wanted);
        *out = isa;
        return 0;
    }
    const char *nearest = plim_nearest_name(wanted, isa_names);
    if (nearest)
        return plim_err_input(err, "PLIMSOLL_ISA=%.60s: unknown; did you mean %s?", wanted, nearest);
    return plim_err_input(err, "PLIMSOLL_ISA=%.60s: unknown; use portable, avx2 or avx512", wanted);
}

void plim_cpu_brand(char *buffer, size_t size)
{
    char brand[49] = "unknown processor";
#if defined(__x86_64__)
    unsigned words[12];
    bool known = (unsigned)__get_cpuid_max(0x80000000u, NULL) >= 0x80000004u;
    for (unsigned i = 0; known && i < 3; i++)
        __cpuid(0x80000002u + i, words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
    if (known) {
        memcpy(brand, words, sizeof words);
        brand[48] = '\0';
    }
#endif
    /* Vendors pad with spaces on either side, and some in the middle. */
    size_t length = 0;
    if (size == 0)
        return;
    for (const char *c = brand; *c && length + 1 < size; c++) {
        if (*c == ' ' && (length == 0 || buffer[length - 1] == ' '))
            continue;
        buffer[length++] = *c;
    }
    while (length > 0 && buffer[length - 1] == ' ')
        length--;
    buffer[length] = '\0';
}

/* A container's share of processor time, in whole cores, from cgroup v2's "quota period"; 0 when there is no limit. */
static int cgroup_core_limit(void)
{
    long long quota = 0, period = 0;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!file)
        return 0;
    bool limited = fscanf(file, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0;
    fclose(file);
    return limited ? (int)((quota + period - 1) / period) : 0;
}

int plim_cpu_core_count(void)
{
    /* The affinity mask of the largest machines has more bits than cpu_set_t. */
    int cores = 1;
    for (size_t capacity = 1024; capacity <= 65536; capacity *= 8) {
        cpu_set_t *set = CPU_ALLOC(capacity);
        size_t bytes = CPU_ALLOC_SIZE(capacity);
        if (!set)
            break;
        bool fits = sched_getaffinity(0, bytes, set) == 0;
        if (fits)
            cores = CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
        if (fits)
            break;
    }
    int limit = cgroup_core_limit();
    return limit > 0 && limit < cores ? limit : cores;
}
