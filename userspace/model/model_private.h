/* SPDX-License-Identifier: MIT */
/* Private to model/: shared by model.c, object.c, view.c, admin.c, and change/. */
#pragma once

#include "l7mp/change.h"
#include "l7mp/model.h"
#include "l7mp/util.h"

/* ---- model.c ---- */

/*
 * The objects of one kind. The first element is a sentinel, not an object: it keeps uthash's table
 * allocated, so that adding at commit can't fail.
 */
struct l7mp_table {
	struct l7mp_object *head;
	struct l7mp_object guard;
	size_t n; /* objects, without those that are not visible */
};

struct l7mp_model {
	const struct l7mp_registry *registry;
	struct l7mp_table tables[L7MP_OBJ_KINDS];
	struct l7mp_admin admin;
	uint64_t generation;
	unsigned next_name[L7MP_OBJ_KINDS]; /* next number for a generated name */
	bool changing;                      /* a change is open */
	struct {
		char *name; /* NULL: free, except for number 0 */
		size_t objects;
		uint64_t hash;
	} owners[L7MP_CONFIG_OWNERS];
};

/* Adds an object and takes a reference to it. Can't fail; the table must not have its name. */
void l7mp_table_add(struct l7mp_table *t, struct l7mp_object *o);
/* Replaces `old` by `o`, which has the same name and takes its place in the order. */
void l7mp_table_replace(struct l7mp_table *t, struct l7mp_object *old, struct l7mp_object *o);
void l7mp_table_remove(struct l7mp_table *t, struct l7mp_object *o);

/* ---- object.c ---- */

/* The references that objects can have to others. */
enum l7mp_slot {
	L7MP_SLOT_RULES,     /* listener -> rule list */
	L7MP_SLOT_ENDPOINTS, /* cluster -> endpoints */
	L7MP_SLOT_LIST,      /* rule list -> rules */
	L7MP_SLOT_ROUTE,     /* rule -> route */
	L7MP_SLOT_APPLY,     /* rule -> rule list */
	L7MP_SLOT_DESTINATION,
	L7MP_SLOT_INGRESS,
	L7MP_SLOT_EGRESS,
	L7MP_SLOTS,
};
struct l7mp_slot_info {
	enum l7mp_obj_kind owner, target;
	const char *infix; /* of generated names: <owner>-<infix>-<n> */
};
const struct l7mp_slot_info *l7mp_slot(enum l7mp_slot slot);
/* Return the range [first, end) of the slots of a kind. */
enum l7mp_slot l7mp_slot_first(enum l7mp_obj_kind kind);
enum l7mp_slot l7mp_slot_end(enum l7mp_obj_kind kind);

/* Makes a zeroed object with one reference. NULL: out of memory. */
void *l7mp_object_new(enum l7mp_obj_kind kind);
size_t l7mp_object_ref_count(const struct l7mp_object *o, enum l7mp_slot slot);
const char *l7mp_object_ref_name(const struct l7mp_object *o, enum l7mp_slot slot, size_t i);
/* Whether two objects are equal, ignoring name, owner and references. */
bool l7mp_object_same(const struct l7mp_object *a, const struct l7mp_object *b);
/*
 * Whether all references have the same names; for clusters, whether the endpoint objects are the
 * same.
 */
bool l7mp_object_same_refs(const struct l7mp_object *a, const struct l7mp_object *b);
/* Returns a hash; objects that are `same` have equal ones. */
uint64_t l7mp_object_signature(const struct l7mp_object *o);
/*
 * Returns a hash of all fields that GET shows, except the owner; rules inserted into a rule list
 * are not included.
 */
uint64_t l7mp_object_digest(const struct l7mp_object *o);
/* The same for an inserted rule. */
uint64_t l7mp_insert_digest(const struct l7mp_rulelist *l, const struct l7mp_rule_insert *in);
bool l7mp_object_owned_by(const struct l7mp_object *o, enum l7mp_obj_kind kind, const char *name);
/*
 * Gives an endpoint or a virtual cluster that is not in the model yet its health, unless it has
 * one: that of `old` (may be NULL), the version that it replaces, when both connect to the same
 * address, else a new one. Returns 0 or -ENOMEM.
 */
int l7mp_object_give_health(struct l7mp_object *o, const struct l7mp_object *old);
/* 0 or -ENOMEM. */
int l7mp_object_set_owner(struct l7mp_object *o, enum l7mp_obj_kind kind, const char *name);
/*
 * Returns a copy of an array of n > 0 names in one block, which is freed with free(). NULL: out of
 * memory.
 */
char **l7mp_names_pack(const char *const *names, size_t n);
/* ---- admin.c ---- */

int l7mp_admin_defaults(struct l7mp_admin *a);
void l7mp_admin_clear(struct l7mp_admin *a);
/*
 * Sets *out to base overridden by the keys of doc, which has passed the schema check. Returns 0 or
 * -ENOMEM; out is empty then.
 */
int l7mp_admin_merge(const struct l7mp_admin *base, const cJSON *doc, struct l7mp_admin *out);
bool l7mp_admin_equal(const struct l7mp_admin *a, const struct l7mp_admin *b);
/* Returns the first key that differs and can't change at run time; NULL: none. */
const char *l7mp_admin_fixed_key(const struct l7mp_admin *a, const struct l7mp_admin *b);

/* ---- draft.c: document -> draft tree ---- */

struct l7mp_draft;
struct l7mp_draft_ref {
	char *name;               /* NULL: an inline object */
	struct l7mp_draft *draft; /* the inline object; NULL: a name */
};
struct l7mp_draft_refs {
	struct l7mp_draft_ref *v;
	size_t n;
};
#define L7MP_KIND_SLOTS 3 /* the maximum number of slots of a kind */

/* An object of a document with its inline objects, before it is added to a change. */
struct l7mp_draft {
	enum l7mp_obj_kind kind;
	char *path;
	char *name;                 /* NULL until a name is generated for a document without one */
	struct l7mp_object *object; /* without name and references until it is staged */
	struct l7mp_draft *owner;   /* the draft in which it is inline */
	enum l7mp_slot slot;        /* the slot of owner that it is in */
	struct l7mp_draft_refs refs[L7MP_KIND_SLOTS];
	UT_hash_handle hh; /* by name; see change/names.c */
};

struct l7mp_build {
	const struct l7mp_registry *registry;
	struct l7mp_issues *issues;
	bool oom;
};
/*
 * Builds the tree of a document that has passed the schema check; NULL when out of memory or when
 * an error was added to the issues.
 */
struct l7mp_draft *l7mp_draft_parse(struct l7mp_build *b, enum l7mp_obj_kind kind, const cJSON *doc,
                                    const char *path);
void l7mp_draft_free(struct l7mp_draft *d);
static inline struct l7mp_draft_refs *l7mp_draft_slot(struct l7mp_draft *d, enum l7mp_slot slot)
{
	return &d->refs[slot - l7mp_slot_first(d->kind)];
}
/* Join a path with a key or an index. NULL: out of memory. */
char *l7mp_path_key(const char *path, const char *key);

/* ---- inserts.c: rules inserted by config owners into lists of other owners ---- */

/* Copies `from`'s inserts to `to`, which has the same rules. 0 or -ENOMEM. */
int l7mp_inserts_copy(struct l7mp_rulelist *to, const struct l7mp_rulelist *from);
/* Whether two lists have the same rules inserted by the same owners. */
bool l7mp_inserts_same(const struct l7mp_rulelist *a, const struct l7mp_rulelist *b);
enum l7mp_inserts_keep {
	L7MP_INSERTS_ALL,
	L7MP_INSERTS_SHOWN,  /* those of `list`: its document is based on an answer to GET */
	L7MP_INSERTS_OTHERS, /* those of owners other than `owner` */
};
struct l7mp_insert_request {
	unsigned config_owner;
	uint32_t position;
	const char *rule; /* its name, borrowed */
};
/*
 * `list` has the names of a document or of its previous version `old`, and no inserts yet. Removes
 * those that were inserted into `old`, inserts the ones to keep at their places, and n_more more
 * after them. 0 or -ENOMEM.
 */
int l7mp_inserts_set(struct l7mp_rulelist *list, const struct l7mp_rulelist *old,
                     enum l7mp_inserts_keep keep, unsigned owner,
                     const struct l7mp_insert_request *more, size_t n_more);
/* Returns the insertion of the rule at index `i`; NULL: it is one of the list's own rules. */
const struct l7mp_rule_insert *l7mp_inserts_at(const struct l7mp_rulelist *list, size_t i);

/* ---- owner.c: config owners ---- */

/*
 * Finds the number of an owner, or allocates one. Returns it, or -ENOMEM or -ENOSPC with err.
 * `path` is for error messages.
 */
int l7mp_owner_take(struct l7mp_change *c, const char *name, struct l7mp_error *err);
/* Computes how the change alters the number of objects of each owner. */
void l7mp_owner_count(struct l7mp_change *c);
/* Adds these sums to the model. */
void l7mp_owner_flip(struct l7mp_change *c);

/* ---- change.c: what is staged ---- */

struct l7mp_staged {
	struct l7mp_change_item item;
	char *name;
	char *path;
	size_t seq;
	UT_hash_handle hh;
};

struct l7mp_change {
	struct l7mp_model *model;
	struct l7mp_issues issues;
	struct l7mp_staged *staged[L7MP_OBJ_KINDS]; /* by name */
	struct l7mp_staged **items;                 /* all of them */
	size_t n_items, cap_items;
	size_t n_real; /* items with an effect, which come first once sorted */
	bool sorted;
	ptrdiff_t grown[L7MP_OBJ_KINDS]; /* number of objects added by the items placed so far */
	bool committed;
	bool closed; /* the change does not use the model any more */
	unsigned next_name[L7MP_OBJ_KINDS];
	struct l7mp_admin *admin; /* the new one; after commit the old one */
	bool scoped;              /* only the objects of config_owner may change */
	unsigned config_owner;    /* of new objects */
	char *owner_name;         /* when config_owner is a new number */
	struct {
		ptrdiff_t objects;
		uint64_t hash;
	} owner_sums[L7MP_CONFIG_OWNERS];
	/* documents to which a name was added; issues refer to their nodes */
	cJSON *docs;
};

/* Finds an object in the state after the commit; borrowed. */
struct l7mp_object *l7mp_change_find(const struct l7mp_change *c, enum l7mp_obj_kind kind,
                                     const char *name);
/*
 * Stages object `o` under a name (takes a new reference), or its deletion when `o` is NULL. Returns
 * 0, or -ENOMEM with err.
 */
int l7mp_change_stage(struct l7mp_change *c, enum l7mp_obj_kind kind, const char *name,
                      struct l7mp_object *o, bool end_sessions, const char *path,
                      struct l7mp_error *err);
/*
 * Stages the deletion of an object, of a cluster's endpoints, and if recursive of its inline
 * objects.
 */
int l7mp_change_drop(struct l7mp_change *c, struct l7mp_object *o, bool recursive,
                     bool end_sessions, struct l7mp_error *err);
int l7mp_change_oom(struct l7mp_error *err);
/* Returns -EINVAL with err when the issues have errors, else 0. */
int l7mp_change_check(struct l7mp_change *c, struct l7mp_error *err);

/* Sets an error L7MP_ERR_EXISTS with the path in the document. Returns -EEXIST. */
int l7mp_change_exists(struct l7mp_error *err, enum l7mp_obj_kind kind, const char *name,
                       const char *path);
