/* SPDX-License-Identifier: MIT */
/*
 * A client of the API server of Kubernetes: where it is and who we are (kubeconfig or the files of
 * a pod), requests, caches of objects that are listed and then watched, a lease, events.
 *
 * Thread: loop only, except where said.
 */
#pragma once

#include "l7mp/error.h"
#include "l7mp/json.h"
#include "l7mp/kube_http.h"
#include "l7mp/loop.h"

/* ---- texts from files ---- */

#define KUBE_FILE_MAX    (1024 * 1024) /* bytes */
#define KUBE_FILE_AGE_MS 60000         /* when a file is read again */

/* A text that is given, or read from a file, again each minute. Zeroed: there is none. */
struct kube_file {
	char *path; /* NULL: the text never changes */
	char *text; /* terminated; NULL: none, or not read yet */
	bool token; /* one word, without the white space around it, of printable ASCII */
	bool read;
	uint64_t read_ms; /* loop time */
};
/*
 * Reads the file when it was not read for a minute, or in any case with `now`. When it can't be
 * read the text before stays. Returns 0, or a negative errno with err set: there is no text.
 */
int kube_file_read(struct kube_file *f, uint64_t loop_ms, bool now, struct l7mp_error *err);
void kube_file_clear(struct kube_file *f);

/* ---- configuration ---- */

/* A program that prints credentials (client.authentication.k8s.io). */
struct kube_exec {
	char *command;      /* NULL: there is none */
	char **args, **env; /* end with NULL; env: "NAME=value" */
	char *api_version;
	char *hint; /* what to install when it is missing; may be NULL */
	bool cluster_info;
};

struct kube_config {
	char *what;             /* for logs: "context c of FILE" */
	char *server;           /* URL without a slash at its end */
	char *ns;               /* namespace of the context or the pod */
	char *tls_name, *proxy; /* may be NULL */
	bool insecure;
	struct kube_file ca, cert, key, token;
	struct kube_exec exec;
};

#define KUBE_SERVICE_ACCOUNT "/var/run/secrets/kubernetes.io/serviceaccount"

/*
 * Reads a kubeconfig file (one; YAML or JSON). `context`: NULL for its current one. What it refers
 * to is not read yet. Returns 0, or a negative errno with err set. Any thread.
 */
int kube_config_load(const char *path, const char *context, struct kube_config **out,
                     struct l7mp_error *err);
/*
 * The configuration of a pod: KUBERNETES_SERVICE_HOST and _PORT of the environment, and the files
 * `token`, `ca.crt` and `namespace` of `folder`. Any thread.
 */
int kube_config_in_cluster(const char *folder, struct kube_config **out, struct l7mp_error *err);
/*
 * What kubectl would take: `path`, else the file that $KUBECONFIG names, else in a pod its own
 * files, else ~/.kube/config. Any thread.
 */
int kube_config_find(const char *path, const char *context, const char *folder,
                     struct kube_config **out, struct l7mp_error *err);
void kube_config_free(struct kube_config **config);

/* ---- back-off ---- */

/* Delays that double from min to max, each reduced at random by up to a half. */
struct kube_backoff {
	uint32_t min_ms, max_ms;
	uint32_t next_ms; /* private; 0: min */
};
uint32_t kube_backoff_next(struct kube_backoff *b);
void kube_backoff_reset(struct kube_backoff *b);
/* Returns a random number in [low, high]. */
uint32_t kube_random(uint32_t low, uint32_t high);

/* ---- requests ---- */

struct kube_client;
struct kube_request;

/* Makes a client. Takes the configuration, also on failure. Returns 0 or a negative errno. */
int kube_client_new(struct l7mp_loop *loop, struct kube_config *config, struct kube_client **out);
/* Cancels all requests; not from inside a callback. Nulls the pointer. */
void kube_client_free(struct kube_client **client);
const struct kube_config *kube_client_config(const struct kube_client *client);
struct l7mp_loop *kube_client_loop(const struct kube_client *client);

struct kube_call {
	const char *method, *path; /* path: "/api/v1/pods?limit=500" */
	const char *content_type;  /* of the body; NULL: application/json; a constant, */
	const char *accept;        /* as this one and the method; NULL: application/json */
	const cJSON *body;         /* NULL: none */
	uint64_t timeout_ms;       /* 0: 30 s */
	/* As in struct kube_http_call; `done` also reports local errors, with status 0. */
	int (*data)(void *arg, const char *bytes, size_t n);
	void (*done)(void *arg, const struct kube_http_answer *answer);
	void *arg;
};
/*
 * Starts a request with our credentials, which are read (or requested from the exec plugin) first
 * if they are old. After a 401 they are read again and the request is sent once more. Returns 0, or
 * a negative errno: then no callback follows.
 */
int kube_request_start(struct kube_client *client, const struct kube_call *call,
                       struct kube_request **out);
/* No callback is called from now on. NULL inside is fine; nulls the pointer. */
void kube_request_cancel(struct kube_request **r);
/*
 * Writes what went wrong with an answer whose status is not 2xx: the error, or the status with the
 * message of the API server's Status object. Returns `buf`.
 */
const char *kube_answer_text(const struct kube_http_answer *a, char *buf, size_t size);
/* Parses a whole answer of status 2xx; NULL when it is another one, or no JSON. */
cJSON *kube_answer_json(const struct kube_http_answer *a);

struct kube_client_stats {
	uint64_t requests, errors;  /* errors: no answer, or not 2xx */
	uint64_t reauthentications; /* after a 401 */
};
const struct kube_client_stats *kube_client_stats(const struct kube_client *client);

struct kube_resource {
	const char *group, *version, *plural; /* group "": the core's */
};
/*
 * Appends the path of a collection, or with `name` of an object; `ns` NULL or "": all namespaces,
 * or none; `sub`: "status", or NULL.
 */
void kube_path(struct l7mp_str *out, const struct kube_resource *res, const char *ns,
               const char *name, const char *sub);

/* ---- caches: list, then watch ---- */

/* Bytes of one object's JSON; what is larger is not parsed. etcd takes 1.5 MiB. */
#define KUBE_OBJECT_MAX (2 * 1024 * 1024)
/* How many objects one reflector follows. */
#define KUBE_OBJECTS_MAX 500000

/*
 * The callbacks must neither free the reflector nor start requests: they are called while an answer
 * arrives. Objects are borrowed for the call.
 */
struct kube_reflector_events {
	/* The object is new or has another resourceVersion, or was listed again. */
	void (*put)(void *arg, const cJSON *object);
	/* Gone: by an event, or missing in a later list. */
	void (*del)(void *arg, const char *ns, const char *name);
	/* More than KUBE_OBJECT_MAX bytes: only its metadata, without annotations perhaps. */
	void (*too_large)(void *arg, const char *ns, const char *name, const char *uid,
	                  size_t bytes);
	/* The first list is complete, or the kind does not exist in the cluster. */
	void (*synced)(void *arg);
};

struct kube_reflector_options {
	struct kube_resource resource;
	const char *kind;   /* for logs and metrics: "Pod" */
	const char *ns;     /* NULL: all namespaces */
	bool namespaced;    /* the kind has a namespace */
	bool metadata_only; /* ask for metadata alone (PartialObjectMetadata) */
	bool optional;      /* 404 means that there are no objects */
	bool forbidden_ok;  /* 403, too */
	uint32_t page;      /* objects in a page of a list; 0: 500 */
};

struct kube_reflector;
/*
 * Starts to list, and then to watch. All strings of the options are borrowed for the reflector's
 * life, except `ns`. Returns 0 or -ENOMEM.
 */
int kube_reflector_new(struct kube_client *client, const struct kube_reflector_options *options,
                       const struct kube_reflector_events *events, void *arg,
                       struct kube_reflector **out);
void kube_reflector_free(struct kube_reflector **r);

struct kube_reflector_stats {
	uint64_t lists;   /* complete ones */
	uint64_t relists; /* those among them after the first */
	uint64_t watches; /* watches that were begun */
	uint64_t events;  /* ADDED, MODIFIED, DELETED */
	uint64_t bookmarks;
	uint64_t errors; /* failed lists and watches, ERROR events */
	uint64_t bad;    /* objects that were no JSON, without a name, or too large */
	size_t objects;  /* known now */
	bool synced, watching, absent;
	uint64_t last_contact_ms; /* loop time of the last sign of life */
	const char *error;        /* of the last failure, "" after a success */
};
const struct kube_reflector_stats *kube_reflector_stats(const struct kube_reflector *r);
const struct kube_reflector_options *kube_reflector_options(const struct kube_reflector *r);

/* ---- a lease ---- */

struct kube_lease_options {
	const char *ns, *name, *identity;      /* copied */
	uint32_t duration_s, renew_s, retry_s; /* 0: 15, 10, 2 */
};
struct kube_lease;
/*
 * Tries to get the lease, and keeps it (coordination.k8s.io/v1, as client-go's leader election
 * does). `changed` says whether we hold it; false at the latest renew_s after the last renewal.
 */
int kube_lease_new(struct kube_client *client, const struct kube_lease_options *options,
                   void (*changed)(void *arg, bool held), void *arg, struct kube_lease **out);
/* Ends without giving the lease back. */
void kube_lease_free(struct kube_lease **lease);
/*
 * Gives the lease back, if it is held, so that another one need not wait for its end; calls `done`
 * once, from a later loop iteration, after at most 2 s. `changed` is called first.
 */
void kube_lease_release(struct kube_lease *lease, void (*done)(void *arg), void *arg);
bool kube_lease_held(const struct kube_lease *lease);
/* The holder's identity as last seen; "": none. */
const char *kube_lease_holder(const struct kube_lease *lease);

/* ---- events ---- */

struct kube_events;
/* `component` is who reports ("l7mp-operator"), `instance` which one; copied. */
int kube_events_new(struct kube_client *client, const char *component, const char *instance,
                    struct kube_events **out);
void kube_events_free(struct kube_events **ev);

struct kube_event {
	const char *api_version, *kind, *ns, *name, *uid; /* of the object; ns "": none */
	const char *type;                                 /* "Normal", "Warning" */
	const char *reason, *note;
};
/*
 * Creates an Event. Equal ones of an object within ten minutes are counted and written once more
 * when those are over; at most 100 wait, and what comes too fast is dropped. Cannot fail.
 */
void kube_events_emit(struct kube_events *ev, const struct kube_event *event);
struct kube_events_stats {
	uint64_t created, repeated, dropped, failed;
};
const struct kube_events_stats *kube_events_stats(const struct kube_events *ev);

/* Writes a time as "2026-11-23T05:49:21.123456Z" (RFC 3339, the API's MicroTime). */
#define KUBE_TIME_LEN 28
const char *kube_time(char buf[static KUBE_TIME_LEN]);
