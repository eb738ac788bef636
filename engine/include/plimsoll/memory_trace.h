#ifndef PLIMSOLL_MEMORY_TRACE_H
#define PLIMSOLL_MEMORY_TRACE_H

/*
 * The file that plim_pool_trace_start writes: every change of requested bytes, in order, with who made it.
 *
 *     magic     8 bytes, "PLIMTRC1"
 *     tags      varint count, then the tags' names, each varint length and bytes
 *     records   until the end of the file, each one byte and its fields:
 *
 *       0x00 END      time                          a file without it was cut off; what there is, is right
 *       0x01 SCOPE    length, bytes                 names the next scope; they count from 1, scope 0 is ""
 *       0x02 SITE     length, bytes                 names the next site; they count from 1, site 0 is ""
 *       0x03 ORIGIN   scope, site                   the next origin, counted from 1; origin 0 is "held before the trace"
 *       0x04 ENTER    time, scope                   the program is in that scope from now on
 *       0x05 HELD     tier and tag, bytes           what was held when the trace began; comes before any change
 *       0x80 CHANGE   time, origin, bytes           0x80 | tier << 6 | tag
 *
 * Numbers are varints: 7 bits a byte, the lowest first, the high bit set on all but the last. `time` is nanoseconds since
 * the record with a time before it; the bytes of a change are signed, zigzag-coded (0, -1, 1, -2, ...). A release has the
 * origin of the allocation that it undoes, so the sum over one origin is what that place holds. A change takes some 8
 * bytes in the file.
 *
 * weights_mapped is recorded like the others but takes no part in a tier's total, as in the pool.
 */

#define PLIM_TRACE_MAGIC "PLIMTRC1"
#define PLIM_TRACE_MAGIC_BYTES 8

enum plim_trace_record {
    PLIM_TRACE_END = 0x00,
    PLIM_TRACE_SCOPE = 0x01,
    PLIM_TRACE_SITE = 0x02,
    PLIM_TRACE_ORIGIN = 0x03,
    PLIM_TRACE_ENTER = 0x04,
    PLIM_TRACE_HELD = 0x05,
    PLIM_TRACE_CHANGE = 0x80
};

/* Tier and tag in one byte: one bit, six bits. */
#define PLIM_TRACE_TIER_SHIFT 6
#define PLIM_TRACE_TAG_MASK 0x3f

#endif
