/* SPDX-License-Identifier: MIT */
/* sessions list | get | delete | watch, and explain. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl.h"

/* Sums bytes or packets of a direction, slow and fast path together. */
static double total(const cJSON *session, const char *direction, const char *what)
{
	const cJSON *d = l7mp_json_member(l7mp_json_member(session, "stats"), direction);
	const cJSON *slow = l7mp_json_member(d, "slow");
	const cJSON *fast = l7mp_json_member(d, "fast");

	if (!slow && !fast)
		return l7mp_json_num(d, what, 0);
	return l7mp_json_num(slow, what, 0) + l7mp_json_num(fast, what, 0);
}

static void session_row(struct ctl_table *t, const cJSON *o)
{
	const cJSON *source = l7mp_json_member(o, "source");
	const cJSON *destination = l7mp_json_member(o, "destination");

	ctl_cell_str(t, l7mp_json_str(o, "name", NULL));
	ctl_cell_str(t, l7mp_json_str(o, "status", NULL));
	ctl_cell_str(t, l7mp_json_str(source, "listener", l7mp_json_str(source, "origin", NULL)));
	ctl_cell_str(t, l7mp_json_str(destination, "origin", NULL));
	ctl_cell_str(t, l7mp_json_str(l7mp_json_member(destination, "endpoint"), "name", NULL));
	ctl_cell_num(t, total(o, "ingress", "bytes"));
	ctl_cell_num(t, total(o, "egress", "bytes"));
	ctl_cell_str(t, l7mp_json_str(l7mp_json_member(o, "offload"), "state", NULL));
}

static const struct ctl_collection sessions = {
        "sessions",
        "session",
        session_row,
        {"NAME", "STATUS", "LISTENER", "DESTINATION", "ENDPOINT", "IN-BYTES", "OUT-BYTES",
         "OFFLOAD"},
};

/* Whether this session carries our own request. */
static bool is_ours(const struct ctl *c, const cJSON *session)
{
	const cJSON *metadata = l7mp_json_member(session, "metadata");

	return l7mp_json_member(metadata, "HTTP") &&
	       (long)l7mp_json_num(l7mp_json_member(metadata, "TCP"), "src_port", 0) ==
	               ctl_local_port(c);
}

static int fetch(struct ctl *c, cJSON **list)
{
	return ctl_request(c, "GET", "/sessions", NULL, NULL, list);
}

/* The sessions of a list by name, without our own. */
struct snapshot {
	cJSON *list; /* owned */
	const cJSON **v;
	size_t n;
};

static int compare(const void *a, const void *b)
{
	return strcmp(l7mp_json_str(*(const cJSON *const *)a, "name", ""),
	              l7mp_json_str(*(const cJSON *const *)b, "name", ""));
}

/* Takes list. Returns 0 or -ENOMEM. */
static int snapshot_take(const struct ctl *c, cJSON *list, struct snapshot *out)
{
	const cJSON *s;

	*out = (struct snapshot){.list = list};
	out->v = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof(cJSON *));
	if (!out->v)
		return -ENOMEM;
	cJSON_ArrayForEach (s, list)
		if (!is_ours(c, s))
			out->v[out->n++] = s;
	qsort(out->v, out->n, sizeof(cJSON *), compare);
	return 0;
}

static void snapshot_free(struct snapshot *s)
{
	cJSON_Delete(s->list);
	free(s->v);
	*s = (struct snapshot){0};
}

static const cJSON *snapshot_find(const struct snapshot *s, const cJSON *session)
{
	const cJSON **found = s->n ? bsearch(&session, s->v, s->n, sizeof(cJSON *), compare) : NULL;

	return found ? *found : NULL;
}

static void say(const char *what, const cJSON *session, const char *before)
{
	char stamp[L7MP_ISO8601_LEN];
	struct l7mp_str line = {0};
	const cJSON *destination = l7mp_json_member(session, "destination");

	l7mp_iso8601(l7mp_wallclock_ms(), stamp);
	l7mp_str_addf(&line, "%s %s %s %s%s%s -> %s\n", stamp, what,
	              l7mp_json_str(session, "name", "?"), before ? before : "",
	              before ? " -> " : "", l7mp_json_str(session, "status", "?"),
	              l7mp_json_str(destination, "origin", "?"));
	ctl_print_safe(stdout, line.s ? line.s : "");
	l7mp_str_free(&line);
}

static void print_changes(const struct snapshot *before, const struct snapshot *now)
{
	for (size_t i = 0; i < now->n; i++) {
		const cJSON *s = now->v[i], *old = snapshot_find(before, s);
		const char *was = l7mp_json_str(old, "status", "?");

		if (!old)
			say("+", s, NULL);
		else if (strcmp(was, l7mp_json_str(s, "status", "?")) != 0)
			say("~", s, was);
	}
	for (size_t i = 0; i < before->n; i++)
		if (!snapshot_find(now, before->v[i]))
			say("-", before->v[i], NULL);
	fflush(stdout);
}

static void wait_for(double seconds)
{
	struct timespec ts;

	ts.tv_sec = (time_t)seconds;
	ts.tv_nsec = (long)((seconds - floor(seconds)) * 1e9);
	nanosleep(&ts, NULL);
}

/* Repeats until it is interrupted or the proxy goes away. */
static int watch(struct ctl *c)
{
	struct snapshot before = {0}, now;
	cJSON *list = NULL;
	int rc;

	while (!(rc = fetch(c, &list)) && !ferror(stdout)) {
		rc = snapshot_take(c, list, &now);
		if (rc) {
			snapshot_free(&now);
			ctl_error("out of memory");
			rc = CTL_FAILED;
			break;
		}
		print_changes(&before, &now);
		snapshot_free(&before);
		before = now;
		wait_for(c->interval);
	}
	snapshot_free(&before);
	return rc;
}

static int list_sessions(struct ctl *c)
{
	cJSON *list = NULL;
	int rc = fetch(c, &list);

	if (!rc)
		rc = ctl_print_list(c, &sessions, list);
	cJSON_Delete(list);
	return rc;
}

int ctl_sessions(struct ctl *c, int argc, char **argv)
{
	const char *verb = argc ? argv[0] : "list";

	if (!strcmp(verb, "list") && argc <= 1)
		return list_sessions(c);
	if (!strcmp(verb, "watch") && argc == 1)
		return watch(c);
	if (!strcmp(verb, "get") && argc == 2)
		return ctl_get_one(c, "sessions", argv[1]);
	if (!strcmp(verb, "delete") && argc == 2)
		return ctl_delete_one(c, "sessions", argv[1]);
	return ctl_usage("sessions: expected list | get NAME | delete NAME | watch [-i SECONDS]");
}
