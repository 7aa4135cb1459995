/* SPDX-License-Identifier: MIT */
/* Strings, time and files: helpers of general use. Thread: any. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/text.h"

#define L7MP_ARRAY_SIZE(a)                   (sizeof(a) / sizeof((a)[0]))
#define l7mp_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/*
 * A growing string; zeroed is empty. When an allocation fails `oom` is set, and appends do nothing.
 */
struct l7mp_str {
	char *s;    /* terminated; NULL before the first append */
	size_t len; /* bytes without the terminator */
	size_t cap;
	int oom;
};
/* Frees the text and makes the string empty. */
void l7mp_str_free(struct l7mp_str *str);
/* Append a string, n bytes, or a printf format. */
void l7mp_str_add(struct l7mp_str *str, const char *text);
void l7mp_str_addn(struct l7mp_str *str, const void *bytes, size_t n);
void l7mp_str_addf(struct l7mp_str *str, const char *fmt, ...)
        __attribute__((format(printf, 2, 3)));
/* Appends text of unknown origin: each byte that is not UTF-8 becomes U+FFFD. */
void l7mp_str_add_utf8(struct l7mp_str *str, const void *bytes, size_t n);
/* Returns the text, which the caller frees, and empties the string. NULL only after oom. */
char *l7mp_str_take(struct l7mp_str *str);

/* Returns a formatted string, which the caller frees; NULL when out of memory. */
char *l7mp_asprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Returns the wall-clock time in ms since the epoch. */
uint64_t l7mp_wallclock_ms(void);
#define L7MP_ISO8601_LEN 25
/* Writes such a time as "2026-11-23T05:49:21.123Z" (ISO 8601, UTC). Returns `buf`. */
const char *l7mp_iso8601(uint64_t wallclock_ms, char buf[static L7MP_ISO8601_LEN]);

/*
 * Reads a whole file of at most `max` bytes. *out is terminated, and the caller frees it. Returns
 * 0, -EFBIG when the file is larger, or another negative errno.
 */
int l7mp_read_file(const char *path, size_t max, char **out, size_t *len);

/*
 * Bytes of memory that this process may use: the machine's, or less where its cgroups (version 1
 * or 2, those above it included) say so. Reads files; any thread.
 */
uint64_t l7mp_machine_memory(void);

/*
 * Gives the calling thread the scheduling class SCHED_BATCH (sched(7)), in which it does not
 * preempt the thread that wakes it. Without this a worker took the loop's processor for 3 ms when
 * it was given work. Every thread besides the loop should call it once.
 */
void l7mp_thread_background(void);
