/* SPDX-License-Identifier: MIT */
/* l7mp-operator --render: objects from files instead of a cluster. */
#include "offline.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crds.h"
#include "l7mp/config.h"
#include "l7mp/util.h"

#define FILE_MAX (64 * 1024 * 1024)
/* Creation time of objects without one; a constant, so that the output is reproducible. */
#define TIME "1970-01-01T00:00:00Z"

struct offline {
	const struct op_offline_options *o;
	struct op_store *store;
	bool failed;
	size_t objects;
};

static void complain(struct offline *x, const char *where, int line, const char *message)
{
	char number[16] = "";

	if (line > 0)
		snprintf(number, sizeof(number), ":%d", line);
	fprintf(stderr, "l7mp-operator: %s%s: %s\n", where, number, message);
	x->failed = true;
}

/* ---- objects ---- */

/* Adds defaults that the API server would set. */
static int complete(enum op_kind kind, cJSON *object)
{
	cJSON *meta = l7mp_json_member(object, "metadata");

	if (!cJSON_IsObject(meta))
		return 0;
	if (op_kinds[kind].namespaced && !l7mp_json_member(meta, "namespace") &&
	    l7mp_json_add_str(meta, "namespace", "default"))
		return -ENOMEM;
	if (!l7mp_json_member(meta, "generation") && l7mp_json_add_num(meta, "generation", 1))
		return -ENOMEM;
	if (!l7mp_json_member(meta, "uid")) {
		char *uid = l7mp_asprintf("%s/%s/%s", op_kinds[kind].plural,
		                          l7mp_json_str(meta, "namespace", ""),
		                          l7mp_json_str(meta, "name", ""));
		int rc = uid ? l7mp_json_add_str(meta, "uid", uid) : -ENOMEM;

		free(uid);
		return rc;
	}
	return 0;
}

static void add_object(struct offline *x, const char *where, int line, cJSON *object)
{
	const char *version = l7mp_json_str(object, "apiVersion", NULL);
	const char *name = l7mp_json_str(object, "kind", NULL);
	enum op_kind kind = op_kind_find(version, name);
	struct l7mp_error err = {0};
	char text[700];
	cJSON *item;

	if (!cJSON_IsObject(object) || !version || !name) {
		complain(x, where, line, "expected an object with apiVersion and kind");
		return;
	}
	if (strcmp(name, "List") == 0) {
		cJSON_ArrayForEach (item, l7mp_json_member(object, "items"))
			add_object(x, where, line, item);
		return;
	}
	if (kind == OP_KINDS)
		return;
	if (complete(kind, object)) {
		complain(x, where, line, "out of memory");
	} else if (op_store_put(x->store, kind, object, NULL, &err)) {
		snprintf(text, sizeof(text), "%s: %s", name, err.message);
		complain(x, where, line, text);
	} else {
		x->objects++;
	}
}

/* ---- files ---- */

/* Parses one document. On errors the message does not quote the document, which may be a Secret. */
static void add_document(struct offline *x, const char *where, int first, enum l7mp_syntax syntax,
                         const char *text, size_t len)
{
	struct l7mp_document *doc = NULL;
	struct l7mp_error err = {0};
	cJSON *root;

	if (l7mp_document_parse(syntax, text, len, &doc, &err)) {
		complain(x, where, err.line ? first + err.line - 1 : 0, err.message);
		return;
	}
	root = l7mp_document_root(doc);
	/* Only comments. */
	if (!cJSON_IsNull(root))
		add_object(x, where, first + l7mp_document_line(doc, root) - 1, root);
	l7mp_document_free(&doc);
}

struct part {
	struct offline *x;
	const char *where;
};

static int add_part(void *arg, const char *text, size_t len, int line)
{
	const struct part *p = arg;

	add_document(p->x, p->where, line, L7MP_SYNTAX_YAML, text, len);
	return 0;
}

static void add_text(struct offline *x, const char *where, const char *text, size_t len)
{
	struct part p = {x, where};
	size_t blank = strspn(text, " \t\r\n");

	if (text[blank] == '{')
		add_document(x, where, 1, L7MP_SYNTAX_JSON, text, len);
	else
		l7mp_yaml_split(text, len, add_part, &p);
}

static void add_stdin(struct offline *x)
{
	struct l7mp_str text = {0};
	char piece[16384];
	size_t n;

	while ((n = fread(piece, 1, sizeof(piece), stdin)) > 0 && text.len <= FILE_MAX)
		l7mp_str_addn(&text, piece, n);
	if (ferror(stdin) || text.oom || text.len > FILE_MAX)
		complain(x, "stdin", 0, "can't be read, or is larger than 64 MiB");
	else if (text.s)
		add_text(x, "stdin", text.s, text.len);
	l7mp_str_free(&text);
}

static void add_file(struct offline *x, const char *path)
{
	char *text = NULL;
	size_t len = 0;
	int rc = l7mp_read_file(path, FILE_MAX, &text, &len);

	if (rc)
		complain(x, path, 0, l7mp_errno_text(rc));
	else
		add_text(x, path, text, len);
	free(text);
}

static bool has_suffix(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot &&
	       (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0 || strcmp(dot, ".json") == 0);
}

/* The files of a directory in the order of their names; not recursive. */
static void add_directory(struct offline *x, const char *path)
{
	struct dirent **names = NULL;
	int n = scandir(path, &names, NULL, alphasort);

	if (n < 0)
		complain(x, path, 0, l7mp_errno_text(errno));
	for (int i = 0; i < n; i++) {
		char *file = has_suffix(names[i]->d_name)
		                     ? l7mp_asprintf("%s/%s", path, names[i]->d_name)
		                     : NULL;

		if (file)
			add_file(x, file);
		free(file);
		free(names[i]);
	}
	free(names);
}

static void add_path(struct offline *x, const char *path)
{
	struct stat st;

	if (strcmp(path, "-") == 0)
		add_stdin(x);
	else if (stat(path, &st))
		complain(x, path, 0, l7mp_errno_text(errno));
	else if (S_ISDIR(st.st_mode))
		add_directory(x, path);
	else
		add_file(x, path);
}

/* ---- output ---- */

static void print_yaml(struct offline *x, cJSON *tree)
{
	char *text = tree ? l7mp_yaml_print(tree) : NULL;

	if (text)
		printf("---\n%s", text);
	else
		complain(x, "output", 0, "out of memory");
	free(text);
	cJSON_Delete(tree);
}

static void print_proxy(struct offline *x, const struct op_proxy *p)
{
	cJSON *tree = cJSON_CreateObject(), *pod = cJSON_CreateObject();
	char hash[20];
	int rc;

	snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)p->hash);
	rc = l7mp_json_add_str(pod, "namespace", p->ns);
	rc = rc ? rc : l7mp_json_add_str(pod, "name", p->name);
	rc = rc ? rc : l7mp_json_add_str(pod, "address", p->address);
	rc = rc ? rc : l7mp_json_add_num(pod, "port", p->port);
	rc = rc ? rc : l7mp_json_add_str(pod, "hash", hash);
	if (rc) {
		cJSON_Delete(pod);
	} else {
		rc = l7mp_json_add(tree, "proxy", pod);
		rc = rc ? rc : l7mp_json_add(tree, "config", cJSON_Parse(p->document->text));
	}
	if (rc) {
		cJSON_Delete(tree);
		tree = NULL;
	}
	print_yaml(x, tree);
}

static bool is_refused(const cJSON *status)
{
	const cJSON *c, *list = l7mp_json_member(status, "conditions");

	cJSON_ArrayForEach (c, list)
		if (strcmp(l7mp_json_str(c, "type", ""), "Accepted") == 0 &&
		    strcmp(l7mp_json_str(c, "status", ""), "True") != 0) {
			return true;
		}
	return false;
}

static void print_statuses(struct offline *x, const struct op_result *r)
{
	struct op_writes w;
	cJSON *tree = cJSON_CreateObject(), *list = cJSON_CreateArray();

	if (l7mp_json_add(tree, "statuses", list) || op_statuses(x->store, r, TIME, &w)) {
		complain(x, "output", 0, "out of memory");
		cJSON_Delete(tree);
		return;
	}
	for (size_t i = 0; i < w.n; i++) {
		cJSON *e = cJSON_CreateObject();
		cJSON *status = cJSON_DetachItemFromObjectCaseSensitive(w.w[i].body, "status");

		if (w.w[i].write != OP_WRITE_STATUS) {
			cJSON_Delete(status);
			cJSON_Delete(e);
			continue;
		}
		x->failed = x->failed || is_refused(status);
		if (l7mp_json_add_str(e, "kind", w.w[i].kind) ||
		    (*w.w[i].ns && l7mp_json_add_str(e, "namespace", w.w[i].ns)) ||
		    l7mp_json_add_str(e, "name", w.w[i].name) ||
		    l7mp_json_add(e, "status", status) || !cJSON_AddItemToArray(list, e))
			complain(x, "output", 0, "out of memory");
	}
	op_writes_free(&w);
	print_yaml(x, tree);
}

int op_offline_render(const struct l7mp_registry *registry, const struct op_offline_options *o)
{
	struct offline x = {.o = o};
	struct op_result *r = NULL;

	if (op_store_new(registry, &o->settings, &x.store))
		return 1;
	for (int i = 0; i < o->n_files; i++)
		add_path(&x, o->files[i]);
	if (op_render(x.store, NULL, &r)) {
		complain(&x, "output", 0, "out of memory");
	} else {
		for (size_t i = 0; i < op_result_count(r) && !o->statuses_only; i++)
			print_proxy(&x, op_result_proxy(r, i));
		print_statuses(&x, r);
	}
	op_result_free(&r);
	op_store_free(&x.store);
	if (fflush(stdout) || ferror(stdout))
		x.failed = true;
	return x.failed;
}

int op_offline_crds(const struct l7mp_registry *registry)
{
	struct offline x = {0};
	cJSON *all = op_crds(registry), *crd;

	if (!all)
		complain(&x, "output", 0, "out of memory");
	puts("# Written by: l7mp-operator --crds");
	while (all && (crd = all->child))
		print_yaml(&x, cJSON_DetachItemViaPointer(all, crd));
	cJSON_Delete(all);
	if (fflush(stdout) || ferror(stdout))
		x.failed = true;
	return x.failed;
}
