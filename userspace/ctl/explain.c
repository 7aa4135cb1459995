/* SPDX-License-Identifier: MIT */
/*
 * explain SESSION: prints its route, its stages, its events, and why it is or isn't in the kernel.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

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

int ctl_explain(struct ctl *c, int argc, char **argv)
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
