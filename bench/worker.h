#ifndef PLIM_WORKER_H
#define PLIM_WORKER_H

/*
 * The worker: the process that touches the engine. It reads one request (protocol.h) from `input`, does what it says,
 * and writes messages to `output` as it goes, so that what was measured before a crash or a time limit is not lost.
 */

/*
 * Returns the process's exit status: 0 when a last message (done or error) was sent, 1 when that was not possible.
 * `input` and `output` are file descriptors and stay open.
 */
int worker_serve(int input, int output);

#endif
