/* SPDX-License-Identifier: MIT */
/* One-liners: what two addresses become, and how what is wrong with them is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l7mp/oneliner.h"
#include "l7mp/protodesc.h"
#include "l7mp/util.h"

/* Protocols with the keys that options may set. */
static const struct l7mp_field tcp_listener_fields[] = {{.key = "address", .type = L7MP_T_STRING},
                                                        {.key = "port", .type = L7MP_T_INT},
                                                        {.key = "tls", .type = L7MP_T_OBJECT},
                                                        {0}};
static const struct l7mp_schema tcp_listener = {.name = "tl", .fields = tcp_listener_fields};
static const struct l7mp_field logger_fields[] = {{.key = "log_file", .type = L7MP_T_STRING},
                                                  {.key = "log_prefix", .type = L7MP_T_STRING},
                                                  {.key = "log_time", .type = L7MP_T_BOOL},
                                                  {0}};
static const struct l7mp_schema logger_spec = {.name = "lc", .fields = logger_fields};
static const struct l7mp_protodesc tcp = {.name = "TCP",
                                          .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                                          .listener_spec = &tcp_listener};
static const struct l7mp_protodesc logger = {
        .name = "Logger", .roles = L7MP_ROLE_CLUSTER, .cluster_spec = &logger_spec};
static const struct l7mp_protodesc *const descs[] = {&tcp, &logger, NULL};
static const struct l7mp_registry registry = {.descs = descs};

static cJSON *make(const char *first, const char *second, struct l7mp_error *err)
{
	struct l7mp_oneliner o = {.first = first, .second = second};

	return l7mp_oneliner_config(&registry, &o, err);
}

#define ROUTE "/listeners/0/rules/0/action/route"

/* Listener spec, destination spec and its address (JSON with ' for "). */
static void expect(const char *first, const char *second, const char *listener, const char *cluster,
                   const char *address)
{
	static const char *const at[] = {"/listeners/0/spec", ROUTE "/destination/spec",
	                                 ROUTE "/destination/endpoints/0/spec/address"};
	const char *want[] = {listener, cluster, address};
	struct l7mp_error err = {0};
	cJSON *config = make(first, second, &err);

	if (!config)
		fail_msg("%s %s: %s", first, second, err.message);
	for (size_t i = 0; i < 3; i++) {
		const cJSON *got = l7mp_json_get(config, at[i]);
		char text[512], line[600];
		cJSON *node;

		if (!want[i]) {
			assert_null(got);
			continue;
		}
		snprintf(text, sizeof(text), "%s", want[i]);
		for (char *s = text; *s; s++)
			if (*s == '\'')
				*s = '"';
		node = cJSON_Parse(text);
		assert_non_null(node);
		if (!got || !l7mp_json_equal(node, got))
			fail_msg("%s %s: expected %s, got %s", first, second, want[i],
			         got ? l7mp_json_brief(got, line, sizeof(line)) : "nothing");
		cJSON_Delete(node);
	}
	cJSON_Delete(config);
}

static void addresses(void **state)
{
	(void)state;
	expect("UDP-LISTEN:15000", "WS:127.0.0.1:16000/path", "{'protocol':'UDP','port':15000}",
	       "{'protocol':'WebSocket','port':16000,'path':'/path'}", "'127.0.0.1'");
	expect("tcp4-listen:80", "TCP:[::1]:81", "{'protocol':'TCP','address':'0.0.0.0','port':80}",
	       "{'protocol':'TCP','port':81}", "'::1'");
	expect("TCP6-L:80", "TCP4:host.example:81", "{'protocol':'TCP','address':'::','port':80}",
	       "{'protocol':'TCP','port':81,'bind':{'address':'0.0.0.0'}}", "'host.example'");
	expect("TCP-L:[::1]:80", "UDP:h:1,bind=10.0.0.1:77",
	       "{'protocol':'TCP','address':'::1','port':80}",
	       "{'protocol':'UDP','port':1,'bind':{'address':'10.0.0.1','port':77}}", "'h'");
	expect("TCP-L:80,bind=::1,fork,reuseaddr", "UDP:h:1,sp=9",
	       "{'protocol':'TCP','address':'::1','port':80}",
	       "{'protocol':'UDP','port':1,'bind':{'port':9}}", "'h'");
	expect("ws-l:127.0.0.1:8080/chat", "wss://echo.example/x?y=1",
	       "{'protocol':'WebSocket','address':'127.0.0.1','port':8080,'path':'/chat'}",
	       "{'protocol':'WebSocket','port':443,'path':'/x?y=1','tls':{}}", "'echo.example'");
	expect("ABSTRACT-LISTEN:a", "UNIX-SENDTO:/b,bind=/c",
	       "{'protocol':'UnixDomainSocket','filename':'@a'}",
	       "{'protocol':'UNIX/dgram','bind':{'filename':'/c'}}", "'/b'");
	expect("PIPE:/a", "PIPE:/b", "{'protocol':'PIPE','filename':'/a'}", "{'protocol':'PIPE'}",
	       "'/b'");
	expect("PIPE:/a", "PIPE", "{'protocol':'PIPE','filename':'/a'}", "{'protocol':'Echo'}",
	       NULL);
	expect("INTERFACE:eth0", "PACKET:eth1", "{'protocol':'AF_PACKET','interface':'eth0'}",
	       "{'protocol':'AF_PACKET'}", "'eth1'");
	expect("JSONSOCKET-LISTEN:UDP-LISTEN:9,bind=1.2.3.4", "SYNC:/a/b",
	       "{'protocol':'JSONSocket','transport':{'protocol':'UDP','port':9,'address':'1.2.3."
	       "4'}}",
	       "{'protocol':'Sync','query':'/a/b'}", NULL);
	expect("TCP-L:1", "JSONSOCKET:WS:h:2/p", "{'protocol':'TCP','port':1}",
	       "{'protocol':'JSONSocket','transport':{'protocol':'WebSocket','port':2,'path':'/"
	       "p'}}",
	       "'h'");
}

static void the_listener_may_come_second(void **state)
{
	(void)state;
	expect("-", "TCP-LISTEN:80", "{'protocol':'TCP','port':80}", "{'protocol':'Stdio'}", NULL);
	/* A UDP socket with a peer listens when nobody else does. */
	expect("UDP:10.0.0.1:5000,sp=6000", "STDIO",
	       "{'protocol':'UDP','port':6000,'connect':{'address':'10.0.0.1','port':5000}}",
	       "{'protocol':'Stdio'}", NULL);
	expect("UDP:10.0.0.1:5000", "UDP-LISTEN:6000", "{'protocol':'UDP','port':6000}",
	       "{'protocol':'UDP','port':5000}", "'10.0.0.1'");
}

static void commands(void **state)
{
	(void)state;
	expect("TCP-L:1", "EXEC:cat -u", "{'protocol':'TCP','port':1}",
	       "{'protocol':'STDIO-fork','command':['cat','-u']}", NULL);
	expect("TCP-L:1", "EXEC:\"cat -u\",cd=/tmp", "{'protocol':'TCP','port':1}",
	       "{'protocol':'STDIO-fork','command':['cat','-u'],'cwd':'/tmp'}", NULL);
	expect("TCP-L:1", "EXEC:sed 's/a,b/c d/' \"x y\" z\\ w ''", "{'protocol':'TCP','port':1}",
	       "{'protocol':'STDIO-fork','command':['sed','s/a,b/c d/','x y','z w','']}", NULL);
}

static void options(void **state)
{
	(void)state;
	expect("UDP-L:1,dscp=pass", "UDP:h:2",
	       "{'protocol':'UDP','port':1,'options':{'dscp':'pass'}}",
	       "{'protocol':'UDP','port':2}", "'h'");
	expect("UDP-L:1,dscp=46,rcvbuf=65536,reuseport,connect=10.0.0.1,mode=singleton",
	       "UDP:h:2,tos=0x28",
	       "{'protocol':'UDP','port':1,'connect':{'address':'10.0.0.1'},'options':{'dscp':46,"
	       "'rcvbuf':65536,'reuseport':true,'mode':'singleton'}}",
	       "{'protocol':'UDP','port':2,'options':{'dscp':10}}", "'h'");
	expect("OPENSSL-LISTEN:1,cert=/c,cafile=/a", "OPENSSL:h:2,cafile=/a,commonname=n,verify=1",
	       "{'protocol':'TCP','port':1,'tls':{'cert':'/c','key':'/c','client_ca':'/a'}}",
	       "{'protocol':'TCP','port':2,'tls':{'ca':'/a','sni':'n'}}", "'h'");
	expect("OPENSSL-LISTEN:1,cert=/c,key=/k,cafile=/a,verify=0", "SSL:h:2,verify=0",
	       "{'protocol':'TCP','port':1,'tls':{'cert':'/c','key':'/k'}}",
	       "{'protocol':'TCP','port':2,'tls':{'insecure':true}}", "'h'");
	/* Keys of the spec, also inside of objects, with JSON values. */
	expect("TCP-L:1,tls.cert=/c,tls.x=7", "LOGGER,log_time=false,log_file=\"/a,b\"",
	       "{'protocol':'TCP','port':1,'tls':{'cert':'/c','x':7}}",
	       "{'protocol':'Logger','log_time':false,'log_file':'/a,b'}", NULL);
}

static void retry_and_idle(void **state)
{
	struct l7mp_error err;
	cJSON *c = make("UDP-L:1,idle_timeout=5,track=9", "TCP:h:2,retry=3,interval=0.5", &err);

	(void)state;
	assert_non_null(c);
	assert_int_equal(l7mp_json_num(l7mp_json_get(c, "listeners/0/options"), "idle_timeout", 0),
	                 5);
	assert_int_equal(l7mp_json_num(l7mp_json_get(c, "listeners/0/options"), "track", 0), 9);
	assert_string_equal(l7mp_json_str(l7mp_json_get(c, ROUTE "/retry"), "retry_on", ""),
	                    "always");
	assert_int_equal(l7mp_json_num(l7mp_json_get(c, ROUTE "/retry"), "num_retries", 0), 3);
	assert_int_equal(l7mp_json_num(l7mp_json_get(c, ROUTE "/retry"), "timeout", 0), 500);
	cJSON_Delete(c);
}

static void chains_and_api(void **state)
{
	static const char *const via[] = {"Logger,log_file=-", "JSONENCAP"}, *const back[] = {
	                                                                             "METRIC"};
	struct l7mp_oneliner o = {.first = "TCP-L:1",
	                          .second = "TCP:h:2",
	                          .via = via,
	                          .n_via = 2,
	                          .back = back,
	                          .n_back = 1,
	                          .api = "1234"};
	struct l7mp_error err;
	cJSON *c = l7mp_oneliner_config(&registry, &o, &err);

	(void)state;
	assert_non_null(c);
	assert_string_equal(
	        l7mp_json_str(l7mp_json_get(c, ROUTE "/ingress/0/spec"), "log_file", ""), "-");
	assert_string_equal(
	        l7mp_json_str(l7mp_json_get(c, ROUTE "/ingress/1/spec"), "protocol", ""),
	        "JSONEncap");
	assert_string_equal(l7mp_json_str(l7mp_json_get(c, ROUTE "/egress/0/spec"), "protocol", ""),
	                    "Metric");
	assert_string_equal(l7mp_json_str(l7mp_json_get(c, "listeners/1/spec"), "address", ""),
	                    "127.0.0.1");
	assert_int_equal(l7mp_json_num(l7mp_json_get(c, "listeners/1/spec"), "port", 0), 1234);
	cJSON_Delete(c);

	/* Via stays from the first to the second when the second is the listener. */
	o.first = "-";
	o.second = "TCP-L:1";
	o.api = NULL;
	c = l7mp_oneliner_config(&registry, &o, &err);
	assert_non_null(c);
	assert_string_equal(
	        l7mp_json_str(l7mp_json_get(c, ROUTE "/ingress/0/spec"), "protocol", ""), "Metric");
	assert_null(l7mp_json_get(c, "listeners/1"));
	cJSON_Delete(c);
}

/* The standard input as the first address: a client. */
static void standard_input_is_a_client(void **state)
{
	(void)state;
	expect("-", "TCP:h:1,nodelay,keepalive=1", "{'protocol':'Stdio','exit':true}",
	       "{'protocol':'TCP','port':1}", "'h'");
	expect("STDIO", "UDP:h:1", "{'protocol':'Stdio','exit':true,'linger':0.5}",
	       "{'protocol':'UDP','port':1}", "'h'");
	expect("-", "EXEC:cat", "{'protocol':'Stdio','exit':true}",
	       "{'protocol':'STDIO-fork','command':['cat']}", NULL);
}

static void one_way_and_limits(void **state)
{
	static const char *const via[] = {"LOGGER"}, *const back[] = {"LOGGER,log_prefix=x"};
	struct l7mp_oneliner o = {.first = "TCP-L:1,range=10.0.0.0/8,max-children=7",
	                          .second = "TCP:h:2",
	                          .via = via,
	                          .n_via = 1,
	                          .only_forth = true,
	                          .idle_timeout = 2.5};
	struct l7mp_error err;
	cJSON *c = l7mp_oneliner_config(&registry, &o, &err), *options, *spec;

	(void)state;
	assert_non_null(c);
	options = l7mp_json_get(c, "listeners/0/options");
	assert_string_equal(l7mp_json_str(options, "range", ""), "10.0.0.0/8");
	assert_int_equal(l7mp_json_num(options, "max_sessions", 0), 7);
	assert_true(l7mp_json_num(options, "idle_timeout", 0) == 2.5);
	spec = l7mp_json_get(c, ROUTE "/ingress/0/spec");
	assert_string_equal(l7mp_json_str(spec, "log_prefix", ""), "> ");
	assert_true(l7mp_json_bool(spec, "log_time", false));
	assert_string_equal(l7mp_json_str(l7mp_json_get(c, ROUTE "/egress/0/spec"), "protocol", ""),
	                    "Discard");
	cJSON_Delete(c);
	/* The other way, and the listener comes second. */
	o.first = "-";
	o.second = "TCP-L:1";
	o.n_via = 0;
	o.back = back;
	o.n_back = 1;
	o.only_forth = false;
	o.only_back = true;
	c = l7mp_oneliner_config(&registry, &o, &err);
	assert_non_null(c);
	spec = l7mp_json_get(c, ROUTE "/ingress/0/spec");
	assert_string_equal(l7mp_json_str(spec, "log_prefix", ""), "x");
	assert_string_equal(l7mp_json_str(l7mp_json_get(c, ROUTE "/egress/0/spec"), "protocol", ""),
	                    "Discard");
	cJSON_Delete(c);
}

static void errors_name_argument_and_position(void **state)
{
	static const struct {
		const char *first, *second, *says;
	} cases[] = {
	        {"TCP-LISTEN:x", "-",
	         "argument 1 ('TCP-LISTEN:x'), at 12: expected a port in 0.."
	         "65535, got 'x'"},
	        {"TCP-LISTEN:1", "TCP:h:0", "argument 2 ('TCP:h:0'), at 7: expected a port in 1.."},
	        {"TCP-LISTEN:1", "TCP:h", "at 5: expected HOST:PORT, got 'h'"},
	        {"TCP-LISTEN:1", "TCP::5", "at 5: expected a host before the colon"},
	        {"TCP-LISTEN:1", "TCP:::1:5", "at 5: expected an IPv6 address in brackets"},
	        {"TCP-LISTEN:1", "TCP:[::1:5", "at 5: expected [ADDRESS]:PORT"},
	        {"TCP-LISTEN:1", "TCP4:[::1]:5", "at 6: expected an IPv4 address, got ::1"},
	        {"TCP-LISTEN", "-", "at 11: expected TCP-LISTEN:[ADDRESS:]PORT"},
	        {"TCP-LISTEN:", "-", "at 11: expected TCP-LISTEN:[ADDRESS:]PORT"},
	        {"TCP-LISTEN:1,", "-", "at 14: expected an option after the comma"},
	        {"TCP-LISTEN:1,fork,nope", "-", "at 19: TCP-LISTEN has no option 'nope'"},
	        {"TCP-LISTEN:1,tls", "-", "at 14: tls: expected a value"},
	        {"TCP-LISTEN:1", "EXEC:'cat", "at 6: a quote that is not closed"},
	        {"TCP-LISTEN:1", "EXEC: ", "at 6: expected a command"},
	        {"TCP-LISTEN:1", "SYSTEM:ls", "there is no shell here: expected EXEC:command"},
	        {"TCP-LISTEN:1", "BOGUS:2", "argument 2 ('BOGUS:2'), at 1: unknown address type"},
	        {"", "-", "at 1: expected an address"},
	        {"-:x", "TCP-L:1", "at 3: - takes nothing after the colon"},
	        {"ECHO", "TCP:h:1", "one of the two addresses has to listen"},
	        {"TCP-L:1", "TCP-L:2", "one of the two addresses has to connect"},
	        {"OPENSSL-LISTEN:1", "-", "expected the option cert=FILE"},
	        {"UDP-L:1,dscp=64", "-", "at 14: dscp: expected a number in 0..63"},
	        {"UDP-L:1,dscp=nan", "-", "at 14: dscp: expected a number in 0..63"},
	        {"UDP-L:1,dscp= 1", "-", "at 14: dscp: expected a number in 0..63"},
	        {"UDP-L:1,dscp", "-", "at 9: dscp: expected a number in 0..63"},
	        {"UDP-L:1,tos=lowdelay", "-", "at 13: tos: expected a number in 0..255"},
	        {"UDP-L:1,tos=0x10z", "-", "at 13: tos: expected a number in 0..255"},
	        {"UDP-L:1,tos=-1", "-", "at 13: tos: expected a number in 0..255"},
	        {"TCP-L:1,keepalive=0", "-", "at 19: keepalive is always on"},
	        {"TCP-L:1,nodelay=no", "-", "at 17: nodelay is always on"},
	        {"TCP-L:1,fork=0", "-", "at 14: fork is always on"},
	        {"TCP-L:1", "TCP:h:1,keepalive=0", "at 19: keepalive is always on"},
	        {"TCP-L:1,range=10.0.0.0/33", "-", "at 15: range: expected a network"},
	        {"TCP-L:1,range", "-", "at 9: range: expected a network"},
	        {"TCP-L:1,max-children=x", "-", "at 22: max-children: expected a number"},
	        {"TCP-L:1,mode=600", "-", "at 9: TCP-L has no option 'mode'"},
	        {"UDP-L:1,keepalive", "-", "at 9: UDP-L has no option 'keepalive'"},
	        {"-,frob", "TCP:h:1", "at 3: - has no option 'frob'"},
	        {"JSONSOCKET-LISTEN:EXEC:x", "-", "'EXEC' can't carry a JSONSocket here"},
	};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		struct l7mp_error err = {0};
		cJSON *c = make(cases[i].first, cases[i].second, &err);

		if (c || !strstr(err.message, cases[i].says))
			fail_msg("%s %s: expected '%s', got '%s'", cases[i].first, cases[i].second,
			         cases[i].says, c ? "a config" : err.message);
	}
}

static void findings_are_traced_back(void **state)
{
	static const char *const via[] = {"LOGGER"}, *const back[] = {"METRIC"};
	struct l7mp_oneliner o = {.first = "TCP-L:1",
	                          .second = "TCP:h:2",
	                          .via = via,
	                          .n_via = 1,
	                          .back = back,
	                          .n_back = 1};
	char buf[128];

	(void)state;
#define WHERE(path) l7mp_oneliner_where(&o, path, buf, sizeof(buf))
	assert_string_equal(WHERE("listeners[0].spec.port"), "argument 1 ('TCP-L:1')");
	assert_string_equal(WHERE("listeners[0].rules[0].action.route.destination.spec.port"),
	                    "argument 2 ('TCP:h:2')");
	assert_string_equal(WHERE("listeners[0].rules[0].action.route.ingress[0].spec"),
	                    "--via ('LOGGER')");
	assert_string_equal(WHERE("listeners[0].rules[0].action.route.egress[0].spec"),
	                    "--back ('METRIC')");
	assert_null(WHERE("admin.log_level"));
	o.first = "-";
	o.second = "TCP-L:1";
	assert_string_equal(WHERE("listeners[0].spec.port"), "argument 2 ('TCP-L:1')");
	assert_string_equal(WHERE("listeners[0].rules[0].action.route.egress[0].spec"),
	                    "--via ('LOGGER')");
}

/* Whatever is typed: an answer, never a crash. */
static void any_text(void **state)
{
	static const char alphabet[] = "TCPUDP-LISTEN:[]:,,='\"\\/ 0123@wsEXEC.#";
	unsigned seed = 7;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		struct l7mp_error err = {0};
		char text[48];
		size_t n = (seed >> 7) % (sizeof(text) - 1);
		static const char *const begins[] = {
		        "TCP-L:", "EXEC:", "UDP:", "WS:", "", "JSONSOCKET:"};
		int used = snprintf(text, sizeof(text), "%s", begins[round % 6]);

		for (size_t i = (size_t)used; i < n; i++) {
			seed = seed * 1103515245 + 12345;
			text[i] = alphabet[(seed >> 16) % (sizeof(alphabet) - 1)];
		}
		if (n > (size_t)used)
			text[n] = '\0';
		seed = seed * 1103515245 + 12345;
		cJSON_Delete(make(text, "-", &err));
		cJSON_Delete(make("TCP-L:1", text, &err));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(addresses),
	        cmocka_unit_test(the_listener_may_come_second),
	        cmocka_unit_test(commands),
	        cmocka_unit_test(options),
	        cmocka_unit_test(retry_and_idle),
	        cmocka_unit_test(chains_and_api),
	        cmocka_unit_test(standard_input_is_a_client),
	        cmocka_unit_test(one_way_and_limits),
	        cmocka_unit_test(errors_name_argument_and_position),
	        cmocka_unit_test(findings_are_traced_back),
	        cmocka_unit_test(any_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
