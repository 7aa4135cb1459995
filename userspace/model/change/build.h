/* SPDX-License-Identifier: MIT */
/* Private to change/: how documents are applied to a change. Thread: that of the change. */
#pragma once

#include "model/model_private.h"

enum build_mode {
	BUILD_ADD,     /* no name may exist */
	BUILD_REPLACE, /* the first draft and its inline objects may exist */
	BUILD_CONFIG,  /* every name may exist */
};

struct builder {
	struct l7mp_change *c;
	enum build_mode mode;
	const struct l7mp_object *top; /* REPLACE: the object that is replaced */
	/* owner of the first draft when it is inline in an existing object; or NULL */
	const struct l7mp_object *owner;
	struct l7mp_draft *names[L7MP_OBJ_KINDS]; /* drafts by name */
};

/* ---- build.c ---- */

/*
 * Builds the draft of a document that has passed the schema check. 0, or negative errno with err.
 */
int l7mp_build_parse(struct l7mp_change *c, enum l7mp_obj_kind kind, const cJSON *doc,
                     const char *path, struct l7mp_draft **out, struct l7mp_error *err);
/*
 * Adds the draft to the change: registers its names and binds its references. Takes d. `put`: the
 * document has the form that GET returns. 0, or negative errno with err.
 */
int l7mp_build_draft(struct builder *b, struct l7mp_draft *d, bool put, struct l7mp_error *err);
/* Copies the name and the owners. 0 or -ENOMEM. */
int l7mp_build_copy_base(struct l7mp_object *to, const struct l7mp_object *from);
/* Sets an error L7MP_ERR_NOT_FOUND. Returns -ENOENT. */
int l7mp_build_missing(struct l7mp_error *err, enum l7mp_obj_kind kind, const char *name);

/* ---- names.c ---- */

/* The draft that has this name; NULL: none. */
struct l7mp_draft *l7mp_build_claimed(const struct builder *b, enum l7mp_obj_kind kind,
                                      const char *name);
/*
 * Registers the names of the tree; adds an issue for a name that occurs twice. 0, or -ENOMEM with
 * err.
 */
int l7mp_build_claim(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err);
/* Generates d->name, <owner>-<infix>-<n>, and registers it. 0, or -ENOMEM with err. */
int l7mp_build_generate_name(struct builder *b, struct l7mp_draft *d, const char *owner,
                             enum l7mp_slot slot, struct l7mp_error *err);
/* Gives names to all drafts below d, which has a name. 0, or -ENOMEM with err. */
int l7mp_build_bind_names(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err);
/* Clears the table of names; call before freeing the drafts. */
void l7mp_build_clear_names(struct builder *b);
/* Whether the change may alter an object: false if another config owner owns it. */
bool l7mp_build_in_scope(const struct builder *b, const struct l7mp_object *o);

/* ---- refer.c ---- */

/*
 * Before the draft's names are registered: turns inline objects that equal the existing objects of
 * their names into references. Returns 0, or -ENOMEM with err.
 */
int l7mp_build_refer(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err);

/* ---- stage.c ---- */

/* Whether the builder may stage a new version of an existing object. */
bool l7mp_build_may_replace(const struct builder *b, const struct l7mp_object *there);
/* Stages the tree, in which all drafts have names. 0, or negative errno with err. */
int l7mp_build_stage(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err);
/* REPLACE: deletes inline objects of replaced objects that are no longer used. */
int l7mp_build_prune(struct builder *b, struct l7mp_error *err);

/* ---- endpoints.c ---- */

/* Stages a new version of the endpoint and of its cluster. 0, or negative errno with err. */
int l7mp_build_replace_endpoint(struct l7mp_change *c, struct l7mp_endpoint *old, const cJSON *doc,
                                const char *path, struct l7mp_error *err);
/* recursive: ends the endpoint's sessions. 0, or negative errno with err. */
int l7mp_build_delete_endpoint(struct l7mp_change *c, struct l7mp_endpoint *e, bool recursive,
                               struct l7mp_error *err);

/* ---- rules.c ---- */

/* Returns a modifiable copy without rules. NULL: out of memory. */
struct l7mp_rulelist *l7mp_build_rulelist_copy(const struct l7mp_rulelist *l);

/* ---- inserts.c ---- */

/*
 * Replaces all rules that the change's config owner has inserted into lists of others by the
 * document's `rule_inserts`. 0, or negative errno with err.
 */
int l7mp_inserts_replace(struct l7mp_change *c, const cJSON *doc, struct l7mp_error *err);
