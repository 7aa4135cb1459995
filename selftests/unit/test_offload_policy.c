/* SPDX-License-Identifier: MIT */
/*
 * What needs no kernel: choosing hooks, wanted interfaces, saving and restoring sysctls, an idle
 * engine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "offload/engine.h"

/* ---- sysctls, in a directory of our own ---- */

struct dir {
	char path[64];
};

static void put(const struct dir *d, const char *name, const char *value)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", d->path, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(value, f);
	fclose(f);
}

static int get(const struct dir *d, const char *name)
{
	char path[128], text[16] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", d->path, name);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	fclose(f);
	return atoi(text);
}

static int setup(void **state)
{
	struct dir *d = calloc(1, sizeof(*d));

	if (!d)
		return -1;
	snprintf(d->path, sizeof(d->path), "/tmp/l7mp-sysctl-XXXXXX");
	*state = d;
	return mkdtemp(d->path) ? 0 : -1;
}

static int teardown(void **state)
{
	struct dir *d = *state;
	char path[128];

	for (int i = 0; i < OFF_SYSCTLS; i++) {
		snprintf(path, sizeof(path), "%s/%s", d->path, off_sysctl_names[i]);
		unlink(path);
	}
	rmdir(d->path);
	free(d);
	return 0;
}

static void test_restore(void **state)
{
	struct dir *d = *state;
	struct off_sysctls s;

	off_sysctls_init(&s);
	put(d, "route_localnet", "0\n");
	put(d, "accept_local", "0\n");
	assert_int_equal(off_sysctls_set(&s, d->path), 0);
	assert_true(s.ready);
	assert_int_equal(get(d, "route_localnet"), 1);
	assert_int_equal(get(d, "accept_local"), 1);
	off_sysctls_restore(&s, d->path);
	assert_false(s.ready);
	assert_int_equal(get(d, "route_localnet"), 0);
	assert_int_equal(get(d, "accept_local"), 0);
	/* only once: a later setting of the user is kept */
	put(d, "accept_local", "1\n");
	off_sysctls_restore(&s, d->path);
	assert_int_equal(get(d, "accept_local"), 1);
}

static void test_was_set(void **state)
{
	struct dir *d = *state;
	struct off_sysctls s;

	off_sysctls_init(&s);
	put(d, "route_localnet", "1\n");
	put(d, "accept_local", "0\n");
	assert_int_equal(off_sysctls_set(&s, d->path), 0);
	assert_int_equal(s.old[OFF_ROUTE_LOCALNET], -1);
	assert_int_equal(s.old[OFF_ACCEPT_LOCAL], 0);
	off_sysctls_restore(&s, d->path);
	assert_int_equal(get(d, "route_localnet"), 1);
	assert_int_equal(get(d, "accept_local"), 0);
}

static void test_changed_meanwhile(void **state)
{
	struct dir *d = *state;
	struct off_sysctls s;

	off_sysctls_init(&s);
	put(d, "route_localnet", "0\n");
	put(d, "accept_local", "0\n");
	assert_int_equal(off_sysctls_set(&s, d->path), 0);
	put(d, "route_localnet", "2\n");
	off_sysctls_restore(&s, d->path);
	assert_int_equal(get(d, "route_localnet"), 2);
}

static void test_half(void **state)
{
	struct dir *d = *state;
	struct off_sysctls s;

	off_sysctls_init(&s);
	put(d, "route_localnet", "0\n");
	assert_true(off_sysctls_set(&s, d->path) < 0); /* the second is missing */
	assert_false(s.ready);
	assert_int_equal(get(d, "route_localnet"), 0);
}

/* ---- choosing ---- */

static struct off_link device(const char *name, const char *kind, uint16_t type)
{
	struct off_link l = {.type = type, .flags = IFF_UP, .mtu = 1500};

	snprintf(l.name, sizeof(l.name), "%s", name);
	snprintf(l.kind, sizeof(l.kind), "%s", kind);
	return l;
}

static void test_choice(void **state)
{
	static const struct {
		const char *kind;
		uint16_t type;
		enum l7mp_offload_mode mode;
		enum off_hook want;
	} cases[] = {
	        {"", OFF_ARP_ETHER, L7MP_MODE_AUTO, OFF_HOOK_NATIVE},
	        {"", OFF_ARP_ETHER, L7MP_MODE_TC, OFF_HOOK_TC},
	        {"", OFF_ARP_ETHER, L7MP_MODE_GENERIC, OFF_HOOK_GENERIC},
	        {"veth", OFF_ARP_ETHER, L7MP_MODE_AUTO, OFF_HOOK_TC},
	        {"veth", OFF_ARP_ETHER, L7MP_MODE_NATIVE, OFF_HOOK_NATIVE},
	        {"bridge", OFF_ARP_ETHER, L7MP_MODE_AUTO, OFF_HOOK_TC},
	        {"vlan", OFF_ARP_ETHER, L7MP_MODE_AUTO, OFF_HOOK_TC},
	        {"tun", 65534, L7MP_MODE_AUTO, OFF_HOOK_TC},
	        {"tun", 65534, L7MP_MODE_NATIVE, OFF_HOOK_TC}, /* no link header: never XDP */
	        {"", OFF_ARP_LOOPBACK, L7MP_MODE_GENERIC, OFF_HOOK_TC},
	        {"bond", OFF_ARP_ETHER, L7MP_MODE_AUTO, OFF_HOOK_NATIVE},
	};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		struct off_link l = device("x0", cases[i].kind, cases[i].type);
		struct off_choice c;

		off_choose(&l, cases[i].mode, &c);
		assert_int_equal(c.hook, cases[i].want);
		assert_true(c.why[0]);
		assert_int_equal(c.fall_back, c.hook != OFF_HOOK_TC);
	}
}

static void test_wanted(void **state)
{
	char eth0[] = "eth0", all[] = "all", lo_name[] = "lo";
	char *one[] = {eth0}, *every[] = {all}, *both[] = {all, lo_name};
	struct off_settings s = {.ifs = one, .n_ifs = 1};
	struct off_link l = device("eth0", "", OFF_ARP_ETHER),
	                m = device("eth1", "", OFF_ARP_ETHER),
	                lo = device("lo", "", OFF_ARP_LOOPBACK);

	(void)state;
	assert_true(off_attach_wanted(&s, &l));
	assert_false(off_attach_wanted(&s, &m));
	s.ifs = every;
	s.all = true;
	assert_true(off_attach_wanted(&s, &m));
	assert_false(off_attach_wanted(&s, &lo)); /* only by name */
	m.flags = 0;
	assert_false(off_attach_wanted(&s, &m)); /* when it is up */
	m.hook = OFF_HOOK_TC;
	assert_true(off_attach_wanted(&s, &m)); /* and then it stays */
	s.ifs = both;
	s.n_ifs = 2;
	assert_true(off_attach_wanted(&s, &lo));
}

/* ---- an engine without interfaces ---- */

static void test_idle_engine(void **state)
{
	struct l7mp_loop *loop;
	struct l7mp_stats stats = {0};
	struct l7mp_offload_engine *e;
	char instance[] = "unit";
	struct l7mp_admin admin = {.instance = instance};
	struct l7mp_flow_end end = {.kind = L7MP_FLOW_SOCKET, .l4 = IPPROTO_UDP};
	const struct l7mp_offload *ops;
	struct l7mp_error err;
	const struct l7mp_flow_owner owner = {.cookie = 1};
	struct l7mp_flow *flow;
	cJSON *json;

	(void)state;
	assert_int_equal(l7mp_loop_new_manual(&loop), 0);
	assert_int_equal(
	        l7mp_offload_new(&(struct l7mp_offload_params){.loop = loop, .stats = &stats}, &e),
	        0);
	assert_int_equal(l7mp_offload_reconfigure(e, &admin, &err), 0);
	ops = l7mp_offload_ops(e);
	assert_int_equal(ops->add(ops->ctx, &end, &end, &owner, &flow), L7MP_REASON_INTERFACE);
	json = l7mp_offload_to_json(e);
	assert_string_equal(l7mp_json_str(json, "state", ""), "disabled");
	cJSON_Delete(json);
	admin.offload = L7MP_OFFLOAD_DISABLE;
	assert_int_equal(l7mp_offload_reconfigure(e, &admin, &err), 0);
	assert_int_equal(ops->add(ops->ctx, &end, &end, &owner, &flow), L7MP_REASON_DISABLED);
	l7mp_offload_stop(e);
	l7mp_offload_free(&e);
	assert_null(e);
	l7mp_loop_free(&loop);
}

static void test_doctor(void **state)
{
	char eth[] = "lo", instance[] = "unit";
	char *ifs[] = {eth};
	struct l7mp_admin admin = {.instance = instance, .offload_ifs = ifs, .n_offload_ifs = 1};
	cJSON *json = l7mp_offload_doctor(&admin), *c, *lo = NULL;
	unsigned n = 0;
	bool ok = true;

	(void)state;
	assert_non_null(json);
	cJSON_ArrayForEach (c, l7mp_json_member(json, "checks")) {
		bool fine = l7mp_json_bool(c, "ok", false);

		assert_true(*l7mp_json_str(c, "check", ""));
		assert_true(*l7mp_json_str(c, "found", ""));
		/* what is not right comes with what to do */
		assert_int_equal(!*l7mp_json_str(c, "advice", ""), fine);
		ok = ok && (fine || !l7mp_json_bool(c, "needed", true));
		n++;
	}
	assert_true(n >= 8);
	assert_int_equal(l7mp_json_bool(json, "ok", !ok), ok);
	cJSON_ArrayForEach (c, l7mp_json_member(json, "interfaces"))
		if (!strcmp(l7mp_json_str(c, "name", ""), "lo"))
			lo = c;
	assert_non_null(lo);
	assert_true(l7mp_json_bool(lo, "enabled", false));
	assert_string_equal(l7mp_json_str(lo, "hook", ""), "tc");
	cJSON_Delete(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_restore, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_was_set, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_changed_meanwhile, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_half, setup, teardown),
	        cmocka_unit_test(test_choice),
	        cmocka_unit_test(test_wanted),
	        cmocka_unit_test(test_idle_engine),
	        cmocka_unit_test(test_doctor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
