/* SPDX-License-Identifier: MIT */
/*
 * The console: a page of the admin server that shows and changes the proxy by the REST API alone.
 * Its files are embedded in the program (scripts/embed.sh).
 *
 * The page shows names and metadata chosen by peers. So the content security policy below prevents
 * injected scripts from running: no inline code or style, nothing from other servers, and no DOM
 * function that parses text as markup (Trusted Types).
 */
#include <stdlib.h>
#include <string.h>

#include "api_int.h"

#define CONSOLE_BASE "/console/"

struct embedded {
	const char *name;
	const unsigned char *data;
	size_t len;
	const char *etag; /* with its quotes */
};
#include "console_files.h"

static const char policy[] =
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'";
static const char *const page_headers[] = {
        "Content-Security-Policy",
        policy,
        "Referrer-Policy",
        "no-referrer",
        "X-Frame-Options",
        "DENY",
        "Cross-Origin-Opener-Policy",
        "same-origin",
        "Cross-Origin-Resource-Policy",
        "same-origin",
        NULL,
};
static const char *const to_page[] = {"Location", CONSOLE_BASE, NULL};

static const char *type_of(const char *name)
{
	static const struct {
		const char *suffix, *type;
	} types[] = {
	        {".html", "text/html; charset=utf-8"},
	        {".css", "text/css; charset=utf-8"},
	        {".js", "text/javascript; charset=utf-8"},
	        {".svg", "image/svg+xml"},
	};
	const char *suffix = strrchr(name, '.');

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(types); i++)
		if (suffix && !strcmp(suffix, types[i].suffix))
			return types[i].type;
	return "application/octet-stream";
}

/* Names are compared literally: nothing is decoded, and there are no directories. */
static const struct embedded *find_file(const char *path)
{
	const size_t base = strlen(CONSOLE_BASE);
	const char *name;

	if (strncmp(path, CONSOLE_BASE, base) != 0)
		return NULL;
	name = path[base] ? path + base : "index.html";
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(embedded_files); i++)
		if (!strcmp(name, embedded_files[i].name))
			return &embedded_files[i];
	return NULL;
}

/* Sets an answer without a body. */
static void send_empty(struct api_response *rs, int status)
{
	api_text(rs, strdup(""), "text/plain; charset=utf-8");
	if (rs->status == 200)
		rs->status = status;
}

static void send_file(const struct api_request *rq, const struct embedded *f,
                      struct api_response *rs)
{
	if (api_etag_listed(rq->if_none_match, f->etag, true)) {
		send_empty(rs, 304);
	} else {
		char *text = malloc(f->len + 1);

		if (text) {
			memcpy(text, f->data, f->len);
			text[f->len] = '\0';
		}
		api_text(rs, text, type_of(f->name));
	}
	if (rs->status >= 500)
		return;
	rs->extra = page_headers;
	rs->revalidate = true;
	snprintf(rs->etag, sizeof(rs->etag), "%s", f->etag);
}

static void console_answer(struct api_request *rq, struct api_response *rs)
{
	const struct embedded *f = find_file(rq->raw_path);
	bool redirect = !strcmp(rq->raw_path, "/") || !strcmp(rq->raw_path, "/console");

	if (!l7mp_model_admin(rq->api->params.model)->console) {
		api_fail(rs, 404, "the console is switched off (admin.console)");
	} else if (!f && !redirect) {
		api_fail(rs, 404, "no such path: '%s'", rq->raw_path);
	} else if (strcmp(rq->method, "GET") != 0) {
		api_fail(rs, 405, "method %.20s is not possible here, expected GET", rq->method);
		strcpy(rs->allow, "GET, HEAD");
	} else if (redirect) {
		send_empty(rs, 302);
		rs->extra = to_page;
	} else {
		send_file(rq, f, rs);
	}
}

const struct api_service api_service_console = {.proto = "console", .answer = console_answer};
