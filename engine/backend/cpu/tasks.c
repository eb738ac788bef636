#include "tasks.h"

#include <stdatomic.h>

#include "blas.h"
#include "plimsoll/units.h"
#include "threads.h"

struct task_queue {
    atomic_size_t next;
    size_t count;
    cpu_task *run;
    void *context;
};

static void take_tasks(void *context, size_t begin, size_t end, int thread)
{
    struct task_queue *queue = context;
    (void)begin;
    (void)end;
    (void)thread;
    for (;;) {
        size_t task = atomic_fetch_add_explicit(&queue->next, 1, memory_order_relaxed);
        if (task >= queue->count)
            return;
        queue->run(queue->context, task);
    }
}

void cpu_run_tasks(struct backend *backend, size_t count, cpu_task *run, void *context)
{
    struct task_queue queue = { .count = count, .run = run, .context = context };
    size_t threads = (size_t)threads_count(backend->threads);
    int token = blas_serial_begin();

    atomic_init(&queue.next, 0);
    threads_run(backend->threads, plim_min(threads, count), 1, take_tasks, &queue);
    blas_serial_end(token);
}
