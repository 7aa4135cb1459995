/* SPDX-License-Identifier: MIT */
/*
 * kube-inject: adds the proxy to the pods of Kubernetes manifests, as a native sidecar: an init
 * container with restartPolicy Always, which starts before the application and ends after it.
 * Manifests with a container of that name, and manifests without pods, are printed unchanged.
 *
 * explicit: the application listens on 127.0.0.1, the proxy on the pod's address and the same port.
 * redirect: the application is unchanged and listens on all addresses; traffic from outside for one
 * of its declared ports is redirected to the proxy, at the port's number plus 10,000.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"
#include "l7mp/config.h"

#define NAME        "l7mp"
#define MAX_BYTES   (64 * 1024 * 1024)
#define PORT_OFFSET 10000
#define PROXY_UID   900

struct inject {
	const char *image, *where;
	bool redirect;
	int done; /* documents printed */
	bool failed;
};

/* ---- trees ---- */

/* Parses a constant JSON text. NULL: oom. */
static cJSON *piece(const char *text)
{
	return cJSON_Parse(text);
}

static int add_front(cJSON *array, cJSON *item)
{
	if (array && item && cJSON_InsertItemInArray(array, 0, item))
		return 0;
	cJSON_Delete(item);
	return -ENOMEM;
}

static int add_back(cJSON *array, cJSON *item)
{
	if (array && item && cJSON_AddItemToArray(array, item))
		return 0;
	cJSON_Delete(item);
	return -ENOMEM;
}

/* Returns a member; creates it when it is absent or null. */
static cJSON *member(cJSON *object, const char *key, bool array)
{
	cJSON *m = l7mp_json_member(object, key);

	if (m && !cJSON_IsNull(m))
		return m;
	cJSON_DeleteItemFromObjectCaseSensitive(object, key);
	m = array ? cJSON_CreateArray() : cJSON_CreateObject();
	return l7mp_json_add(object, key, m) ? NULL : m;
}

static bool has_container(const cJSON *spec, const char *list, const char *name)
{
	const cJSON *c;

	cJSON_ArrayForEach (c, l7mp_json_member(spec, list))
		if (!strcmp(l7mp_json_str(c, "name", ""), name))
			return true;
	return false;
}

/* ---- the containers ---- */

static cJSON *sidecar(const struct inject *x)
{
	cJSON *c = piece(
	        "{\"name\": \"" NAME "\", \"image\": \"\", \"imagePullPolicy\": \"IfNotPresent\","
	        " \"restartPolicy\": \"Always\","
	        " \"args\": [\"-c\", \"/etc/l7mp/config/l7mp.yaml\"],"
	        " \"env\": [{\"name\": \"L7MP_TOKEN_FILE\", \"value\": \"/etc/l7mp/proxy/token\"},"
	        " {\"name\": \"L7MP_HEALTH\", \"value\": \"127.0.0.1/1234\"},"
	        " {\"name\": \"L7MP_API\", \"value\": \"http://127.0.0.1:1234\"}],"
	        " \"startupProbe\": {\"exec\": {\"command\": [\"/usr/lib/l7mp/healthy\"]},"
	        " \"periodSeconds\": 1, \"failureThreshold\": 60},"
	        " \"readinessProbe\": {\"exec\": {\"command\": [\"/usr/lib/l7mp/healthy\"]},"
	        " \"periodSeconds\": 5},"
	        " \"securityContext\": {\"runAsUser\": 900, \"runAsGroup\": 900,"
	        " \"capabilities\": {\"drop\": [\"ALL\"], \"add\": [\"NET_BIND_SERVICE\"]}},"
	        " \"volumeMounts\": [{\"name\": \"l7mp-config\", \"mountPath\": "
	        "\"/etc/l7mp/config\", \"readOnly\": true},"
	        " {\"name\": \"l7mp-credentials\", \"mountPath\": \"/etc/l7mp/proxy\","
	        " \"readOnly\": true}]}");
	cJSON *image = cJSON_CreateString(x->image);
	cJSON *caps = l7mp_json_get(c, "/securityContext/capabilities/add");
	static const char *const fast[] = {"BPF", "NET_ADMIN", "PERFMON"};
	int rc = 0;

	if (!image || !cJSON_ReplaceItemInObjectCaseSensitive(c, "image", image)) {
		cJSON_Delete(c);
		return NULL;
	}
	/* A redirected session has two addresses for one socket: it stays in user space. */
	if (x->redirect) {
		cJSON *args = l7mp_json_member(c, "args");

		rc = add_back(args, cJSON_CreateString("-o"));
		rc = rc ? rc : add_back(args, cJSON_CreateString("disable"));
	} else { /* the application has the same ports on 127.0.0.1 */
		rc = add_back(
		        l7mp_json_member(c, "env"),
		        piece("{\"name\": \"L7MP_LISTEN_ADDRESS\", \"valueFrom\": {\"fieldRef\":"
		              " {\"fieldPath\": \"status.podIP\"}}}"));
	}
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(fast) && !x->redirect && !rc; i++)
		rc = add_back(caps, cJSON_CreateString(fast[i]));
	if (rc) {
		cJSON_Delete(c);
		return NULL;
	}
	return c;
}

/* A declared port that is redirected; 0: none, or of another protocol. */
static unsigned declared(const cJSON *port, const char **protocol)
{
	double n = l7mp_json_num(port, "containerPort", 0);

	*protocol = l7mp_json_str(port, "protocol", "TCP");
	if (n < 1 || n > 65535 || (strcmp(*protocol, "UDP") != 0 && strcmp(*protocol, "TCP") != 0))
		return 0;
	return (unsigned)n;
}

/* Port 53 becomes 10053; a result that would be too large is reduced by 20,000. */
static unsigned redirected(unsigned port)
{
	return port + PORT_OFFSET <= 65535 ? port + PORT_OFFSET : port - PORT_OFFSET;
}

/*
 * The rules, for nft's command line. The table is deleted and created again, so that a restart
 * works.
 */
static char *rules(const cJSON *spec, struct l7mp_str *note)
{
	struct l7mp_str t = {0};
	const cJSON *c, *p;
	bool any = false;

	l7mp_str_add(&t, "add table inet l7mp; flush table inet l7mp; "
	                 "add chain inet l7mp inbound "
	                 "{ type nat hook prerouting priority dstnat; }");
	cJSON_ArrayForEach (c, l7mp_json_member(spec, "containers"))
		cJSON_ArrayForEach (p, l7mp_json_member(c, "ports")) {
			const char *protocol;
			unsigned port = declared(p, &protocol);

			if (!port)
				continue;
			any = true;
			/* The proxy's own connections to the application come from lo. */
			l7mp_str_addf(&t,
			              "; add rule inet l7mp inbound iifname != \"lo\" %s dport %u "
			              "redirect to :%u",
			              *protocol == 'U' ? "udp" : "tcp", port, redirected(port));
			l7mp_str_addf(note, "%s%s %u to %u", note->len ? ", " : "", protocol, port,
			              redirected(port));
		}
	if (any)
		return l7mp_str_take(&t);
	l7mp_str_free(&t);
	return NULL;
}

static int add_redirect(struct inject *x, cJSON *list, const cJSON *spec, const char *what)
{
	struct l7mp_str note = {0};
	char *text = rules(spec, &note);
	cJSON *c, *command;
	int rc;

	if (!text) {
		l7mp_str_free(&note);
		ctl_error("%s: %s: no container declares UDP or TCP ports (containers[].ports), "
		          "nothing is redirected",
		          x->where, what);
		x->failed = true;
		return 0;
	}
	c = piece("{\"name\": \"l7mp-redirect\", \"image\": \"\", "
	          "\"imagePullPolicy\": \"IfNotPresent\", \"command\": [\"/usr/sbin/nft\"],"
	          " \"securityContext\": {\"runAsUser\": 0, \"runAsNonRoot\": false,"
	          " \"capabilities\": {\"drop\": [\"ALL\"], \"add\": [\"NET_ADMIN\"]}}}");
	command = l7mp_json_member(c, "command");
	rc = add_back(command, cJSON_CreateString(text));
	free(text);
	if (!rc &&
	    !cJSON_ReplaceItemInObjectCaseSensitive(c, "image", cJSON_CreateString(x->image)))
		rc = -ENOMEM;
	if (rc)
		cJSON_Delete(c);
	else
		rc = add_back(list, c);
	if (!rc && !note.oom)
		fprintf(stderr, "l7mpctl: %s: %s: redirected: %s\n", x->where, what, note.s);
	l7mp_str_free(&note);
	return rc;
}

static int add_volumes(cJSON *spec)
{
	cJSON *volumes = member(spec, "volumes", true);
	int rc = add_back(volumes, piece("{\"name\": \"l7mp-config\","
	                                 " \"configMap\": {\"name\": \"l7mp-proxy\"}}"));

	/* Readable for the pod's fsGroup; a token that everyone may read is rejected. */
	return rc ? rc
	          : add_back(volumes, piece("{\"name\": \"l7mp-credentials\", \"secret\": "
	                                    "{\"secretName\": \"l7mp-proxy\","
	                                    " \"defaultMode\": 288}}"));
}

/* `pod` has metadata and spec: a Pod, or a template of pods. */
static int inject_pod(struct inject *x, cJSON *pod, const char *what)
{
	cJSON *spec = l7mp_json_member(pod, "spec"), *notes, *list, *security;
	cJSON *redirect = cJSON_CreateArray(), *c;
	int rc;

	notes = member(member(pod, "metadata", false), "annotations", false);
	list = member(spec, "initContainers", true);
	security = member(spec, "securityContext", false);
	rc = notes && list && security && redirect ? 0 : -ENOMEM;
	if (!rc && !l7mp_json_member(notes, "l7mp.io/sidecar"))
		rc = l7mp_json_add_str(notes, "l7mp.io/sidecar",
		                       x->redirect ? "redirect" : "explicit");
	if (!rc && !l7mp_json_member(security, "fsGroup"))
		rc = l7mp_json_add_num(security, "fsGroup", PROXY_UID);
	rc = rc ? rc : add_volumes(spec);
	rc = rc ? rc : add_front(list, sidecar(x));
	if (!rc && x->redirect)
		rc = add_redirect(x, redirect, spec, what);
	/* First, so that no traffic reaches the application before the redirect. */
	while (!rc && (c = redirect->child))
		rc = add_front(list, cJSON_DetachItemViaPointer(redirect, c));
	cJSON_Delete(redirect);
	return rc;
}

/* ---- documents ---- */

/* Returns the part of an object that has the pod's spec; NULL: it creates no pods. */
static cJSON *pod_of(cJSON *object)
{
	static const char *const kinds[] = {
	        "Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "ReplicationController",
	        "Job"};
	const char *kind = l7mp_json_str(object, "kind", "");

	if (!strcmp(kind, "Pod"))
		return object;
	if (!strcmp(kind, "CronJob"))
		return l7mp_json_get(object, "/spec/jobTemplate/spec/template");
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(kinds); i++)
		if (!strcmp(kind, kinds[i]))
			return l7mp_json_get(object, "/spec/template");
	return NULL;
}

/* Returns 1 when the object was changed, 0 when not, or -ENOMEM. */
static int inject_object(struct inject *x, cJSON *object)
{
	cJSON *pod, *item;
	const cJSON *spec;
	int any = 0, rc;
	char what[400];

	if (!strcmp(l7mp_json_str(object, "kind", ""), "List")) {
		cJSON_ArrayForEach (item, l7mp_json_member(object, "items")) {
			rc = inject_object(x, item);
			if (rc < 0)
				return rc;
			any |= rc;
		}
		return any;
	}
	pod = pod_of(object);
	spec = l7mp_json_member(pod, "spec");
	if (!cJSON_IsObject(spec) || has_container(spec, "containers", NAME) ||
	    has_container(spec, "initContainers", NAME))
		return 0;
	snprintf(what, sizeof(what), "%s %s", l7mp_json_str(object, "kind", ""),
	         l7mp_json_str(l7mp_json_member(object, "metadata"), "name", ""));
	rc = inject_pod(x, pod, what);
	return rc ? rc : 1;
}

static void print_text(struct inject *x, const char *text, size_t len)
{
	/* Documents of a stream are preceded by a separator, except the first. */
	if (x->done++ && strncmp(text, "---", 3) != 0)
		fputs("---\n", stdout);
	fwrite(text, 1, len, stdout);
	if (len && text[len - 1] != '\n')
		putchar('\n');
}

static int print_tree(struct inject *x, cJSON *tree)
{
	char *text = l7mp_yaml_print(tree);

	if (!text)
		return -ENOMEM;
	if (x->done++)
		fputs("---\n", stdout);
	fputs(text, stdout);
	free(text);
	return 0;
}

static int inject_part(void *arg, const char *text, size_t len, int line)
{
	struct inject *x = arg;
	struct l7mp_document *doc = NULL;
	struct l7mp_error err = {0};
	size_t blank = strspn(text, " \t\r\n");
	enum l7mp_syntax syntax = text[blank] == '{' ? L7MP_SYNTAX_JSON : L7MP_SYNTAX_YAML;
	int rc;

	if (l7mp_document_parse(syntax, text, len, &doc, &err)) {
		ctl_error("%s:%d: %s", x->where, err.line ? line + err.line - 1 : line,
		          err.message);
		x->failed = true;
		return -EINVAL;
	}
	rc = inject_object(x, l7mp_document_root(doc));
	if (rc > 0)
		rc = print_tree(x, l7mp_document_root(doc));
	else if (!rc)
		print_text(x, text, len);
	l7mp_document_free(&doc);
	return rc;
}

static int read_manifest(const char *file, char **text, size_t *len)
{
	struct l7mp_str all = {0};
	char bytes[16384];
	size_t n;

	if (strcmp(file, "-") != 0)
		return l7mp_read_file(file, MAX_BYTES, text, len);
	while ((n = fread(bytes, 1, sizeof(bytes), stdin)) > 0 && all.len <= MAX_BYTES)
		l7mp_str_addn(&all, bytes, n);
	if (ferror(stdin) || all.oom || all.len > MAX_BYTES) {
		l7mp_str_free(&all);
		return ferror(stdin) ? -EIO : -EFBIG;
	}
	l7mp_str_add(&all, "");
	*len = all.len;
	*text = l7mp_str_take(&all);
	return *text ? 0 : -ENOMEM;
}

static int kube_inject(struct ctl *c, int argc, char **argv)
{
	struct inject x = {.image = c->image ? c->image : "l7mp:latest",
	                   .redirect = c->mode && !strcmp(c->mode, "redirect")};
	const char *file = c->file ? c->file : "-";
	char *text = NULL;
	size_t len = 0;
	int rc;

	(void)argv;
	if (argc)
		return ctl_usage(
		        "kube-inject: expected no arguments, the manifest is given with -f");
	if (c->mode && strcmp(c->mode, "explicit") != 0 && !x.redirect)
		return ctl_usage("--mode: expected explicit or redirect, got '%s'", c->mode);
	x.where = strcmp(file, "-") != 0 ? file : "stdin";
	rc = read_manifest(file, &text, &len);
	if (rc) {
		ctl_error("%s: %s", x.where, l7mp_errno_text(rc));
		return CTL_FAILED;
	}
	if (text[strspn(text, " \t\r\n")] == '{')
		rc = inject_part(&x, text, len, 1);
	else
		rc = l7mp_yaml_split(text, len, inject_part, &x);
	if (rc == -ENOMEM)
		ctl_error("out of memory");
	free(text);
	return rc < 0 || x.failed ? CTL_FAILED : CTL_OK;
}

const struct ctl_command ctl_inject_commands[] = {{"kube-inject", kube_inject}, {NULL, NULL}};
