#include "plimsoll/units.h"

#include <stdio.h>
#include <string.h>

bool plim_size_mul(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

bool plim_size_add(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

/* ---- reading ---- */

/* mantissa * 10^exponent, as written. */
struct decimal {
    uint64_t mantissa;
    int exponent;
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Takes `digits[.digits][e[sign]digits]` from *text. False when it isn't there or has more than 19 digits. */
static bool take_decimal(const char **text, struct decimal *out)
{
    const char *c = *text;
    bool any = false, fraction = false;
    *out = (struct decimal){ 0 };
    for (; is_digit(*c) || (*c == '.' && !fraction); c++) {
        if (*c == '.') {
            fraction = true;
            continue;
        }
        any = true;
        if (out->mantissa > (UINT64_MAX - 9) / 10)
            return false;
        out->mantissa = out->mantissa * 10 + (uint64_t)(*c - '0');
        out->exponent -= fraction;
    }
    if (!any)
        return false;
    if (*c == 'e' || *c == 'E') {
        c++;
        bool negative = *c == '-';
        c += *c == '-' || *c == '+';
        if (!is_digit(*c))
            return false;
        int exponent = 0;
        for (; is_digit(*c); c++)
            exponent = exponent < 1000 ? exponent * 10 + (*c - '0') : exponent;
        out->exponent += negative ? -exponent : exponent;
    }
    *text = c;
    return true;
}

/* Takes a suffix (`Ki`, `M`, ...) and an optional B; the scale is 2^*binary * 10^*decimal. */
static void take_suffix(const char **text, int *binary, int *decimal)
{
    static const char letters[] = "KMGT";
    const char *found = **text ? strchr(letters, **text) : NULL;
    if (found) {
        int step = (int)(found - letters) + 1;
        (*text)++;
        if (**text == 'i') {
            (*text)++;
            *binary = 10 * step;
        } else {
            *decimal = 3 * step;
        }
    }
    if (**text == 'B')
        (*text)++;
}

/* mantissa * 2^binary * 10^exponent, if that is a whole number of at most INT64_MAX. */
static bool scale_exactly(uint64_t mantissa, int binary, int exponent, int64_t *out)
{
    unsigned __int128 value = (unsigned __int128)mantissa << binary;   /* < 2^104 */
    for (; value != 0 && exponent < 0; exponent++) {
        if (value % 10 != 0)
            return false;
        value /= 10;
    }
    for (; value != 0 && exponent > 0; exponent--) {
        if (value > INT64_MAX)
            return false;
        value *= 10;
    }
    if (value > INT64_MAX)
        return false;
    *out = (int64_t)value;
    return true;
}

int plim_parse_count(const char *text, int64_t *out, struct plim_err *err)
{
    const char *c = text;
    struct decimal number;
    int binary = 0, decimal = 0;
    if (!take_decimal(&c, &number))
        return plim_err_input(err, "\"%.60s\" is not a count; write it like 4096, 512Mi, 1.5Gi or 6e8", text);
    take_suffix(&c, &binary, &decimal);
    if (*c != '\0')
        return plim_err_input(err, "\"%.60s\" is not a count: \"%.20s\" is no suffix; use Ki, Mi, Gi, Ti, K, M, G or T",
                              text, c);
    if (!scale_exactly(number.mantissa, binary, number.exponent + decimal, out))
        return plim_err_input(err, "\"%.60s\" is not a whole number below 2^63", text);
    return 0;
}

/* ---- printing ---- */

/* Three digits that matter, without trailing zeros: 1.5, 13.4, 512. */
static void format_three_digits(char *buffer, size_t size, double value)
{
    int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
    int length = snprintf(buffer, size, "%.*f", decimals, value);
    if (decimals == 0 || length < 0 || (size_t)length >= size)
        return;
    while (buffer[length - 1] == '0')
        length--;
    if (buffer[length - 1] == '.')
        length--;
    buffer[length] = '\0';
}

/* Rounding may carry a value to 1024 of its unit; the limit below makes it 1 of the next instead. */
static int binary_unit(uint64_t n, double *scaled)
{
    int unit = 0;
    *scaled = (double)n;
    while (*scaled >= (unit == 0 ? 1024 : 1023.5) && unit < 6) {
        *scaled /= 1024;
        unit++;
    }
    return unit;
}

static char *format_binary(char *buffer, size_t size, uint64_t n, const char *const units[7])
{
    char number[16];
    double scaled;
    int unit = binary_unit(n, &scaled);
    format_three_digits(number, sizeof number, scaled);
    snprintf(buffer, size, "%s%s", number, units[unit]);
    return buffer;
}

char *plim_format_bytes(char *buffer, size_t size, uint64_t bytes)
{
    static const char *const units[7] = { " B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB" };
    return format_binary(buffer, size, bytes, units);
}

char *plim_format_count(char *buffer, size_t size, uint64_t count)
{
    static const char *const units[7] = { "", " Ki", " Mi", " Gi", " Ti", " Pi", " Ei" };
    return format_binary(buffer, size, count, units);
}

char *plim_format_duration(char *buffer, size_t size, uint64_t duration_ns)
{
    static const char *const units[4] = { "ns", "us", "ms", "s" };
    char number[32];
    double scaled = (double)duration_ns;
    int unit = 0;
    while (scaled >= (unit == 0 ? 1000 : 999.5) && unit < 3) {
        scaled /= 1000;
        unit++;
    }
    format_three_digits(number, sizeof number, scaled);
    snprintf(buffer, size, "%s %s", number, units[unit]);
    return buffer;
}
