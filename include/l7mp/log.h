/* SPDX-License-Identifier: MIT */
/*
 * Logging: one line a record, the only process-wide state of the project.
 *
 * Text:  2026-11-23T05:49:21.123Z warn udp text
 * JSON:  {"time":"...","level":"warn","module":"udp","message":"text"}
 *
 * Thread: any. Records are written whole with one write(2), so lines of
 * different threads never mix.
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

/* Level by its name, case-insensitive. 0, or -EINVAL when unknown. */
int l7mp_log_level_parse(const char *name, enum l7mp_log_level *out);
const char *l7mp_log_level_name(enum l7mp_log_level level);

void l7mp_log_set_level(enum l7mp_log_level level);
enum l7mp_log_level l7mp_log_get_level(void);

/*
 * Where records go: "stdout", "stderr" (the state before any call) or a path,
 * which is opened for appending, mode 0640, close-on-exec. The old target
 * stays when the new one can't be opened. 0 or negative errno.
 */
int l7mp_log_open(const char *target, bool json);
/* Opens the same path again (after a rotation). 0 or negative errno. */
int l7mp_log_reopen(void);
void l7mp_log_close(void);

void l7mp_log_write(enum l7mp_log_level level, const char *module, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/* The arguments are not evaluated when the level is off. */
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
 * Limits how often a peer can make us log: at most `burst` records per
 * `interval_ms`, then one record that says how many were left out. Zero-init
 * the state. Returns true when the caller may log now; *suppressed then holds
 * how many were left out since the last one.
 */
struct l7mp_log_limit {
	uint64_t window_start_ms;
	uint32_t seen;
	uint32_t suppressed;
};
bool l7mp_log_allowed(struct l7mp_log_limit *limit, uint64_t now_ms, uint32_t interval_ms,
                      uint32_t burst, uint32_t *suppressed);
