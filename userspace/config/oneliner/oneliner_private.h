/* SPDX-License-Identifier: MIT */
/* One-liners: parsing an address, and translating it to a spec. Private to config/. */
#pragma once

#include <stdbool.h>

#include "l7mp/oneliner.h"
#include "l7mp/protodesc.h"

#define ONELINER_LEN   4096
#define ONELINER_PARTS 64

/* ---- text.c: KEYWORD[:text][,name[=value]]... ---- */

struct oneliner_part {
	char *name;
	char *value; /* NULL: without '=' */
	size_t at;   /* position of the name in the argument, from 0 */
	size_t value_at;
	bool used;
};
struct oneliner_text {
	const char *label; /* "argument 1", "--via" */
	const char *arg;
	char keyword[40]; /* upper case */
	char *text;       /* after the colon, still quoted; NULL: none */
	size_t text_at;
	struct oneliner_part options[ONELINER_PARTS];
	size_t n;
	char store[ONELINER_LEN + 1];
};
/* Sets err for position `at`, counted from 0. Returns -EINVAL. */
int oneliner_wrong(const struct oneliner_text *t, struct l7mp_error *err, size_t at,
                   const char *fmt, ...) __attribute__((format(printf, 4, 5)));
int oneliner_split(const char *label, const char *arg, struct oneliner_text *out,
                   struct l7mp_error *err);
/* Returns an option and marks it as used; NULL: not given. */
const struct oneliner_part *oneliner_option(struct oneliner_text *t, const char *name);
/* Removes quotes and backslashes, in place. */
void oneliner_unquote(char *text);
/* Returns an array of the words of a command line, respecting quotes; NULL with err. */
cJSON *oneliner_words(const struct oneliner_text *t, struct l7mp_error *err);
/*
 * Splits "host:port", "[::1]:port", or only "port" when `host` may be absent, in place: *host is
 * NULL then.
 */
int oneliner_host_port(const struct oneliner_text *t, char *text, size_t at, bool host_optional,
                       const char **host, int *port, struct l7mp_error *err);

/* ---- keywords.c ---- */

enum oneliner_form {
	FORM_NONE,    /* no text */
	FORM_PORT,    /* [ADDRESS:]PORT */
	FORM_HOST,    /* HOST:PORT */
	FORM_URL,     /* HOST[:PORT][/PATH] */
	FORM_URLPORT, /* [ADDRESS:]PORT[/PATH] */
	FORM_PATH,    /* a file's path */
	FORM_NAME,    /* an abstract UNIX name */
	FORM_COMMAND,
	FORM_IFACE,
	FORM_POINTER, /* JSON pointer */
	FORM_NESTED,  /* another address */
};
struct oneliner_word {
	const char *keyword;
	unsigned role; /* L7MP_ROLE_LISTENER, _CLUSTER or both */
	const char *protocol;
	enum oneliner_form form;
	int family; /* 4, 6; 0: any */
	bool tls;
};
const struct oneliner_word *oneliner_word(const char *keyword);

/* ---- spec.c ---- */

/* The translation of one address. It owns its trees. */
struct oneliner_end {
	const struct oneliner_word *word;
	unsigned role; /* L7MP_ROLE_LISTENER or L7MP_ROLE_CLUSTER */
	cJSON *spec;
	cJSON *address; /* of a cluster's endpoint; NULL: none */
	cJSON *options; /* of a listener; NULL: none */
	cJSON *retry;   /* NULL: none */
};
/*
 * Translates an address to a listener or a cluster. Returns 0, or a negative errno with err set.
 * The caller clears *out with oneliner_end_clear() in either case.
 */
int oneliner_end(const struct l7mp_registry *registry, struct oneliner_text *t,
                 const struct oneliner_word *w, unsigned role, struct oneliner_end *out,
                 struct l7mp_error *err);
void oneliner_end_clear(struct oneliner_end *e);
