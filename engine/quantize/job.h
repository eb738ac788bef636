#ifndef PLIM_JOB_H
#define PLIM_JOB_H

/*
 * The job directory: one file for each finished step, written beside its name and renamed into place, so that whatever
 * kills the process leaves steps that are either done or not begun.
 *
 *     lock                       held by the process that works on the job
 *     job.json                   what the job is: model, calibration, options. Another one is refused
 *     measure-00003.json         errors and sizes of every option of block 3 (layer 1, MLP)
 *     variant-00003.bin          what block 3 quantised makes of the states (sensitivity.c), until all are measured
 *     sensitivity.json           the divergence of each
 *     states-measure-00012.bin   the calibration states before block 12, saved every few minutes (checkpoint.h)
 *     measurement.json           all of them, in ExLlamaV2's own format
 *     allocation.json            the option of each block
 *     module-00003.safetensors   block 3 quantised; the last one is the head
 *     module-00003.json          its error, sizes, times
 *     modules.json               all of them
 */

#include <stdbool.h>
#include <stddef.h>

#include <cjson/cJSON.h>

#include "plimsoll/err.h"

#define JOB_PATH_BYTES 4096

struct job {
    char directory[JOB_PATH_BYTES - 64];
    int lock;                 /* file descriptor; -1: not open */
    bool resumed;             /* job.json was there */
};

/* Makes the directory and takes its lock; removes what killed runs left half-written. Start from { .lock = -1 }. */
int job_open(struct job *job, const char *directory, struct plim_err *err);
void job_close(struct job *job);

/* Compares job.json with `identity` (an object of plain values), or writes it. */
int job_identify(struct job *job, const cJSON *identity, struct plim_err *err);

/* "DIRECTORY/name" */
void job_path(const struct job *job, const char *name, char path[JOB_PATH_BYTES]);
bool job_has(const struct job *job, const char *name);

/* Reads or writes one of the job's JSON files. The caller owns the tree either way. */
int job_read(const struct job *job, const char *name, cJSON **root, struct plim_err *err);
int job_write(const struct job *job, const char *name, const cJSON *root, struct plim_err *err);

/* Removes NAME.PID.N.tmp, the names of unfinished atomic files, from a directory. */
void remove_temporaries(const char *directory);

/* Whether a directory is not there or holds nothing that a user would miss. */
bool directory_is_empty(const char *directory);

/* A cJSON call that returned NULL. */
int json_memory(struct plim_err *err);

#endif
