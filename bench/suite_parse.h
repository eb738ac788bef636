#ifndef PLIM_SUITE_PARSE_H
#define PLIM_SUITE_PARSE_H

/* Between the files that read a suite; nobody else includes this. */

#include "plimsoll/json.h"
#include "suite.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* A scalar as text: strings as they are, numbers in their shortest form, true and false as "on" and "off". */
int json_scalar_text(struct plim_json value, char *buffer, size_t size, struct plim_err *err);

/* A list of strings (one string stands for a list of one), NULL-terminated, all owned. */
int json_string_list(struct plim_json value, char ***out, struct plim_err *err);
void string_list_release(char ***list);

/* A string that may become part of a path or an id. */
int json_plain_name(struct plim_json value, const char **out, struct plim_err *err);

/* Puts "document: path: " before an error that came from a value. Always -1. */
int json_wrap(struct plim_json value, struct plim_err *err);

int suite_parse_models(struct suite *suite, struct plim_json models, struct plim_err *err);
int suite_parse_cases(struct suite *suite, struct plim_json root, struct plim_err *err);
int suite_parse_plots(struct suite *suite, struct plim_json plots, struct plim_err *err);

void suite_case_release(struct suite_case *c);

/* What an entry of "cases" says before its sweep is expanded; "defaults" fills one in first. */
struct case_template {
    struct plim_parameters parameters;
    int repeats, warmup;
    double timeout_s;
    struct suite_gates gates;
    const struct workload *workload;   /* NULL in the defaults */
    struct facts arguments;
};

/* parameters, repeats, warmup, timeout_s, gate: the keys that defaults and cases share. */
int template_parse_common(struct case_template *template, struct plim_json object, struct plim_err *err);
void template_release(struct case_template *template);
int gates_copy(struct suite_gates *to, const struct suite_gates *from, struct plim_err *err);
void gates_release(struct suite_gates *gates);

/* Sets a parameter or one of the workload's arguments. */
int template_set(struct case_template *template, const char *name, const char *text, struct plim_err *err);

/* Text that template_set makes the same value of, in one way only: "1048576" and "1Mi" become "1Mi". */
int template_canonical(const struct case_template *template, const char *name, const char *text, char *buffer,
                       size_t size, struct plim_err *err);

/* Refuses a name that is neither a parameter nor an argument of the workload, with the nearest that is. */
int template_check_name(const struct case_template *template, struct plim_json where, const char *name,
                        struct plim_err *err);

struct setting {
    char *name;
    char *value;        /* canonical */
};

/* One choice of all swept values, sorted by name. */
struct combination {
    struct setting *items;
    size_t count;
    bool excluded;
};

struct combinations {
    struct combination *items;
    size_t count;
};

/*
 * Expands "sweep", "exclude" and "include" of a case entry for one of its models (NULL: none). An entry without any of
 * them gives the one empty combination.
 */
int sweep_expand(const struct case_template *template, const char *model, struct plim_json entry,
                 struct combinations *out, struct plim_err *err);
void combinations_release(struct combinations *combinations);

#endif
