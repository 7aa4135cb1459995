/* SPDX-License-Identifier: MIT */
/*
 * A change of the model: check all -> prepare (may fail) -> commit (cannot fail).
 *
 * A change is built against a model without touching it; the objects in it are complete and
 * compiled. Between building and committing, the runtime (runtime.h) opens the sockets of new
 * listeners. Freeing an uncommitted change has no effect on the model: even the names that were
 * generated for it are free again.
 *
 * Thread: building and freeing in any thread, as long as the model does not change meanwhile (the
 * runtime's job queue ensures that); commit and close on the loop thread. One change at a time, no
 * other change between new and commit.
 */
#pragma once

#include "l7mp/error.h"
#include "l7mp/model.h"

struct l7mp_change;

/*
 * Opens a change of `m`, which is borrowed. `strict`: unknown keys are errors. Returns 0; -EBUSY
 * while another change is open; -ENOMEM.
 */
int l7mp_change_new(struct l7mp_model *m, bool strict, struct l7mp_change **out);
/* Frees a change, committed or not; closes it first (l7mp_change_close). Nulls the pointer. */
void l7mp_change_free(struct l7mp_change **c);
/* Returns the findings of validation so far, warnings included; borrowed. */
struct l7mp_issues *l7mp_change_issues(struct l7mp_change *c);

/*
 * The operations below return 0, or a negative errno with err set (L7MP_ERR_SCHEMA: see the issues;
 * L7MP_ERR_EXISTS; L7MP_ERR_NOT_FOUND ...). After a failure the change can only be freed. `doc` is
 * the object without its wrapper key, borrowed; `path` is its place in the request and the prefix
 * of the issues' paths.
 */
/* Adds an object and the objects that are inline in it. -EEXIST when the name is taken. */
int l7mp_change_add(struct l7mp_change *c, enum l7mp_obj_kind kind, const cJSON *doc,
                    const char *path, struct l7mp_error *err);
/*
 * Replaces the object `name`, which must exist; doc.name must be absent or equal. Inline objects of
 * the old version that the new one does not use are deleted. Inline objects that are what the model
 * has under their names are references to those, whichever object owns them, so that what a
 * recursive view shows can be put back. -EEXIST when one differs from an object that is not a part
 * of this one.
 */
int l7mp_change_replace(struct l7mp_change *c, enum l7mp_obj_kind kind, const char *name,
                        const cJSON *doc, const char *path, struct l7mp_error *err);
/* The same, but an object (other than an endpoint) that does not exist is added. */
int l7mp_change_put(struct l7mp_change *c, enum l7mp_obj_kind kind, const char *name,
                    const cJSON *doc, const char *path, struct l7mp_error *err);
/*
 * Deletes an object. References to it stay in other objects and become stale. A cluster's endpoints
 * are always deleted with it. `recursive` also deletes, at any depth, the objects that were given
 * inline in it, even if another object refers to one of them by name, and ends the sessions that
 * use any deleted object. Objects that it merely refers to by name stay.
 */
int l7mp_change_delete(struct l7mp_change *c, enum l7mp_obj_kind kind, const char *name,
                       bool recursive, struct l7mp_error *err);
/* Adds an endpoint to a cluster, which makes a new version of the cluster. */
int l7mp_change_add_endpoint(struct l7mp_change *c, const char *cluster, const cJSON *doc,
                             const char *path, struct l7mp_error *err);
/*
 * Inserts a rule, given as an object or by its name, at `position` of a rule list of n rules; n
 * appends. -ENOENT when it is larger.
 */
int l7mp_change_insert_rule(struct l7mp_change *c, const char *rulelist, size_t position,
                            const cJSON *rule, const char *path, struct l7mp_error *err);
/* Removes the rule at `position` from the list; `recursive` also deletes it if it was inline. */
int l7mp_change_remove_rule(struct l7mp_change *c, const char *rulelist, size_t position,
                            bool recursive, struct l7mp_error *err);
/*
 * Makes the configuration equal to `doc` by computing the difference to the model: all of it when
 * `owner` is NULL, only the objects without owner when it is "", else only those of that owner
 * (model.h), which new objects get. Objects of others then stay, and are neither replaced nor
 * deleted: -EEXIST when a name is theirs; but they may be referred to by name. A rule of the
 * document can be put into a rule list of others by `rule_inserts`; the list's own rules stay
 * whatever happens to the inserted ones, and the other way round. A named owner's document has no
 * `admin`. -ENOSPC when there are too many owners. Objects
 * that are equal stay as they are. Inline objects without a name are compared by content and keep
 * their generated names; one that changed in place is a new version of the same object. Objects
 * that are absent from `doc` are deleted recursively. An absent `admin`, or an absent key of it,
 * keeps the present value; after the first commit only the keys that l7mp_change_admin accepts may
 * differ. Read-only keys are ignored.
 */
int l7mp_change_config(struct l7mp_change *c, const cJSON *doc, const char *owner,
                       struct l7mp_error *err);
/*
 * Changes the keys of `admin` that can change at run time (log level, limits, offload). Another key
 * that differs fails with L7MP_ERR_REALISE.
 */
int l7mp_change_admin(struct l7mp_change *c, const cJSON *doc, const char *path,
                      struct l7mp_error *err);

/*
 * One effect of a change. They are listed in the order in which they have to be carried out:
 * additions and replacements first, endpoints before the objects that refer to them and listeners
 * last; then deletions, listeners first and endpoints last. A changed endpoint is listed with the
 * new version of its cluster. An object that ends as it was is not listed.
 */
struct l7mp_change_item {
	enum l7mp_obj_kind kind;
	struct l7mp_object *old_object; /* NULL: added */
	struct l7mp_object *new_object; /* NULL: deleted */
	bool end_sessions;              /* recursive delete: sessions that use old_object end */
	const char *path;               /* JSON path of new_object in the document, or "" */
};
/* Return the number of effects, and one of them, borrowed until the change is freed. */
size_t l7mp_change_count(const struct l7mp_change *c);
const struct l7mp_change_item *l7mp_change_item(const struct l7mp_change *c, size_t i);
/* Returns the new admin object, borrowed; NULL when the change leaves it as it is. */
const struct l7mp_admin *l7mp_change_new_admin(const struct l7mp_change *c);

/*
 * Closes the change, committed or not, so that another one may be opened. After that it does not
 * touch the model, and may be freed in any thread. Idempotent.
 */
void l7mp_change_close(struct l7mp_change *c);

/*
 * Committing can't fail. The model gives up its references to replaced and deleted objects; the
 * change keeps its own until it is freed.
 *
 * A commit has three steps, so that a large one can be spread over slices. `place` inserts the new
 * version of item i beside the old one, invisible to searches. `flip` makes the whole change
 * visible at once. `settle` removes the old version of item i from the tables. `place` and `settle`
 * are called once for each item. Between the first `place` and the last `settle` the tables may be
 * searched, but not iterated over. l7mp_change_close follows the last `settle`, or `flip` when
 * there are no items.
 */
void l7mp_change_place(struct l7mp_change *c, size_t i);
void l7mp_change_flip(struct l7mp_change *c);
void l7mp_change_settle(struct l7mp_change *c, size_t i);
/* Does all steps at once, and closes the change. */
void l7mp_change_commit(struct l7mp_change *c);
