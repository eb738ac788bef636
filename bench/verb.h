#ifndef PLIM_VERB_H
#define PLIM_VERB_H

/*
 * The program's verbs. Each lives in a file verb_NAME.c, parses its own arguments with argp, and returns the program's
 * exit status (README, 'Exit status'). Adding a verb is adding a row to the table in main.c.
 */

struct verb {
    const char *name;
    const char *summary;   /* one line for `plimsoll --help`; NULL hides the verb */
    int (*run)(int argc, char **argv);   /* argv[0] is "plimsoll NAME" */
};

int verb_ab(int argc, char **argv);
int verb_baseline(int argc, char **argv);
int verb_bisect(int argc, char **argv);
int verb_compare(int argc, char **argv);
int verb_frontier(int argc, char **argv);
int verb_gate(int argc, char **argv);
int verb_generate(int argc, char **argv);
int verb_history(int argc, char **argv);
int verb_logits(int argc, char **argv);
int verb_machine(int argc, char **argv);
int verb_memory(int argc, char **argv);
int verb_model(int argc, char **argv);
int verb_parameters(int argc, char **argv);
int verb_perplexity(int argc, char **argv);
int verb_plan(int argc, char **argv);
int verb_plot(int argc, char **argv);
int verb_quantize(int argc, char **argv);
int verb_report(int argc, char **argv);
int verb_run(int argc, char **argv);
int verb_selftest(int argc, char **argv);
int verb_threshold(int argc, char **argv);
int verb_worker(int argc, char **argv);

#endif
