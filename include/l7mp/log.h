/* SPDX-License-Identifier: MIT */
/*
 * Logging: one line per record. The level and the target are process-wide.
 *
 * Text:  2026-11-23T05:49:21.123Z warn udp text
 * JSON:  {"time":"...","level":"warn","module":"udp","message":"text"}
 *
 * Thread: any. Lines of different threads never mix. Nothing waits for the target: a regular file
 * is written by a thread of its own (filewriter.h), and what a full queue, pipe or terminal does
 * not take is lost, which a later record says.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum l7mp_log_level {
	L7MP_LOG_SILLY,
	L7MP_LOG_VERBOSE,
	L7MP_LOG_INFO,
	L7MP_LOG_NOTICE,
	L7MP_LOG_WARN,
	L7MP_LOG_ERROR,
	L7MP_LOG_SILENT,
};

/* Finds a level by its name, in any case. Returns 0, or -EINVAL if unknown. */
int l7mp_log_level_parse(const char *name, enum l7mp_log_level *out);
const char *l7mp_log_level_name(enum l7mp_log_level level);

/* Records below this level are not written. The default is L7MP_LOG_NOTICE. */
void l7mp_log_set_level(enum l7mp_log_level level);
enum l7mp_log_level l7mp_log_get_level(void);

/*
 * Sets the target: "stdout", "stderr" (the default) or a path, which is opened for appending with
 * mode 0640. `json`: write JSON records. Returns 0, or a negative errno; the old target then stays.
 */
int l7mp_log_open(const char *target, bool json);
/*
 * Opens the same path again, after the file was rotated. Returns 0, or a negative errno; the open
 * file then stays in use. Does nothing for stdout and stderr.
 */
int l7mp_log_reopen(void);
/* Closes the file, for whose disk it waits for up to 5 s; later records go to stderr, as text. */
void l7mp_log_close(void);
/*
 * Waits until the records before are in the file, for at most `timeout_ms`; the second one in a
 * handler of a fatal signal (async-signal-safe). Returns whether they are. Not beside a call of
 * l7mp_log_open or l7mp_log_close.
 */
bool l7mp_log_flush(unsigned timeout_ms);
bool l7mp_log_flush_in_signal(unsigned timeout_ms);

/* Writes a record whatever the level is; use the macros below. Control characters are escaped. */
void l7mp_log_write(enum l7mp_log_level level, const char *module, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/* Writes a record if its level is enabled; else the arguments are not evaluated. */
#define l7mp_log(level, module, ...)                                    \
	do {                                                            \
		if ((level) >= l7mp_log_get_level())                    \
			l7mp_log_write((level), (module), __VA_ARGS__); \
	} while (0)

#define l7mp_log_silly(module, ...)   l7mp_log(L7MP_LOG_SILLY, module, __VA_ARGS__)
#define l7mp_log_verbose(module, ...) l7mp_log(L7MP_LOG_VERBOSE, module, __VA_ARGS__)
#define l7mp_log_info(module, ...)    l7mp_log(L7MP_LOG_INFO, module, __VA_ARGS__)
#define l7mp_log_notice(module, ...)  l7mp_log(L7MP_LOG_NOTICE, module, __VA_ARGS__)
#define l7mp_log_warn(module, ...)    l7mp_log(L7MP_LOG_WARN, module, __VA_ARGS__)
#define l7mp_log_error(module, ...)   l7mp_log(L7MP_LOG_ERROR, module, __VA_ARGS__)

/*
 * Rate limit for records that a peer can cause: at most `burst` records per `interval_ms`. A zeroed
 * state is a new one. Returns whether the caller may log now; then *suppressed is the number of
 * records left out since the last one, which the caller should mention. Not thread-safe: the state
 * belongs to one thread.
 */
struct l7mp_log_limit {
	uint64_t window_start_ms;
	uint32_t seen;
	uint32_t suppressed;
};
bool l7mp_log_allowed(struct l7mp_log_limit *limit, uint64_t now_ms, uint32_t interval_ms,
                      uint32_t burst, uint32_t *suppressed);
