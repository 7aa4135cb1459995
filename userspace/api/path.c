/* SPDX-License-Identifier: MIT */
/* Parsing the text of a request: path segments, query, headers (RFC 3986, RFC 9110). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api_int.h"

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int api_percent_decode(char *s)
{
	char *start = s;
	char *out = s;

	while (*s) {
		int high, low;

		if (*s != '%') {
			*out++ = *s++;
			continue;
		}
		high = hex(s[1]);
		low = high < 0 ? -1 : hex(s[2]);
		if (low < 0 || (high == 0 && low == 0))
			return -EINVAL;
		*out++ = (char)(high << 4 | low);
		s += 3;
	}
	*out = '\0';
	return l7mp_utf8_valid(start, strlen(start)) ? 0 : -EINVAL;
}

int api_split_path(char *path, char **segments, size_t max)
{
	size_t n = 0;
	size_t len = strlen(path);

	if (*path != '/')
		return -EINVAL;
	if (len > 1 && path[len - 1] == '/')
		path[--len] = '\0';
	if (len == 1)
		return 0;
	while (path) {
		char *segment = path + 1;
		char *slash = strchr(segment, '/');

		if (slash)
			*slash = '\0';
		if (n == max)
			return -E2BIG;
		if (api_percent_decode(segment))
			return -EINVAL;
		segments[n++] = segment;
		path = slash;
	}
	return (int)n;
}

int api_query_get(const char *query, const char *key, char **out)
{
	size_t key_len = strlen(key);

	*out = NULL;
	while (query && *query) {
		size_t len = strcspn(query, "&");

		if (len >= key_len && !strncmp(query, key, key_len) &&
		    (len == key_len || query[key_len] == '=')) {
			size_t skip = len == key_len ? key_len : key_len + 1;

			*out = strndup(query + skip, len - skip);
			if (!*out)
				return -ENOMEM;
			for (char *p = *out; *p; p++)
				if (*p == '+')
					*p = ' ';
			if (!api_percent_decode(*out))
				return 0;
			free(*out);
			*out = NULL;
			return -EINVAL;
		}
		query += len;
		if (*query == '&')
			query++;
	}
	return 0;
}

static const cJSON *http(const cJSON *metadata)
{
	return l7mp_json_member(metadata, "HTTP");
}

const char *api_header(const cJSON *metadata, const char *name)
{
	/* cJSON's own look-up ignores case, as required for header names. */
	const cJSON *h = cJSON_GetObjectItem(l7mp_json_member(http(metadata), "headers"), name);

	return cJSON_IsString(h) ? h->valuestring : NULL;
}

bool api_etag_listed(const char *list, const char *tag, bool weak)
{
	size_t len = strlen(tag);

	if (list && !strcmp(list, "*"))
		return true;
	while (list && *list) {
		list += strspn(list, " \t,");
		if (weak && !strncmp(list, "W/", 2))
			list += 2;
		if (!strncmp(list, tag, len) && (!list[len] || strchr(" \t,", list[len])))
			return true;
		list += strcspn(list, ",");
	}
	return false;
}
