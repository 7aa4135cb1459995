/* SPDX-License-Identifier: MIT */
#include "metrics.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "l7mp/metrics.h"

#define NAME(what) "l7mp_operator_" what

static const uint32_t bucket_ms[OP_BUCKETS] = {5,   10,   20,   50,   100,   200,
                                               500, 1000, 2000, 5000, 10000, 30000};

void op_histogram_add(struct op_histogram *h, uint64_t ms)
{
	size_t i = 0;

	h->count++;
	h->sum_ms += ms;
	while (i < OP_BUCKETS && ms > bucket_ms[i])
		i++;
	if (i < OP_BUCKETS)
		h->bucket[i]++;
}

void op_histogram_print(struct l7mp_str *out, const char *name, const char *help,
                        const struct op_histogram *h)
{
	uint64_t sum = 0;

	l7mp_metrics_head(out, name, "histogram", help);
	for (size_t i = 0; i < OP_BUCKETS; i++) {
		sum += h->bucket[i];
		l7mp_str_addf(out, "%s_bucket{le=\"%u.%03u\"} %" PRIu64 "\n", name,
		              bucket_ms[i] / 1000, bucket_ms[i] % 1000, sum);
	}
	l7mp_str_addf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, h->count);
	l7mp_str_addf(out, "%s_sum %" PRIu64 ".%03u\n", name, h->sum_ms / 1000,
	              (unsigned)(h->sum_ms % 1000));
	l7mp_str_addf(out, "%s_count %" PRIu64 "\n", name, h->count);
}

static void print_peers(struct l7mp_str *out, const struct op_peers_stats *p)
{
	l7mp_metrics_head(out, NAME("proxies"), "gauge", "Proxies by state");
	for (int i = 0; i < OP_PEER_STATES; i++) {
		const struct l7mp_label labels[] = {{"state", op_peer_states[i]}, {NULL, NULL}};

		l7mp_metrics_sample(out, NAME("proxies"), labels, p->state[i]);
	}
	l7mp_metrics_plain(out, NAME("proxy_posts_total"), "counter", "Documents sent to proxies",
	                   p->posts);
	l7mp_metrics_plain(out, NAME("proxy_posts_failed_total"), "counter",
	                   "Documents that a proxy refused or did not get", p->posts_failed);
	l7mp_metrics_plain(out, NAME("proxy_checks_total"), "counter",
	                   "Times that a proxy was asked for its state", p->checks);
	l7mp_metrics_plain(
	        out, NAME("proxy_refusals_total"), "counter",
	        "Documents that were made again without the objects that a proxy refused",
	        p->refusals);
	l7mp_metrics_plain(out, NAME("proxies_in_progress"), "gauge",
	                   "Proxies that are talked to now", p->in_flight);
	l7mp_metrics_plain(out, NAME("proxies_queued"), "gauge", "Proxies that wait for their turn",
	                   p->waiting);
	op_histogram_print(out, NAME("apply_seconds"),
	                   "Time from the first change of an object until a proxy has confirmed it",
	                   &p->latency);
}

void op_metrics_print(struct l7mp_str *out, const struct op_metrics *m,
                      const struct op_peers_stats *peers, const struct op_writer_stats *writer,
                      const struct kube_events_stats *events,
                      const struct kube_client_stats *client)
{
	l7mp_metrics_plain(out, NAME("leads"), "gauge", "1 when this instance holds the lease",
	                   m->leads);
	l7mp_metrics_plain(out, NAME("ready"), "gauge", "1 when all objects are known", m->synced);
	l7mp_metrics_plain(out, NAME("renders_total"), "counter",
	                   "Times that all documents were made", m->renders);
	op_histogram_print(out, NAME("render_seconds"), "Time to make all documents", &m->render);
	l7mp_metrics_plain(out, NAME("objects_left_out_total"), "counter",
	                   "Objects that were too large or had no name", m->left_out);
	l7mp_metrics_plain(out, NAME("store_bytes"), "gauge", "Bytes that the objects take",
	                   m->store_bytes);
	l7mp_metrics_plain(out, NAME("loop_stall_max_microseconds"), "gauge",
	                   "The longest time between two polls since the start",
	                   m->loop_latency_us);
	print_peers(out, peers);
	l7mp_metrics_plain(out, NAME("status_writes_total"), "counter",
	                   "Statuses that were written", writer->written);
	l7mp_metrics_plain(out, NAME("status_conflicts_total"), "counter",
	                   "Statuses of objects that had changed meanwhile", writer->conflicts);
	l7mp_metrics_plain(out, NAME("status_errors_total"), "counter",
	                   "Statuses that could not be written", writer->failed);
	l7mp_metrics_plain(out, NAME("status_queue"), "gauge", "Statuses that wait or are written",
	                   writer->waiting + writer->in_flight);
	l7mp_metrics_plain(out, NAME("events_created_total"), "counter", "Events that were created",
	                   events->created);
	l7mp_metrics_plain(out, NAME("events_repeated_total"), "counter",
	                   "Events that were counted instead of created", events->repeated);
	l7mp_metrics_plain(out, NAME("events_dropped_total"), "counter",
	                   "Events that came too fast, or were refused",
	                   events->dropped + events->failed);
	l7mp_metrics_plain(out, NAME("api_requests_total"), "counter", "Requests to the API server",
	                   client->requests);
	l7mp_metrics_plain(out, NAME("api_errors_total"), "counter",
	                   "Requests without an answer, or not answered by 2xx", client->errors);
	l7mp_metrics_plain(out, NAME("api_reauthentications_total"), "counter",
	                   "Times that credentials were read again after a 401",
	                   client->reauthentications);
}

/* ---- reflectors ---- */

void op_metrics_reflectors_begin(struct op_metrics *m)
{
	memset(m->kinds, 0, sizeof(m->kinds));
}

void op_metrics_reflector(struct op_metrics *m, const struct kube_reflector *r)
{
	const struct kube_reflector_stats *s = kube_reflector_stats(r);
	const char *kind = kube_reflector_options(r)->kind;
	int k = 0;
	struct op_kind_metrics *t;
	uint64_t lag = m->now_ms - s->last_contact_ms;

	while (k < OP_KINDS - 1 && strcmp(op_kinds[k].kind, kind) != 0)
		k++;
	t = &m->kinds[k];
	t->any = true;
	t->objects += s->objects;
	t->lists += s->lists;
	t->relists += s->relists;
	t->watches += s->watches;
	t->events += s->events;
	t->bookmarks += s->bookmarks;
	t->errors += s->errors;
	t->bad += s->bad;
	if (lag > t->lag_ms)
		t->lag_ms = lag;
}

void op_metrics_reflectors_print(struct l7mp_str *out, const struct op_metrics *m)
{
	static const struct {
		const char *name, *type, *help;
		size_t at;
	} columns[] = {
	        {NAME("objects"), "gauge", "Objects that are known",
	         offsetof(struct op_kind_metrics, objects)},
	        {NAME("lists_total"), "counter", "Complete lists",
	         offsetof(struct op_kind_metrics, lists)},
	        {NAME("relists_total"), "counter", "Complete lists after the first",
	         offsetof(struct op_kind_metrics, relists)},
	        {NAME("watches_total"), "counter", "Watches that were begun",
	         offsetof(struct op_kind_metrics, watches)},
	        {NAME("watch_events_total"), "counter", "Changes reported by watches",
	         offsetof(struct op_kind_metrics, events)},
	        {NAME("watch_bookmarks_total"), "counter", "Bookmarks",
	         offsetof(struct op_kind_metrics, bookmarks)},
	        {NAME("watch_errors_total"), "counter", "Lists and watches that failed",
	         offsetof(struct op_kind_metrics, errors)},
	        {NAME("bad_objects_total"), "counter",
	         "Objects that could not be read or were too large",
	         offsetof(struct op_kind_metrics, bad)},
	        {NAME("watch_silence_milliseconds"), "gauge",
	         "Time since the API server said anything; it sends a bookmark about each minute",
	         offsetof(struct op_kind_metrics, lag_ms)},
	};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(columns); i++) {
		l7mp_metrics_head(out, columns[i].name, columns[i].type, columns[i].help);
		for (int k = 0; k < OP_KINDS; k++) {
			const struct l7mp_label labels[] = {{"kind", op_kinds[k].kind},
			                                    {NULL, NULL}};
			uint64_t value;

			memcpy(&value, (const char *)&m->kinds[k] + columns[i].at, sizeof(value));
			if (m->kinds[k].any)
				l7mp_metrics_sample(out, columns[i].name, labels, value);
		}
	}
}
