/* SPDX-License-Identifier: MIT */
/* kubeconfig files, the files of a pod, credentials of exec plugins, times, back-off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kube/kube_int.h"

static char dir[] = "/tmp/l7mp-kube-XXXXXX";

static char *path_of(const char *name)
{
	return l7mp_asprintf("%s/%s", dir, name);
}

static void write_file(const char *name, const char *text)
{
	char *path = path_of(name);
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	free(path);
}

static int load(const char *text, const char *context, struct kube_config **out,
                struct l7mp_error *err)
{
	char *path = path_of("config");
	int rc;

	write_file("config", text);
	memset(err, 0, sizeof(*err));
	rc = kube_config_load(path, context, out, err);
	free(path);
	return rc;
}

#define HEAD                                                            \
	"apiVersion: v1\nkind: Config\ncurrent-context: one\n"          \
	"contexts:\n"                                                   \
	"- {name: one, context: {cluster: c, user: u, namespace: n}}\n" \
	"- {name: two, context: {cluster: d, user: v}}\n"
#define CLUSTERS                                                                               \
	"clusters:\n"                                                                          \
	"- {name: c, cluster: {server: 'https://10.0.0.1:6443/', certificate-authority-data: " \
	"Q0E=}}\n"                                                                             \
	"- {name: d, cluster: {server: 'https://d', certificate-authority: ca.pem, "           \
	"tls-server-name: kube}}\n"

static void test_contexts(void **state)
{
	struct kube_config *c = NULL;
	struct l7mp_error err;
	char *path;

	(void)state;
	assert_int_equal(load(HEAD CLUSTERS "users:\n- {name: u, user: {token: abc}}\n"
	                                    "- {name: v, user: {tokenFile: t, client-certificate: "
	                                    "/a/cert, client-key-data: S0VZ}}\n",
	                      NULL, &c, &err),
	                 0);
	assert_string_equal(c->server, "https://10.0.0.1:6443");
	assert_string_equal(c->ns, "n");
	assert_string_equal(c->ca.text, "CA");
	assert_string_equal(c->token.text, "abc");
	assert_null(c->tls_name);
	kube_config_free(&c);
	assert_null(c);

	path = path_of("config");
	assert_int_equal(kube_config_load(path, "two", &c, &err), 0);
	free(path);
	assert_string_equal(c->server, "https://d");
	assert_string_equal(c->ns, "default");
	path = path_of("ca.pem");
	assert_string_equal(c->ca.path, path); /* relative to the file */
	free(path);
	assert_string_equal(c->tls_name, "kube");
	assert_string_equal(c->cert.path, "/a/cert");
	assert_string_equal(c->key.text, "KEY");
	assert_null(c->token.text);
	path = path_of("t");
	assert_string_equal(c->token.path, path);
	free(path);
	kube_config_free(&c);
}

static void test_exec(void **state)
{
	struct kube_config *c = NULL;
	struct l7mp_error err;
	char *path;

	(void)state;
	assert_int_equal(load(HEAD CLUSTERS
	                      "users:\n- name: u\n  user:\n    exec:\n"
	                      "      apiVersion: client.authentication.k8s.io/v1\n"
	                      "      command: ./login\n      args: [a, \"b c\"]\n"
	                      "      env: [{name: X, value: y}]\n      provideClusterInfo: true\n"
	                      "      interactiveMode: IfAvailable\n",
	                      NULL, &c, &err),
	                 0);
	path = path_of("./login");
	assert_string_equal(c->exec.command, path);
	free(path);
	assert_string_equal(c->exec.args[1], "b c");
	assert_null(c->exec.args[2]);
	assert_string_equal(c->exec.env[0], "X=y");
	assert_true(c->exec.cluster_info);
	kube_config_free(&c);
}

static void test_errors(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
	        {"[1]", "expected a kubeconfig"},
	        {"a: [", "config:"},
	        {"a: 1", "current-context"},
	        {"current-context: x", "there is none with the name 'x'"},
	        {HEAD "clusters: []\n", "clusters: there is none with the name 'c'"},
	        {HEAD "clusters: [{name: c}]\n", "has no object 'cluster'"},
	        {HEAD "clusters: [{name: c, cluster: {}}]\n", "server: expected the URL"},
	        {HEAD "clusters: [{name: c, cluster: {server: ftp://x}}]\n", "https://"},
	        {HEAD "clusters: [{name: c, cluster: {server: 'https://x?a'}}]\n", "query"},
	        {HEAD "clusters: [{name: c, cluster: {server: 1}}]\n", "expected a string"},
	        {HEAD "clusters: [{name: c, cluster: {server: 'https://x', "
	              "certificate-authority-data: '%'}}]\n",
	         "base64"},
	        {HEAD "clusters: [{name: c, cluster: {server: 'https://x', "
	              "certificate-authority-data: Q0E=, insecure-skip-tls-verify: true}}]\n",
	         "contradict"},
	        {HEAD CLUSTERS "users: []\n", "users: there is none with the name 'u'"},
	        {HEAD CLUSTERS "users: [{name: u, user: {username: a, password: b}}]\n",
	         "'username' is not supported"},
	        {HEAD CLUSTERS "users: [{name: u, user: {as: root}}]\n", "'as' is not supported"},
	        {HEAD CLUSTERS "users: [{name: u, user: {token: \"a\\nb\"}}]\n", "printable"},
	        {HEAD CLUSTERS "users: [{name: u, user: {client-certificate: x}}]\n", "client-key"},
	        {HEAD CLUSTERS "users: [{name: u, user: {exec: {command: x}}}]\n", "apiVersion"},
	        {HEAD CLUSTERS "users: [{name: u, user: {exec: {apiVersion: "
	                       "client.authentication.k8s.io/v1}}}]\n",
	         "command"},
	        {HEAD CLUSTERS "users: [{name: u, user: {exec: {command: x, interactiveMode: "
	                       "Always, apiVersion: client.authentication.k8s.io/v1}}}]\n",
	         "terminal"},
	        {HEAD CLUSTERS "users: [{name: u, user: {exec: {command: x, args: [1], apiVersion: "
	                       "client.authentication.k8s.io/v1}}}]\n",
	         "list of strings"},
	};
	struct kube_config *c;
	struct l7mp_error err;

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		assert_true(load(cases[i].text, NULL, &c, &err) < 0);
		assert_null(c);
		if (!strstr(err.message, cases[i].want))
			fail_msg("case %zu: '%s' lacks '%s'", i, err.message, cases[i].want);
	}
	assert_int_equal(kube_config_load("/nonexistent/config", NULL, &c, &err), -ENOENT);
	assert_non_null(strstr(err.message, "/nonexistent/config"));
}

static void test_find(void **state)
{
	struct kube_config *c = NULL;
	struct l7mp_error err = {0};

	(void)state;
	setenv("HOME", dir, 1);
	unsetenv("KUBECONFIG");
	unsetenv("KUBERNETES_SERVICE_HOST");
	assert_int_equal(kube_config_find(NULL, NULL, dir, &c, &err), -ENOENT);
	assert_non_null(strstr(err.message, "where is the cluster"));
	setenv("KUBECONFIG", "/a:/b", 1);
	assert_int_equal(kube_config_find(NULL, NULL, dir, &c, &err), -EINVAL);
	unsetenv("KUBECONFIG");

	setenv("KUBERNETES_SERVICE_HOST", "fd00::1", 1);
	setenv("KUBERNETES_SERVICE_PORT", "443", 1);
	assert_true(kube_config_find(NULL, NULL, dir, &c, &err) < 0); /* no token yet */
	write_file("token", " first\n");
	assert_true(kube_config_find(NULL, NULL, dir, &c, &err) < 0);
	assert_non_null(strstr(err.message, "ca.crt"));
	write_file("ca.crt", "PEM");
	write_file("namespace", "mesh");
	assert_int_equal(kube_config_find(NULL, NULL, dir, &c, &err), 0);
	assert_string_equal(c->server, "https://[fd00::1]:443");
	assert_string_equal(c->token.text, "first");
	assert_string_equal(c->ns, "mesh");
	/* Read again when a minute is over, or at once. */
	write_file("token", "second");
	assert_int_equal(kube_file_read(&c->token, KUBE_FILE_AGE_MS - 1, false, &err), 0);
	assert_string_equal(c->token.text, "first");
	assert_int_equal(kube_file_read(&c->token, KUBE_FILE_AGE_MS, false, &err), 0);
	assert_string_equal(c->token.text, "second");
	/* One that makes no sense, or vanishes, does not take the good one away. */
	write_file("token", "two words");
	assert_int_equal(kube_file_read(&c->token, 0, true, &err), 0);
	assert_string_equal(c->token.text, "second");
	write_file("token", "third");
	assert_int_equal(kube_file_read(&c->token, 0, true, &err), 0);
	assert_string_equal(c->token.text, "third");
	kube_config_free(&c);
	unsetenv("KUBERNETES_SERVICE_HOST");
}

static const char *exec_error(const char *text, struct kube_exec_result *out)
{
	cJSON *root = l7mp_json_parse(text, strlen(text), NULL, NULL, 0);
	const char *error;

	assert_non_null(root);
	kube_exec_parse(root, "client.authentication.k8s.io/v1", out);
	error = out->error;
	cJSON_Delete(root);
	return error;
}

#define CREDENTIAL                                                                    \
	"{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/" \
	"v1\",\"status\":"

static void test_exec_results(void **state)
{
	struct kube_exec_result r;

	(void)state;
	assert_null(exec_error(CREDENTIAL "{\"token\":\"t\",\"expirationTimestamp\":"
	                                  "\"2026-11-28T14:00:00Z\"}}",
	                       &r));
	assert_int_equal(r.expires_ms, 1795874400000);
	assert_null(exec_error(CREDENTIAL "{\"clientCertificateData\":\"c\",\"clientKeyData\":"
	                                  "\"k\"}}",
	                       &r));
	assert_int_equal(r.expires_ms, 0);
	assert_non_null(exec_error(CREDENTIAL "{}}", &r));
	assert_null(r.token);
	assert_non_null(exec_error(CREDENTIAL "{\"token\":\"a b\"}}", &r));
	assert_non_null(exec_error(CREDENTIAL "{\"clientCertificateData\":\"c\"}}", &r));
	assert_non_null(
	        exec_error(CREDENTIAL "{\"token\":\"t\",\"expirationTimestamp\":\"soon\"}}", &r));
	assert_non_null(exec_error("{\"kind\":\"Other\"}", &r));
	assert_non_null(exec_error("{\"kind\":\"ExecCredential\",\"apiVersion\":\"v1\"}", &r));
	assert_non_null(exec_error("[]", &r));
}

static void test_times(void **state)
{
	uint64_t ms = 0;
	char now[KUBE_TIME_LEN];

	(void)state;
	assert_int_equal(kube_time_parse("1970-01-01T00:00:10Z", &ms), 0);
	assert_int_equal(ms, 10000);
	assert_int_equal(kube_time_parse("1970-01-01T02:00:10.123456+02:00", &ms), 0);
	assert_int_equal(ms, 10000);
	assert_int_equal(kube_time_parse("1970-01-01T00:00:10", &ms), -EINVAL);
	assert_int_equal(kube_time_parse("tomorrow", &ms), -EINVAL);
	assert_int_equal(kube_time_parse("", &ms), -EINVAL);
	assert_int_equal(strlen(kube_time(now)), 27);
	assert_int_equal(kube_time_parse(now, &ms), 0);
	assert_true(l7mp_wallclock_ms() - ms < 3600000);
}

static void test_base64(void **state)
{
	char *text = kube_base64("Q0\nEK"), *back;

	(void)state;
	assert_string_equal(text, "CA\n");
	back = kube_base64_encode(text);
	assert_string_equal(back, "Q0EK");
	free(back);
	free(text);
	assert_null(kube_base64(""));
	assert_null(kube_base64("Q0E"));
	assert_null(kube_base64("****"));
	assert_null(kube_base64("QQBB")); /* a NUL byte in it */
}

static void test_backoff(void **state)
{
	struct kube_backoff b = {.min_ms = 100, .max_ms = 3000};
	static const uint32_t want[] = {100, 200, 400, 800, 1600, 3000, 3000, 3000};
	bool differs = false;

	(void)state;
	for (int round = 0; round < 50; round++) {
		for (size_t i = 0; i < L7MP_ARRAY_SIZE(want); i++) {
			uint32_t ms = kube_backoff_next(&b);

			assert_in_range(ms, want[i] / 2, want[i]);
			differs = differs || ms != want[i];
		}
		kube_backoff_reset(&b);
	}
	assert_true(differs); /* not all clients at the same time */
	for (int i = 0; i < 1000; i++)
		assert_in_range(kube_random(240, 480), 240, 480);
	assert_int_equal(kube_random(7, 7), 7);
}

static void test_paths(void **state)
{
	static const struct kube_resource pods = {"", "v1", "pods"},
	                                  vs = {"l7mp.io", "v1", "virtualservices"};
	struct l7mp_str s = {0};

	(void)state;
	kube_path(&s, &pods, NULL, NULL, NULL);
	l7mp_str_add(&s, " ");
	kube_path(&s, &vs, "ns", "a/b c", "status");
	l7mp_str_add(&s, " ");
	kube_path(&s, &vs, "", "n", NULL);
	assert_string_equal(s.s, "/api/v1/pods "
	                         "/apis/l7mp.io/v1/namespaces/ns/virtualservices/a%2Fb%20c/status "
	                         "/apis/l7mp.io/v1/virtualservices/n");
	l7mp_str_free(&s);
}

static int make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	static const char *const names[] = {"config", "token", "ca.crt", "namespace"};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(names); i++) {
		char *path = path_of(names[i]);

		unlink(path);
		free(path);
	}
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_contexts),     cmocka_unit_test(test_exec),
	        cmocka_unit_test(test_errors),       cmocka_unit_test(test_find),
	        cmocka_unit_test(test_exec_results), cmocka_unit_test(test_times),
	        cmocka_unit_test(test_base64),       cmocka_unit_test(test_backoff),
	        cmocka_unit_test(test_paths),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
