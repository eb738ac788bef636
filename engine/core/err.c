#include "plimsoll/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int set_va(struct plim_err *err, enum plim_err_kind kind, const char *suffix, const char *format, va_list args)
{
    if (err->kind != PLIM_ERR_NONE)
        return -1;
    err->kind = kind;
    int used = vsnprintf(err->message, sizeof err->message, format, args);
    size_t length = used < 0 ? 0 : (size_t)used;
    if (suffix && length < sizeof err->message)
        length += (size_t)snprintf(err->message + length, sizeof err->message - length, ": %s", suffix);
    if (length >= sizeof err->message)
        memcpy(err->message + sizeof err->message - 4, "...", 4);
    for (char *c = err->message; *c; c++) {
        if (*c == '\n' || *c == '\r')
            *c = ' ';
    }
    return -1;
}

int plim_err_set(struct plim_err *err, enum plim_err_kind kind, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int rc = set_va(err, kind, NULL, format, args);
    va_end(args);
    return rc;
}

int plim_err_input(struct plim_err *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int rc = set_va(err, PLIM_ERR_INPUT, NULL, format, args);
    va_end(args);
    return rc;
}

int plim_err_errno(struct plim_err *err, const char *format, ...)
{
    int saved_errno = errno;
    va_list args;
    va_start(args, format);
    int rc = set_va(err, PLIM_ERR_SYSTEM, strerror(saved_errno), format, args);
    va_end(args);
    return rc;
}

int plim_err_wrap(struct plim_err *err, const char *format, ...)
{
    if (err->kind == PLIM_ERR_NONE)
        return -1;
    struct plim_err inner = *err;
    err->kind = PLIM_ERR_NONE;
    va_list args;
    va_start(args, format);
    int rc = set_va(err, inner.kind, inner.message, format, args);
    va_end(args);
    return rc;
}

void plim_err_clear(struct plim_err *err)
{
    err->kind = PLIM_ERR_NONE;
    err->message[0] = '\0';
}

int plim_err_exit_status(const struct plim_err *err)
{
    switch (err->kind) {
    case PLIM_ERR_NONE:
        return 0;
    case PLIM_ERR_INPUT:
        return 2;
    case PLIM_ERR_COMPARE:
        return 3;
    case PLIM_ERR_SYSTEM:
    case PLIM_ERR_MEMORY:
    case PLIM_ERR_INTERRUPTED:
    case PLIM_ERR_INTERNAL:
        return 1;
    }
    return 1;
}

const char *plim_err_kind_name(enum plim_err_kind kind)
{
    switch (kind) {
    case PLIM_ERR_NONE:
        return "none";
    case PLIM_ERR_INPUT:
        return "input";
    case PLIM_ERR_SYSTEM:
        return "system";
    case PLIM_ERR_MEMORY:
        return "memory";
    case PLIM_ERR_COMPARE:
        return "compare";
    case PLIM_ERR_INTERRUPTED:
        return "interrupted";
    case PLIM_ERR_INTERNAL:
        return "internal";
    }
    return "unknown";
}
