#include <stdlib.h>
#include <string.h>

#include "executor.h"
#include "heap.h"

void conversation_release(struct conversation *conversation)
{
    free(conversation->text);
    free(conversation->progress);
    *conversation = (struct conversation){ 0 };
}

int report_add_metric(struct result_case *report, const struct metric *metric, struct plim_err *err)
{
    struct metric *known = case_find_metric(report, metric->name);

    if (!known) {
        known = case_add_metric(report, metric->name, metric->unit, metric->class, metric->direction, err);
        if (!known)
            return -1;
    } else if (strcmp(known->unit, metric->unit) != 0 || known->class != metric->class ||
               known->direction != metric->direction) {
        return plim_err_input(err, "metric %s changed its unit, class or direction", metric->name);
    }
    for (size_t i = 0; i < metric->sample_count; i++)
        if (metric_add_sample(known, metric->samples[i], err) < 0)
            return -1;
    for (size_t i = 0; i < metric->texts.count; i++) {
        const struct fact *text = &metric->texts.items[i], *before = facts_find(&known->texts, text->name);

        if (before && strcmp(before->text, text->text) != 0)
            return plim_err_input(err, "nondeterministic: %s is %s and then %s", metric->name, before->text,
                                  text->text);
        if (metric_set_text(known, text->text, text->name, err) < 0)
            return -1;
    }
    return 0;
}

int report_check_exact(const struct result_case *report, struct plim_err *err)
{
    for (size_t i = 0; i < report->metric_count; i++) {
        const struct metric *metric = &report->metrics[i];
        char first[40], other[40];

        for (size_t k = 1; metric->class == METRIC_EXACT && k < metric->sample_count; k++)
            if (metric->samples[k] != metric->samples[0])
                return plim_err_input(err, "nondeterministic: %s is %s and then %s", metric->name,
                                      format_number(first, sizeof first, metric->samples[0]),
                                      format_number(other, sizeof other, metric->samples[k]));
    }
    return 0;
}

static int merge_facts(struct facts *to, const struct facts *from, struct plim_err *err)
{
    for (size_t i = 0; i < from->count; i++) {
        const struct fact *fact = &from->items[i];

        if ((fact->text ? facts_set_text(to, fact->name, fact->text, err)
                        : facts_set_number(to, fact->name, fact->number, err)) < 0)
            return -1;
    }
    return 0;
}

static int take_facts(struct conversation *conversation, const struct message *message, struct plim_err *err)
{
    struct facts *to = NULL;

    if (message->section == SECTION_REFUSAL && conversation->report)
        to = &conversation->report->refusal;
    if (message->section == SECTION_MACHINE && conversation->machine)
        to = &conversation->machine->machine;
    if (message->section == SECTION_RECORDED && conversation->machine)
        to = &conversation->machine->recorded;
    if (message->section == SECTION_YARDSTICKS && conversation->machine)
        to = &conversation->machine->yardsticks;
    return to ? merge_facts(to, &message->facts, err) : plim_err_input(err, "facts that nobody asked for");
}

static void take_string(char **to, char **from)
{
    free(*to);
    *to = *from;
    *from = NULL;
}

static int take_message(struct conversation *conversation, struct message *message, struct plim_err *err)
{
    if (conversation->greeted != (message->kind != MESSAGE_HELLO))
        return plim_err_input(err, conversation->greeted ? "a second hello" : "the first message is no hello");
    if (conversation->ended)
        return plim_err_input(err, "a message after the last one");
    switch (message->kind) {
    case MESSAGE_HELLO:
        conversation->greeted = true;
        return 0;
    case MESSAGE_PROGRESS:
        conversation->done = message->done;
        conversation->total = message->total;
        take_string(&conversation->progress, &message->text);
        return 0;
    case MESSAGE_METRIC:
        if (!conversation->report)
            return plim_err_input(err, "a metric that nobody asked for");
        return report_add_metric(conversation->report, &message->metric, err);
    case MESSAGE_FACTS:
        return take_facts(conversation, message, err);
    case MESSAGE_ERROR:
        conversation->ended = conversation->failed = true;
        conversation->error = message->error;
        take_string(&conversation->text, &message->text);
        return 0;
    case MESSAGE_DONE:
        conversation->ended = true;
        conversation->work_ns = message->work_ns;
        return 0;
    }
    return -1;
}

int conversation_line(struct conversation *conversation, const char *line, size_t length, struct plim_err *err)
{
    struct message message;
    int rc;

    if (message_parse(&message, line, length, err) < 0)
        return -1;
    rc = take_message(conversation, &message, err);
    message_release(&message);
    return rc;
}
