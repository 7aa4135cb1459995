/* SPDX-License-Identifier: MIT */
/*
 * The API server's address and the client's credentials: from kubeconfig files, or from the files
 * in a pod.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kube_int.h"
#include "l7mp/config.h"

#define ARGS_MAX 64

struct loader {
	const char *path;
	char *folder; /* relative file names begin there */
	const cJSON *root;
	struct kube_config *config;
	struct l7mp_error *err;
};

static int fail(struct loader *l, const char *where, const char *text)
{
	return l7mp_error_set(l->err, -EINVAL, L7MP_ERR_SCHEMA, "%s: %s%s%s", l->path, where,
	                      *where ? ": " : "", text);
}

static int no_memory(struct l7mp_error *err)
{
	return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
}

static int set(struct loader *l, char **out, const char *text)
{
	free(*out);
	*out = strdup(text);
	return *out ? 0 : no_memory(l->err);
}

/* Reads an optional member that must be a string. *out: NULL if absent or empty. */
static int get_text(struct loader *l, const cJSON *object, const char *where, const char *key,
                    const char **out)
{
	const cJSON *v = l7mp_json_member(object, key);
	char path[160];

	*out = NULL;
	if (!v || cJSON_IsNull(v))
		return 0;
	if (!cJSON_IsString(v)) {
		snprintf(path, sizeof(path), "%s.%s", where, key);
		return fail(l, path, "expected a string");
	}
	if (*v->valuestring)
		*out = v->valuestring;
	return 0;
}

/* Finds the entry of a list by its name: {name, <inner>: {...}}. */
static int find_entry(struct loader *l, const char *list, const char *name, const char *inner,
                      const cJSON **out)
{
	const cJSON *item;
	char text[400];

	cJSON_ArrayForEach (item, l7mp_json_member(l->root, list)) {
		if (strcmp(l7mp_json_str(item, "name", ""), name) != 0)
			continue;
		*out = l7mp_json_member(item, inner);
		if (cJSON_IsObject(*out))
			return 0;
		snprintf(text, sizeof(text), "'%.100s' has no object '%s'", name, inner);
		return fail(l, list, text);
	}
	snprintf(text, sizeof(text), "there is none with the name '%.200s'", name);
	return fail(l, list, text);
}

static char *full_path(const struct loader *l, const char *path)
{
	return *path == '/' ? strdup(path) : l7mp_asprintf("%s/%s", l->folder, path);
}

/* KEY names a file; KEY-data has its contents in base64 and takes precedence. */
static int get_file(struct loader *l, const cJSON *object, const char *where, const char *key,
                    struct kube_file *out)
{
	const char *path, *data;
	char data_key[64], at[160];
	int rc;

	snprintf(data_key, sizeof(data_key), "%s-data", key);
	rc = get_text(l, object, where, key, &path);
	if (!rc)
		rc = get_text(l, object, where, data_key, &data);
	if (rc)
		return rc;
	if (data) {
		out->text = kube_base64(data);
		snprintf(at, sizeof(at), "%s.%s", where, data_key);
		return out->text ? 0 : fail(l, at, "expected a text in base64");
	}
	if (path) {
		out->path = full_path(l, path);
		return out->path ? 0 : no_memory(l->err);
	}
	return 0;
}

static int check_server(struct loader *l, const char *where, const char *server)
{
	char at[160];

	snprintf(at, sizeof(at), "%s.server", where);
	if (!server)
		return fail(l, at, "expected the URL of the API server");
	if (strncmp(server, "https://", 8) != 0 && strncmp(server, "http://", 7) != 0)
		return fail(l, at, "expected a URL that begins with https:// or http://");
	for (const char *c = server; *c; c++)
		if (*c <= ' ' || *c > '~' || *c == '?' || *c == '#')
			return fail(l, at, "expected a URL without query");
	return 0;
}

static int read_cluster(struct loader *l, const char *name)
{
	struct kube_config *c = l->config;
	const cJSON *cluster;
	const char *server, *tls_name, *proxy;
	char where[120];
	size_t len;
	int rc = find_entry(l, "clusters", name, "cluster", &cluster);

	snprintf(where, sizeof(where), "cluster '%.80s'", name);
	if (!rc)
		rc = get_text(l, cluster, where, "server", &server);
	if (!rc)
		rc = check_server(l, where, server);
	if (!rc)
		rc = get_text(l, cluster, where, "tls-server-name", &tls_name);
	if (!rc)
		rc = get_text(l, cluster, where, "proxy-url", &proxy);
	if (!rc)
		rc = get_file(l, cluster, where, "certificate-authority", &c->ca);
	if (!rc)
		rc = set(l, &c->server, server);
	if (!rc && tls_name)
		rc = set(l, &c->tls_name, tls_name);
	if (!rc && proxy)
		rc = set(l, &c->proxy, proxy);
	if (rc)
		return rc;
	for (len = strlen(c->server); len && c->server[len - 1] == '/'; len--)
		c->server[len - 1] = '\0';
	c->insecure = l7mp_json_bool(cluster, "insecure-skip-tls-verify", false);
	if (c->insecure && (c->ca.text || c->ca.path))
		return fail(l, where,
		            "insecure-skip-tls-verify and certificate-authority contradict each "
		            "other");
	return 0;
}

/* ---- users ---- */

static int read_list(struct loader *l, const char *where, const cJSON *list, char ***out)
{
	size_t n = (size_t)cJSON_GetArraySize(list), i = 0;
	const cJSON *item;

	if (n > ARGS_MAX)
		return fail(l, where, "expected at most 64 entries");
	*out = calloc(n + 1, sizeof(**out));
	if (!*out)
		return no_memory(l->err);
	cJSON_ArrayForEach (item, list) {
		if (cJSON_IsString(item))
			(*out)[i] = strdup(item->valuestring);
		else if (cJSON_IsObject(item) && *l7mp_json_str(item, "name", ""))
			(*out)[i] = l7mp_asprintf("%s=%s", l7mp_json_str(item, "name", ""),
			                          l7mp_json_str(item, "value", ""));
		else
			return fail(l, where, "expected a list of strings, or {name, value}");
		if (!(*out)[i++])
			return no_memory(l->err);
	}
	return 0;
}

static int read_exec(struct loader *l, const char *where, const cJSON *exec)
{
	struct kube_exec *e = &l->config->exec;
	const char *command, *version, *hint, *mode;
	char at[160];
	int rc = get_text(l, exec, where, "command", &command);

	snprintf(at, sizeof(at), "%s.exec", where);
	if (!rc)
		rc = get_text(l, exec, where, "apiVersion", &version);
	if (!rc)
		rc = get_text(l, exec, where, "installHint", &hint);
	if (!rc)
		rc = get_text(l, exec, where, "interactiveMode", &mode);
	if (rc)
		return rc;
	if (!command)
		return fail(l, at, "expected a command");
	if (!version || (strcmp(version, "client.authentication.k8s.io/v1") != 0 &&
	                 strcmp(version, "client.authentication.k8s.io/v1beta1") != 0))
		return fail(l, at,
		            "expected apiVersion client.authentication.k8s.io/v1 or /v1beta1");
	if (mode && !strcmp(mode, "Always"))
		return fail(l, at, "interactiveMode Always: there is no terminal");
	/* As client-go: a command with a slash is relative to the file, one without is in PATH. */
	e->command = strchr(command, '/') ? full_path(l, command) : strdup(command);
	if (!e->command)
		return no_memory(l->err);
	rc = set(l, &e->api_version, version);
	if (!rc && hint)
		rc = set(l, &e->hint, hint);
	e->cluster_info = l7mp_json_bool(exec, "provideClusterInfo", false);
	if (!rc)
		rc = read_list(l, at, l7mp_json_member(exec, "args"), &e->args);
	if (!rc)
		rc = read_list(l, at, l7mp_json_member(exec, "env"), &e->env);
	return rc;
}

static int read_token(struct loader *l, const char *where, const cJSON *user)
{
	struct kube_file *t = &l->config->token;
	const char *token, *file;
	char at[160];
	int rc = get_text(l, user, where, "token", &token);

	if (!rc)
		rc = get_text(l, user, where, "tokenFile", &file);
	if (rc)
		return rc;
	t->token = true;
	if (file) { /* has precedence, as with client-go */
		t->path = full_path(l, file);
		return t->path ? 0 : no_memory(l->err);
	}
	if (!token)
		return 0;
	snprintf(at, sizeof(at), "%s.token", where);
	for (const char *c = token; *c; c++)
		if (*c <= ' ' || *c > '~')
			return fail(l, at, "expected one word of printable ASCII");
	return set(l, &t->text, token);
}

static int read_user(struct loader *l, const char *name)
{
	/* If these were ignored, requests would be made as another user. */
	static const char *const unknown[] = {"username", "password",  "auth-provider", "as",
	                                      "as-uid",   "as-groups", "as-user-extra"};
	const cJSON *user, *exec;
	char where[120], text[80];
	int rc = find_entry(l, "users", name, "user", &user);

	if (rc)
		return rc;
	snprintf(where, sizeof(where), "user '%.80s'", name);
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(unknown); i++) {
		if (!l7mp_json_member(user, unknown[i]))
			continue;
		snprintf(text, sizeof(text), "'%s' is not supported", unknown[i]);
		return fail(l, where, text);
	}
	rc = get_file(l, user, where, "client-certificate", &l->config->cert);
	if (!rc)
		rc = get_file(l, user, where, "client-key", &l->config->key);
	if (!rc)
		rc = read_token(l, where, user);
	exec = l7mp_json_member(user, "exec");
	if (!rc && cJSON_IsObject(exec))
		rc = read_exec(l, where, exec);
	if (rc)
		return rc;
	if ((l->config->cert.text || l->config->cert.path) !=
	    (l->config->key.text || l->config->key.path))
		return fail(l, where, "a client-certificate needs a client-key, and a key it");
	return 0;
}

static int read_root(struct loader *l, const char *context)
{
	const cJSON *c = NULL;
	const char *cluster, *user, *ns;
	char where[120];
	int rc = 0;

	if (!cJSON_IsObject(l->root))
		return fail(l, "",
		            "expected a kubeconfig: an object with clusters, users, contexts");
	if (!context)
		rc = get_text(l, l->root, "", "current-context", &context);
	if (!rc && !context)
		return fail(l, "current-context", "there is none; name one with --context");
	if (!rc)
		rc = find_entry(l, "contexts", context, "context", &c);
	snprintf(where, sizeof(where), "context '%.80s'", context ? context : "");
	if (!rc)
		rc = get_text(l, c, where, "cluster", &cluster);
	if (!rc)
		rc = get_text(l, c, where, "user", &user);
	if (!rc)
		rc = get_text(l, c, where, "namespace", &ns);
	if (rc)
		return rc;
	if (!cluster)
		return fail(l, where, "expected the name of a cluster");
	rc = read_cluster(l, cluster);
	if (!rc && user)
		rc = read_user(l, user);
	if (!rc)
		rc = set(l, &l->config->ns, ns ? ns : "default");
	if (rc)
		return rc;
	l->config->what = l7mp_asprintf("context '%s' of %s", context, l->path);
	return l->config->what ? 0 : no_memory(l->err);
}

static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *here, *folder;

	if (slash)
		return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
	here = getcwd(NULL, 0);
	folder = here ? strdup(here) : strdup(".");
	free(here);
	return folder;
}

int kube_config_load(const char *path, const char *context, struct kube_config **out,
                     struct l7mp_error *err)
{
	struct loader l = {.path = path, .err = err};
	struct l7mp_document *doc = NULL;
	struct l7mp_error inner = {0};
	char *text = NULL;
	size_t len;
	int rc = l7mp_read_file(path, KUBE_FILE_MAX, &text, &len);

	*out = NULL;
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "%s: %s", path,
		                      rc == -EFBIG ? "expected at most 1 MiB"
		                                   : l7mp_errno_text(rc));
	/* JSON is YAML. */
	rc = l7mp_document_parse(L7MP_SYNTAX_YAML, text, len, &doc, &inner);
	free(text);
	if (rc) {
		l7mp_error_set(err, rc, inner.code, "%s:%d: %s", path, inner.line, inner.message);
		return rc;
	}
	l.root = l7mp_document_root(doc);
	l.config = calloc(1, sizeof(*l.config));
	l.folder = folder_of(path);
	rc = l.config && l.folder ? read_root(&l, context) : no_memory(err);
	free(l.folder);
	l7mp_document_free(&doc);
	if (rc)
		kube_config_free(&l.config);
	*out = l.config;
	return rc;
}

/* ---- in a pod ---- */

int kube_config_in_cluster(const char *folder, struct kube_config **out, struct l7mp_error *err)
{
	const char *host = getenv("KUBERNETES_SERVICE_HOST");
	const char *port = getenv("KUBERNETES_SERVICE_PORT");
	struct kube_config *c;
	struct kube_file ns = {.token = true};
	int rc;

	*out = NULL;
	if (!host || !*host || !port || !*port)
		return l7mp_error_set(err, -ENOENT, L7MP_ERR_REALISE,
		                      "not in a pod: KUBERNETES_SERVICE_HOST and "
		                      "KUBERNETES_SERVICE_PORT are not set");
	c = calloc(1, sizeof(*c));
	if (!c)
		return no_memory(err);
	c->server =
	        l7mp_asprintf(strchr(host, ':') ? "https://[%s]:%s" : "https://%s:%s", host, port);
	c->token.path = l7mp_asprintf("%s/token", folder);
	c->token.token = true;
	c->ca.path = l7mp_asprintf("%s/ca.crt", folder);
	c->what = l7mp_asprintf("the service account in %s", folder);
	ns.path = l7mp_asprintf("%s/namespace", folder);
	if (!c->server || !c->token.path || !c->ca.path || !c->what || !ns.path) {
		kube_file_clear(&ns);
		kube_config_free(&c);
		return no_memory(err);
	}
	/* Absent when the token is mounted as a projected volume of its own. */
	rc = kube_file_read(&ns, 0, true, NULL);
	c->ns = strdup(rc ? "default" : ns.text);
	kube_file_clear(&ns);
	rc = c->ns ? kube_file_read(&c->token, 0, true, err) : no_memory(err);
	if (!rc)
		rc = kube_file_read(&c->ca, 0, true, err);
	if (rc)
		kube_config_free(&c);
	*out = c;
	return rc;
}

int kube_config_find(const char *path, const char *context, const char *folder,
                     struct kube_config **out, struct l7mp_error *err)
{
	const char *env = getenv("KUBECONFIG"), *home = getenv("HOME");
	char *own;
	int rc;

	*out = NULL;
	if (!path && env && *env)
		path = env;
	if (path && path == env && strchr(path, ':'))
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_REALISE,
		                      "KUBECONFIG: expected one file, got several: '%s'", path);
	if (path)
		return kube_config_load(path, context, out, err);
	if (getenv("KUBERNETES_SERVICE_HOST")) {
		if (context)
			return l7mp_error_set(err, -EINVAL, L7MP_ERR_REALISE,
			                      "--context needs a kubeconfig, but this is a pod");
		return kube_config_in_cluster(folder, out, err);
	}
	own = l7mp_asprintf("%s/.kube/config", home ? home : "");
	if (!own)
		return no_memory(err);
	if (access(own, F_OK))
		rc = l7mp_error_set(err, -ENOENT, L7MP_ERR_REALISE,
		                    "where is the cluster? Neither --kubeconfig nor $KUBECONFIG "
		                    "is given, this is no pod, and there is no %s",
		                    own);
	else
		rc = kube_config_load(own, context, out, err);
	free(own);
	return rc;
}

static void free_list(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

void kube_config_free(struct kube_config **pp)
{
	struct kube_config *c = *pp;

	if (!c)
		return;
	*pp = NULL;
	free(c->what);
	free(c->server);
	free(c->ns);
	free(c->tls_name);
	free(c->proxy);
	kube_file_clear(&c->ca);
	kube_file_clear(&c->cert);
	kube_file_clear(&c->key);
	kube_file_clear(&c->token);
	free(c->exec.command);
	free(c->exec.api_version);
	free(c->exec.hint);
	free_list(c->exec.args);
	free_list(c->exec.env);
	free(c);
}
