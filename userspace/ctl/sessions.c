/* SPDX-License-Identifier: MIT */
/* sessions list | get | delete | watch, and explain SESSION. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl.h"

/* ---- explain: its route, its stages, its events, and why it is or isn't in the kernel ---- */

static void line(const char *head, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void line(const char *head, const char *fmt, ...)
{
	char text[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	printf("%-13s", head);
	ctl_print_safe(stdout, text);
	putchar('\n');
}

static void add_stages(struct l7mp_str *s, const cJSON *stages)
{
	const cJSON *e;

	cJSON_ArrayForEach (e, stages)
		l7mp_str_addf(s, " -> %s",
		              cJSON_IsString(e) ? e->valuestring : l7mp_json_str(e, "origin", "?"));
}

static void print_route(const cJSON *o)
{
	const cJSON *source = l7mp_json_member(o, "source");
	const cJSON *destination = l7mp_json_member(o, "destination");
	const cJSON *endpoint = l7mp_json_member(destination, "endpoint");
	const char *listener =
	        l7mp_json_str(source, "listener", l7mp_json_str(source, "origin", "?"));
	const char *cluster = l7mp_json_str(destination, "origin", "?");
	struct l7mp_str in = {0}, out = {0};

	l7mp_str_add(&in, listener);
	add_stages(&in, l7mp_json_member(o, "ingress"));
	l7mp_str_addf(&in, " -> %s", cluster);
	l7mp_str_add(&out, cluster);
	add_stages(&out, l7mp_json_member(o, "egress"));
	l7mp_str_addf(&out, " -> %s", listener);
	line("ingress:", "%s", in.s ? in.s : "");
	line("egress:", "%s", out.s ? out.s : "");
	if (endpoint)
		line("endpoint:", "%s (%s)", l7mp_json_str(endpoint, "name", "?"),
		     l7mp_json_str(l7mp_json_member(endpoint, "spec"), "address", "no address"));
	l7mp_str_free(&in);
	l7mp_str_free(&out);
}

static void print_stages(const char *kind, const cJSON *stages)
{
	const cJSON *e;

	cJSON_ArrayForEach (e, stages)
		line("", "%s %s: %s", kind, l7mp_json_str(e, "origin", "?"),
		     l7mp_json_str(e, "status", "?"));
}

/* The state of a TCP session: moving into the kernel, in it, or moving back. */
static void print_phase(const char *phase)
{
	static const struct {
		const char *phase, *meaning;
	} phases[] = {
	        {"numbers", "waits for a moment in which nothing is unsent, to read the numbers"},
	        {"watch", "waits until the program has seen both directions"},
	        {"hold", "reads no more, and writes what it holds"},
	        {"relay", "the last bytes are relayed, until both sockets are at rest"},
	        {"trans", "the program translates, and the sockets still get a copy"},
	        {"fast", "only the program translates; the sockets wait"},
	        {"stop", "back to user space, as soon as all is acknowledged"},
	};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(phases); i++)
		if (!strcmp(phase, phases[i].phase))
			line("", "TCP: %s: %s", phase, phases[i].meaning);
}

/* What the program does to the segments of a direction. */
static void print_translation(const cJSON *d, const cJSON *t)
{
	const cJSON *stamps = l7mp_json_member(t, "timestamp_delta");
	char text[80] = "no time stamps";

	if (!t)
		return;
	if (cJSON_IsNumber(stamps))
		snprintf(text, sizeof(text), "%.0f to time stamps", stamps->valuedouble);
	else if (cJSON_IsTrue(l7mp_json_member(t, "timestamps")))
		snprintf(text, sizeof(text), "time stamps by the clock of the proxy's socket");
	line("",
	     "%s -> %s: adds, modulo 2^32: %.0f to sequence numbers, %.0f to acknowledgements, %s",
	     l7mp_json_str(d, "from", "?"), l7mp_json_str(d, "to", "?"),
	     l7mp_json_num(t, "sequence_delta", 0), l7mp_json_num(t, "acknowledgement_delta", 0),
	     text);
	line("", "%s -> %s: window scale %.0f is received, %.0f is sent; SACK blocks are %s",
	     l7mp_json_str(d, "from", "?"), l7mp_json_str(d, "to", "?"),
	     l7mp_json_num(t, "window_scale_in", 0), l7mp_json_num(t, "window_scale_out", 0),
	     cJSON_IsTrue(l7mp_json_member(t, "sack")) ? "translated" : "blanked");
}

static void print_offload(const cJSON *offload, const cJSON *reasons)
{
	const cJSON *d;

	line("kernel:", "%s", l7mp_json_str(offload, "state", "slow"));
	cJSON_ArrayForEach (d, l7mp_json_member(offload, "directions")) {
		const char *reason = l7mp_json_str(d, "reason", "");
		const char *meaning = l7mp_json_str(reasons, reason, "");

		if (*reason)
			line("", "%s -> %s: %s, %s%s%s", l7mp_json_str(d, "from", "?"),
			     l7mp_json_str(d, "to", "?"), l7mp_json_str(d, "state", "slow"), reason,
			     *meaning ? ": " : "", meaning);
		else
			line("", "%s -> %s: %s by %s on %s, %.15g packets, %.15g bytes",
			     l7mp_json_str(d, "from", "?"), l7mp_json_str(d, "to", "?"),
			     l7mp_json_str(d, "state", "?"), l7mp_json_str(d, "hook", "?"),
			     l7mp_json_str(d, "interface", "?"), l7mp_json_num(d, "packets", 0),
			     l7mp_json_num(d, "bytes", 0));
	}
	print_phase(l7mp_json_str(cJSON_GetArrayItem(l7mp_json_member(offload, "directions"), 0),
	                          "phase", ""));
	cJSON_ArrayForEach (d, l7mp_json_member(offload, "directions"))
		print_translation(d, l7mp_json_member(d, "tcp"));
}

static void print_events(const cJSON *events)
{
	const cJSON *e;

	line("events:", "%d", cJSON_GetArraySize(events));
	cJSON_ArrayForEach (e, events) {
		const cJSON *at = l7mp_json_member(e, "timestamp");
		const cJSON *content = l7mp_json_member(e, "content");
		char stamp[32] = "", brief[200] = "";

		if (cJSON_IsNumber(at) && at->valuedouble >= 0)
			l7mp_iso8601((uint64_t)at->valuedouble, stamp);
		if (cJSON_IsString(content))
			snprintf(brief, sizeof(brief), "%s", content->valuestring);
		else if (content && content->child)
			l7mp_json_brief(content, brief, sizeof(brief));
		line("", "%s %s %s %s", cJSON_IsString(at) ? at->valuestring : stamp,
		     l7mp_json_str(e, "event", "?"), l7mp_json_str(e, "message", ""), brief);
	}
}

static int print_session(struct ctl *c, const cJSON *o)
{
	cJSON *offload = NULL;

	line("session:", "%s", l7mp_json_str(o, "name", "?"));
	line("status:", "%s", l7mp_json_str(o, "status", "?"));
	print_route(o);
	line("stages:", "source: %s", l7mp_json_str(l7mp_json_member(o, "source"), "status", "?"));
	print_stages("ingress", l7mp_json_member(o, "ingress"));
	line("", "destination %s: %s",
	     l7mp_json_str(l7mp_json_member(o, "destination"), "origin", "?"),
	     l7mp_json_str(l7mp_json_member(o, "destination"), "status", "?"));
	print_stages("egress", l7mp_json_member(o, "egress"));
	/* GET /offload has the list of reasons with their meanings. */
	if (ctl_request(c, "GET", "/offload", NULL, NULL, &offload))
		return CTL_FAILED;
	print_offload(l7mp_json_member(o, "offload"), l7mp_json_member(offload, "reasons"));
	print_events(l7mp_json_member(o, "events"));
	cJSON_Delete(offload);
	return CTL_OK;
}

static int explain_command(struct ctl *c, int argc, char **argv)
{
	cJSON *o = NULL;
	char *path;
	int rc;

	if (argc != 1)
		return ctl_usage("explain: expected the name of a session");
	path = ctl_path("sessions", argv[0], NULL);
	rc = ctl_request(c, "GET", path, NULL, NULL, &o);
	free(path);
	if (!rc)
		rc = c->output_given && c->output != CTL_TABLE ? ctl_print_tree(c, o)
		                                               : print_session(c, o);
	cJSON_Delete(o);
	return rc;
}

/* ---- sessions ---- */

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

/* Whether this session carries the request of l7mpctl itself. */
static bool is_ours(const struct ctl *c, const cJSON *session)
{
	const cJSON *metadata = l7mp_json_member(session, "metadata");

	return l7mp_json_member(metadata, "HTTP") &&
	       (long)l7mp_json_num(l7mp_json_member(metadata, "TCP"), "src_port", 0) ==
	               ctl_local_port(c);
}

static int fetch(struct ctl *c, cJSON **list)
{
	return ctl_request_list(c, "/sessions", list);
}

/* The sessions of a list by name, without that of the request. */
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

/* Repeats until it is interrupted or the proxy ends. */
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
	int rc = ctl_get_list(c, "/sessions", "sessions", &list);

	if (!rc)
		rc = ctl_print_list(c, &sessions, list);
	cJSON_Delete(list);
	return rc;
}

static int sessions_command(struct ctl *c, int argc, char **argv)
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

const struct ctl_command ctl_session_commands[] = {
        {"sessions", sessions_command}, {"explain", explain_command}, {NULL, NULL}};
