/* SPDX-License-Identifier: MIT */
/*
 * Private to rendering: what a unit was made from. While a unit is made, each question to the store
 * is recorded with its answer; the next rendering takes the unit over when all answers are still
 * the same.
 *
 * Thread: the one that renders. Nobody else reads a memo.
 */
#pragma once

#include "selector.h"

struct op_render;
struct op_unit;

enum op_query_kind {
	OP_QUERY_OBJECT,   /* the digest of an object; 0: it does not exist */
	OP_QUERY_GRANT,    /* whether a reference is granted */
	OP_QUERY_PODS,     /* the pods that a selector of an object has */
	OP_QUERY_BACKENDS, /* the slices of a Service */
};

struct op_query {
	enum op_query_kind ask;
	enum op_kind kind, from; /* from: of the object that refers or selects */
	char *ns, *name;         /* of the object, the Service, or the one that selects */
	char *from_ns;           /* OP_QUERY_GRANT */
	cJSON *selector;         /* OP_QUERY_PODS; own copy */
	uint64_t answer;
};

/* Another unit that goes wherever this one goes, by what it is made of. */
struct op_link {
	enum op_kind kind;
	char *ns, *name;
	uint16_t port; /* of a Service */
	char *protocol;
};

struct op_memo {
	struct op_query *queries;
	size_t n_queries, cap_queries;
	struct op_link *links;
	size_t n_links, cap_links;
	char *from; /* what else it was made from: of listeners of the Gateway API; else NULL */
	uint32_t *places; /* the proxies that have the unit by its own selector, by index */
	size_t n_places, cap_places;
	bool placed; /* places is set */
	bool made;   /* the unit is complete, and all that it was made from is here */
};
void op_memo_clear(struct op_memo *m);

/*
 * Record a question to the store for the unit that is being made (x->memo; NULL: none). Out of
 * memory sets x->oom.
 */
void op_memo_object(struct op_render *x, enum op_kind kind, const char *ns, const char *name);
void op_memo_grant(struct op_render *x, enum op_kind from, const char *from_ns, enum op_kind kind,
                   const char *ns, const char *name);
void op_memo_pods(struct op_render *x, const struct op_obj *from, const cJSON *selector);
void op_memo_backends(struct op_render *x, const struct op_obj *service);
/* Records a dependency. `port` of a Service, else NULL. */
void op_memo_link(struct op_render *x, const struct op_obj *obj, const struct op_port *port);

/* Returns whether all answers are the same as when the memo was made. */
bool op_memo_holds(struct op_render *x, const struct op_memo *m);
/* Whether the set of proxies and what selectors find among the pods are as before. */
bool op_memo_pods_hold(const struct op_render *x);
