/* SPDX-License-Identifier: MIT */
/* Private to config/oneliner/ (l7mp/oneliner.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "l7mp/error.h"
#include "l7mp/json.h"

struct l7mp_registry;

#define ONELINER_LEN   4096
#define ONELINER_PARTS 64

/* ---- text.c: the text of an address ---- */

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

/*
 * Splits an argument; `label` names it in errors. Both strings are borrowed. 0, or -EINVAL with
 * err.
 */
int oneliner_split(const char *label, const char *arg, struct oneliner_text *t,
                   struct l7mp_error *err);
/* Sets err for position `at`, counted from 0. Returns -EINVAL. */
int oneliner_wrong(const struct oneliner_text *t, struct l7mp_error *err, size_t at,
                   const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Returns an option and marks it as used; NULL: not given. */
const struct oneliner_part *oneliner_option(struct oneliner_text *t, const char *name);
/* Removes quotes and backslashes, in place. */
void oneliner_unquote(char *text);
/* Returns an array of the words of a command line, respecting quotes; NULL with err. */
cJSON *oneliner_words(const struct oneliner_text *t, struct l7mp_error *err);
/*
 * Splits "host:port", "[::1]:port", or only "port" when `host` may be absent, in place: *host is
 * NULL then. `at`: the position of `text` in the argument. 0, or -EINVAL with err.
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

/* Finds a keyword in upper case; NULL: there is none. */
const struct oneliner_word *oneliner_find_word(const char *keyword);

/* ---- address.c ---- */

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
int oneliner_translate(const struct l7mp_registry *registry, struct oneliner_text *t,
                       const struct oneliner_word *w, unsigned role, struct oneliner_end *out,
                       struct l7mp_error *err);
void oneliner_end_clear(struct oneliner_end *e);
/* Set a value by its JSON pointer; oneliner_put takes it. Return 0, or -ENOMEM with err. */
int oneliner_put(cJSON *tree, const char *pointer, cJSON *value, struct l7mp_error *err);
int oneliner_put_str(cJSON *tree, const char *pointer, const char *value, struct l7mp_error *err);
int oneliner_put_num(cJSON *tree, const char *pointer, double value, struct l7mp_error *err);

/* ---- options.c ---- */

/* Translates the options that are not used yet into e. Returns 0, or a negative errno with err. */
int oneliner_read_options(const struct l7mp_registry *registry, struct oneliner_text *t,
                          struct oneliner_end *e, struct l7mp_error *err);
