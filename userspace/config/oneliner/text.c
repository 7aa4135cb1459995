/* SPDX-License-Identifier: MIT */
/*
 * The text of an address, KEYWORD[:text][,name[=value]]..., and what its parts have in common:
 * quotes, options, hosts with ports.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "oneliner_int.h"

int oneliner_wrong(const struct oneliner_text *t, struct l7mp_error *err, size_t at,
                   const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA, "%s ('%.80s'), at %zu: %s", t->label,
	                      t->arg, at + 1, text);
}

/*
 * Returns the end of the text: a character of `stop` outside of quotes and brackets, or the
 * terminator; NULL: a quote is not closed.
 */
static char *scan(char *s, const char *stop)
{
	char quote = '\0';

	for (; *s; s++) {
		if (*s == '\\' && s[1] && quote != '\'')
			s++;
		else if (quote)
			quote = *s == quote ? '\0' : quote;
		else if (*s == '"' || *s == '\'')
			quote = *s;
		else if (strchr(stop, *s))
			return s;
	}
	return quote ? NULL : s;
}

void oneliner_unquote(char *text)
{
	char *out = text, quote = '\0';

	for (; *text; text++) {
		if (*text == '\\' && text[1] && quote != '\'')
			*out++ = *++text;
		else if (quote ? *text == quote : *text == '"' || *text == '\'')
			quote = quote ? '\0' : *text;
		else
			*out++ = *text;
	}
	*out = '\0';
}

static int split_options(struct oneliner_text *t, char *s, struct l7mp_error *err)
{
	while (s) {
		struct oneliner_part *p = &t->options[t->n];
		char *end = scan(s, ","), *equals;
		bool more;

		if (t->n == ONELINER_PARTS)
			return oneliner_wrong(t, err, (size_t)(s - t->store), "too many options");
		if (!end)
			return oneliner_wrong(t, err, (size_t)(s - t->store),
			                      "a quote that is not closed");
		more = *end == ',';
		*end = '\0';
		equals = scan(s, "=");
		p->name = s;
		p->at = (size_t)(s - t->store);
		if (equals && *equals) {
			*equals = '\0';
			p->value = equals + 1;
			p->value_at = (size_t)(p->value - t->store);
			oneliner_unquote(p->value);
		}
		if (!*p->name)
			return oneliner_wrong(t, err, p->at, "expected an option after the comma");
		t->n++;
		s = more ? end + 1 : NULL;
	}
	return 0;
}

int oneliner_split(const char *label, const char *arg, struct oneliner_text *t,
                   struct l7mp_error *err)
{
	char *end, *s = t->store;
	bool colon;
	size_t n;

	memset(t, 0, sizeof(*t));
	t->label = label;
	t->arg = arg;
	if (strlen(arg) > ONELINER_LEN)
		return oneliner_wrong(t, err, ONELINER_LEN, "longer than %d bytes", ONELINER_LEN);
	strcpy(t->store, arg);
	end = strpbrk(s, ":,");
	if (!end)
		end = s + strlen(s);
	n = (size_t)(end - s);
	if (!n || n >= sizeof(t->keyword))
		return oneliner_wrong(t, err, 0, "expected an address like TCP-LISTEN:8080");
	for (size_t i = 0; i < n; i++)
		t->keyword[i] = (char)toupper((unsigned char)s[i]);
	colon = *end == ':';
	if (colon) {
		t->text = end + 1;
		t->text_at = (size_t)(t->text - t->store);
		end = scan(t->text, ",");
		if (!end)
			return oneliner_wrong(t, err, t->text_at, "a quote that is not closed");
	}
	if (!*end)
		return 0;
	*end = '\0';
	return split_options(t, end + 1, err);
}

const struct oneliner_part *oneliner_option(struct oneliner_text *t, const char *name)
{
	for (size_t i = 0; i < t->n; i++) {
		if (strcasecmp(t->options[i].name, name))
			continue;
		t->options[i].used = true;
		return &t->options[i];
	}
	return NULL;
}

/* Whether the whole text is one quoted string. */
static bool in_quotes(const char *s)
{
	char quote = *s++;

	if (quote != '"' && quote != '\'')
		return false;
	for (; *s && *s != quote; s++)
		if (*s == '\\' && s[1] && quote == '"')
			s++;
	return *s && !s[1];
}

cJSON *oneliner_words(const struct oneliner_text *t, struct l7mp_error *err)
{
	cJSON *words = cJSON_CreateArray();
	char copy[ONELINER_LEN + 1], *s = copy;

	snprintf(copy, sizeof(copy), "%s", t->text ? t->text : "");
	/* socat protects commas and blanks of a command by quoting all of it */
	if (in_quotes(s))
		oneliner_unquote(s);
	while (words) {
		char *end;
		cJSON *word;
		bool more;

		s += strspn(s, " \t");
		if (!*s)
			break;
		end = scan(s, " \t");
		if (!end) {
			cJSON_Delete(words);
			oneliner_wrong(t, err, t->text_at, "a quote that is not closed");
			return NULL;
		}
		more = *end != '\0';
		*end = '\0';
		oneliner_unquote(s);
		word = cJSON_CreateString(s);
		if (!word || !cJSON_AddItemToArray(words, word)) {
			cJSON_Delete(words);
			words = NULL;
			break;
		}
		s = more ? end + 1 : end;
	}
	if (!words)
		l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return words;
}

int oneliner_host_port(const struct oneliner_text *t, char *text, size_t at, bool host_optional,
                       const char **host, int *port, struct l7mp_error *err)
{
	char *colon, *end, *number = text;
	unsigned long n;

	*host = NULL;
	if (*text == '[') {
		end = strchr(text, ']');
		if (!end || end[1] != ':')
			return oneliner_wrong(t, err, at, "expected [ADDRESS]:PORT");
		*end = '\0';
		*host = text + 1;
		number = end + 2;
	} else {
		colon = strrchr(text, ':');
		if (colon && memchr(text, ':', (size_t)(colon - text)))
			return oneliner_wrong(
			        t, err, at, "expected an IPv6 address in brackets, like [::1]:80");
		if (colon) {
			*colon = '\0';
			*host = text;
			number = colon + 1;
		} else if (!host_optional) {
			return oneliner_wrong(t, err, at, "expected HOST:PORT, got '%s'", text);
		}
	}
	if (*host && !**host) {
		if (!host_optional)
			return oneliner_wrong(t, err, at, "expected a host before the colon");
		*host = NULL;
	}
	at += (size_t)(number - text);
	/* getservbyname(3) is not thread-safe, but there is no other thread yet. */
	if (isalpha((unsigned char)*number)) {
		const char *l4 = strncmp(t->keyword, "UDP", 3) ? "tcp" : "udp";
		const struct servent *service = getservbyname(number, l4);

		if (!service)
			return oneliner_wrong(
			        t, err, at,
			        "expected a port in %d..65535, got '%s', which is no %s service",
			        host_optional ? 0 : 1, number, l4);
		*port = ntohs((uint16_t)service->s_port);
		return 0;
	}
	errno = 0;
	n = strtoul(number, &end, 10);
	if (!isdigit((unsigned char)*number) || *end || errno || n > 65535 ||
	    (!n && !host_optional))
		return oneliner_wrong(t, err, at, "expected a port in %d..65535, got '%s'",
		                      host_optional ? 0 : 1, number);
	*port = (int)n;
	return 0;
}
