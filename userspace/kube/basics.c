/* SPDX-License-Identifier: MIT */
/* Helpers: files, times, back-off. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "kube_int.h"

static void forget(char *text)
{
	if (text)
		OPENSSL_cleanse(text, strlen(text));
	free(text);
}

void kube_file_clear(struct kube_file *f)
{
	free(f->path);
	forget(f->text);
	*f = (struct kube_file){0};
}

/* Trims the white space around a token. Returns the error in it; NULL: none. */
static const char *trim_token(char *text)
{
	char *start = text;
	size_t len;

	while (isspace((unsigned char)*start))
		start++;
	len = strlen(start);
	while (len && isspace((unsigned char)start[len - 1]))
		len--;
	memmove(text, start, len);
	text[len] = '\0';
	if (!len)
		return "expected a token, the file is empty";
	for (const char *c = text; *c; c++)
		if (*c <= ' ' || *c > '~')
			return "expected a token: one word of printable ASCII";
	return NULL;
}

int kube_file_read(struct kube_file *f, uint64_t loop_ms, bool now, struct l7mp_error *err)
{
	const char *why = NULL;
	char *text = NULL;
	size_t len;
	int rc;

	if (!f->path || (f->read && !now && loop_ms - f->read_ms < KUBE_FILE_AGE_MS))
		return 0;
	rc = l7mp_read_file(f->path, KUBE_FILE_MAX, &text, &len);
	if (rc)
		why = rc == -EFBIG ? "expected at most 1 MiB" : l7mp_errno_text(rc);
	else if (memchr(text, '\0', len))
		why = "expected text, it has a NUL byte";
	else if (f->token)
		why = trim_token(text);
	f->read = true;
	f->read_ms = loop_ms;
	if (!why) {
		forget(f->text);
		f->text = text;
		return 0;
	}
	if (text)
		forget(text);
	if (f->text)
		return 0;
	f->read = false;
	return l7mp_error_set(err, rc ? rc : -EINVAL, L7MP_ERR_REALISE, "'%s': %s", f->path, why);
}

char *kube_base64(const char *text)
{
	size_t len = strlen(text), n = 0, pad = 0;
	unsigned char *packed = malloc(len + 1), *plain = malloc(len + 1);
	int got;

	if (!packed || !plain)
		goto fail;
	for (; *text; text++)
		if (!isspace((unsigned char)*text))
			packed[n++] = (unsigned char)*text;
	while (pad < 2 && pad < n && packed[n - 1 - pad] == '=')
		pad++;
	if (n % 4 || n > INT32_MAX || !n)
		goto fail;
	got = EVP_DecodeBlock(plain, packed, (int)n);
	if (got < (int)pad)
		goto fail;
	plain[(size_t)got - pad] = '\0';
	if (strlen((char *)plain) != (size_t)got - pad)
		goto fail;
	free(packed);
	return (char *)plain;
fail:
	free(packed);
	free(plain);
	return NULL;
}

char *kube_base64_encode(const char *text)
{
	size_t len = strlen(text);
	char *out = malloc(len / 3 * 4 + 5);

	if (out)
		EVP_EncodeBlock((unsigned char *)out, (const unsigned char *)text, (int)len);
	return out;
}

const char *kube_time(char buf[static KUBE_TIME_LEN])
{
	struct timespec ts;
	struct tm tm;
	char seconds[24];

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf, KUBE_TIME_LEN, "%.19s.%06uZ", seconds,
	         (unsigned)(ts.tv_nsec / 1000) % 1000000);
	return buf;
}

int kube_time_parse(const char *text, uint64_t *out)
{
	struct tm tm = {0};
	const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
	unsigned hours, minutes;
	long offset = 0;
	time_t t;

	if (!rest)
		return -EINVAL;
	if (*rest == '.')
		rest += 1 + strspn(rest + 1, "0123456789");
	if (*rest == '+' || *rest == '-') {
		if (sscanf(rest + 1, "%2u:%2u", &hours, &minutes) != 2)
			return -EINVAL;
		offset = (long)(hours * 3600 + minutes * 60) * (*rest == '-' ? -1 : 1);
	} else if (*rest != 'Z' && *rest != 'z') {
		return -EINVAL;
	}
	t = timegm(&tm);
	if (t < offset)
		return -EINVAL;
	*out = (uint64_t)(t - offset) * 1000;
	return 0;
}

/* ---- back-off ---- */

uint32_t kube_random(uint32_t low, uint32_t high)
{
	uint32_t r;

	/* Without it all wait equally long, which is no error. */
	if (getrandom(&r, sizeof(r), GRND_NONBLOCK) != sizeof(r))
		r = (uint32_t)l7mp_wallclock_ms();
	return high > low ? low + r % (high - low + 1) : low;
}

uint32_t kube_backoff_next(struct kube_backoff *b)
{
	uint32_t now = b->next_ms ? b->next_ms : b->min_ms;

	if (now > b->max_ms)
		now = b->max_ms;
	b->next_ms = now > b->max_ms / 2 ? b->max_ms : now * 2;
	return kube_random(now - now / 2, now);
}

void kube_backoff_reset(struct kube_backoff *b)
{
	b->next_ms = 0;
}
