/* SPDX-License-Identifier: MIT */
/*
 * kube status: the proxies of a cluster as seen by the leading l7mp-operator. It is found by its
 * lease, and queried through the API server with the permissions of the user's kubeconfig (get of
 * leases and of pods/proxy).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"
#include "l7mp/kube.h"

#define LEASE     "l7mp-operator"
#define NAMESPACE "l7mp-system"

struct kube_query {
	struct l7mp_loop *loop;
	struct kube_client *client;
	struct kube_request *request;
	cJSON *answer; /* NULL: no answer, and a message was printed */
	const char *what;
};

static void on_answer(void *arg, const struct kube_http_answer *a)
{
	struct kube_query *k = arg;
	char text[400];

	k->request = NULL;
	k->answer = kube_answer_json(a);
	if (!k->answer)
		ctl_error("%s: %s", k->what, kube_answer_text(a, text, sizeof(text)));
	l7mp_loop_stop(k->loop);
}

/* Takes the path. Returns the answer's tree, or NULL after a message on stderr. */
static cJSON *query_kube(struct ctl *c, struct kube_query *k, struct l7mp_str *path,
                         const char *what)
{
	const struct kube_call call = {.method = "GET",
	                               .path = path->s,
	                               .timeout_ms = (uint64_t)c->timeout * 1000,
	                               .done = on_answer,
	                               .arg = k};
	int rc = path->oom ? -ENOMEM : kube_request_start(k->client, &call, &k->request);

	k->answer = NULL;
	k->what = what;
	if (rc)
		ctl_error("%s: %s", what, l7mp_errno_text(rc));
	else
		l7mp_loop_run(k->loop);
	l7mp_str_free(path);
	return k->answer;
}

/* Returns the pod of the leading instance; heap. NULL after a message. */
static char *find_leader(struct ctl *c, struct kube_query *k, const char *ns)
{
	static const struct kube_resource leases = {"coordination.k8s.io", "v1", "leases"};
	struct l7mp_str path = {0};
	const char *holder, *end;
	char *pod = NULL;
	cJSON *lease;

	kube_path(&path, &leases, ns, LEASE, NULL);
	lease = query_kube(c, k, &path, "the operator's lease");
	if (!lease)
		return NULL;
	holder = l7mp_json_str(l7mp_json_member(lease, "spec"), "holderIdentity", "");
	end = strrchr(holder, '_'); /* HOST_NUMBER */
	if (!*holder)
		ctl_error("no operator leads: nobody holds the lease %s/%s", ns, LEASE);
	else
		pod = l7mp_asprintf("%.*s", (int)(end ? end - holder : (long)strlen(holder)),
		                    holder);
	cJSON_Delete(lease);
	return pod;
}

static cJSON *query_operator(struct ctl *c, struct kube_query *k, const char *ns)
{
	static const struct kube_resource pods = {"", "v1", "pods"};
	char *pod = find_leader(c, k, ns);
	struct l7mp_str path = {0};
	cJSON *status;
	char *what;

	if (!pod)
		return NULL;
	kube_path(&path, &pods, ns, pod, "proxy");
	l7mp_str_add(&path, "/proxies");
	what = l7mp_asprintf("the operator in pod %s/%s", ns, pod);
	status = query_kube(c, k, &path, what ? what : "the operator");
	free(what);
	free(pod);
	return status;
}

static void print_row(struct ctl_table *t, const cJSON *p)
{
	char *name = l7mp_asprintf("%s/%s", l7mp_json_str(p, "namespace", ""),
	                           l7mp_json_str(p, "name", ""));
	const char *error = l7mp_json_str(p, "error", NULL);
	const char *hash = l7mp_json_str(p, "hash", "");

	ctl_cell_str(t, name);
	ctl_cell_str(t, l7mp_json_str(p, "address", NULL));
	ctl_cell_str(t, l7mp_json_str(p, "state", NULL));
	ctl_cell_str(t, *hash ? hash : NULL);
	ctl_cell_num(t, l7mp_json_num(p, "object_count", 0));
	ctl_cell_str(t, error);
	free(name);
}

static int print_status(struct ctl *c, const cJSON *status)
{
	struct ctl_table t = {.heads = {"PROXY", "ADDRESS", "STATE", "HASH", "OBJECTS", "ERROR"}};
	const cJSON *list = l7mp_json_member(status, "proxies"), *p;
	double all = l7mp_json_num(status, "proxy_count", 0);
	int rc;

	if (!cJSON_IsArray(list)) {
		ctl_error("the operator's answer has no list of proxies");
		return CTL_FAILED;
	}
	if (c->output != CTL_TABLE)
		return ctl_print_tree(c, status);
	cJSON_ArrayForEach (p, list)
		print_row(&t, p);
	rc = ctl_table_print(&t);
	if (cJSON_GetArraySize(list) < (int)all)
		fprintf(stderr, "the first %d of %.0f proxies\n", cJSON_GetArraySize(list), all);
	return rc;
}

static int kube_status(struct ctl *c)
{
	struct kube_query k = {0};
	struct kube_config *config = NULL;
	struct l7mp_error err = {0};
	cJSON *status = NULL;
	int rc = kube_config_find(c->kubeconfig, c->context, KUBE_SERVICE_ACCOUNT, &config, &err);

	if (rc) {
		ctl_error("%s", err.message);
		return CTL_FAILED;
	}
	rc = l7mp_loop_new(&k.loop);
	if (rc)
		kube_config_free(&config);
	else
		rc = kube_client_new(k.loop, config, &k.client);
	if (rc)
		ctl_error("%s", l7mp_errno_text(rc));
	else
		status = query_operator(c, &k, c->kube_ns ? c->kube_ns : NAMESPACE);
	kube_client_free(&k.client);
	if (k.loop)
		(void)l7mp_loop_free(&k.loop);
	rc = status ? print_status(c, status) : CTL_FAILED;
	cJSON_Delete(status);
	return rc;
}

static int kube_command(struct ctl *c, int argc, char **argv)
{
	if (argc != 1 || strcmp(argv[0], "status") != 0)
		return ctl_usage("kube: expected status");
	return kube_status(c);
}

const struct ctl_command ctl_kube_commands[] = {{"kube", kube_command}, {NULL, NULL}};
