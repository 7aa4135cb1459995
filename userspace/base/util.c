/* SPDX-License-Identifier: MIT */
#include "l7mp/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- growing string ---- */

void l7mp_str_free(struct l7mp_str *str)
{
	free(str->s);
	*str = (struct l7mp_str){0};
}

/* Makes room for n more bytes and the terminator. */
static int str_reserve(struct l7mp_str *str, size_t n)
{
	size_t cap = str->cap ? str->cap : 64;
	char *s;

	if (str->oom)
		return -ENOMEM;
	if (n < str->cap && str->len < str->cap - n)
		return 0;
	if (n >= SIZE_MAX / 4 || str->len >= SIZE_MAX / 4)
		goto fail;
	while (cap <= str->len + n)
		cap *= 2;
	s = realloc(str->s, cap);
	if (!s)
		goto fail;
	str->s = s;
	str->cap = cap;
	return 0;
fail:
	str->oom = 1;
	return -ENOMEM;
}

void l7mp_str_addn(struct l7mp_str *str, const void *bytes, size_t n)
{
	if (str_reserve(str, n))
		return;
	if (n)
		memcpy(str->s + str->len, bytes, n);
	str->len += n;
	str->s[str->len] = '\0';
}

void l7mp_str_add(struct l7mp_str *str, const char *text)
{
	l7mp_str_addn(str, text, strlen(text));
}

void l7mp_str_addf(struct l7mp_str *str, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0) {
		str->oom = 1;
		return;
	}
	if (str_reserve(str, (size_t)n))
		return;
	va_start(ap, fmt);
	vsnprintf(str->s + str->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	str->len += (size_t)n;
}

void l7mp_str_add_utf8(struct l7mp_str *str, const void *bytes, size_t n)
{
	const uint8_t *p = bytes;
	size_t done = 0, i = 0;
	uint32_t cp;

	while (i < n) {
		size_t len = p[i] < 0x80 ? 1 : l7mp_utf8_decode(p + i, n - i, &cp);

		if (len) {
			i += len;
			continue;
		}
		l7mp_str_addn(str, p + done, i - done);
		l7mp_str_add(str, "\xef\xbf\xbd");
		done = ++i;
	}
	l7mp_str_addn(str, p + done, n - done);
}

char *l7mp_str_take(struct l7mp_str *str)
{
	char *s;

	l7mp_str_addn(str, "", 0);
	if (str->oom) {
		l7mp_str_free(str);
		return NULL;
	}
	s = str->s;
	*str = (struct l7mp_str){0};
	return s;
}

char *l7mp_asprintf(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : s;
}

/* ---- time ---- */

uint64_t l7mp_wallclock_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

const char *l7mp_iso8601(uint64_t wallclock_ms, char buf[static L7MP_ISO8601_LEN])
{
	const uint64_t year_10000_ms = 253402300800000ull;
	char tmp[32];
	struct tm tm;
	time_t sec;

	/* The format has four digits for the year; larger years come only from a wrong clock. */
	if (wallclock_ms >= year_10000_ms)
		wallclock_ms = year_10000_ms - 1;
	sec = (time_t)(wallclock_ms / 1000);
	gmtime_r(&sec, &tm);
	strftime(tmp, sizeof(tmp), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf, L7MP_ISO8601_LEN, "%.19s.%03uZ", tmp, (unsigned)(wallclock_ms % 1000) % 1000);
	return buf;
}

/* ---- files ---- */

/* Reads until the end of the file, or until there is one byte more than max. */
static int read_all(int fd, size_t max, struct l7mp_str *str)
{
	for (;;) {
		size_t room;
		ssize_t n;

		if (str_reserve(str, 4096))
			return -ENOMEM;
		room = str->cap - str->len - 1;
		n = read(fd, str->s + str->len, room);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		str->len += (size_t)n;
		if (str->len > max)
			return -EFBIG;
	}
}

int l7mp_read_file(const char *path, size_t max, char **out, size_t *len)
{
	struct l7mp_str str = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	int rc;

	if (fd < 0)
		return -errno;
	rc = read_all(fd, max, &str);
	close(fd);
	if (rc) {
		l7mp_str_free(&str);
		return rc;
	}
	str.s[str.len] = '\0';
	*len = str.len;
	*out = str.s;
	return 0;
}
