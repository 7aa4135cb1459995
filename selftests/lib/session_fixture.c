/* SPDX-License-Identifier: MIT */
#include "session_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/log.h"
#include "l7mp/util.h"

static const struct l7mp_protodesc *const descs[] = {
        &fake_proto_stream.desc,   &fake_proto_dgram.desc,
        &fake_proto_echo.desc,     &fake_proto_pass.desc,
        &fake_proto_forged.desc,   &fake_proto_request.desc,
        &fake_proto_operator.desc, NULL};
static const struct l7mp_registry registry = {descs};
static const struct l7mp_proto *const protos[] = {
        &fake_proto_stream, &fake_proto_dgram,   &fake_proto_echo,     &fake_proto_pass,
        &fake_proto_forged, &fake_proto_request, &fake_proto_operator, NULL};

static void on_ended(void *arg, const struct l7mp_session *s)
{
	struct sfix *f = arg;
	cJSON *record = l7mp_session_access_record(s);

	f->ended++;
	snprintf(f->last_reason, sizeof(f->last_reason), "%s",
	         l7mp_json_str(record, "reason", "?"));
	cJSON_Delete(record);
}

static int set_up(void **state, bool offload)
{
	struct sfix *f = calloc(1, sizeof(*f));
	struct l7mp_sessions_params params = {.env = &f->env, .ended = on_ended, .arg = f};

	l7mp_log_set_level(L7MP_LOG_SILENT);
	if (l7mp_loop_new_manual(&f->loop) || l7mp_model_new(&registry, &f->model))
		return -1;
	fake_offload_init(&f->offload);
	f->world.loop = f->loop;
	f->env.loop = f->loop;
	f->env.stats = &f->stats;
	f->env.limits = &l7mp_model_admin(f->model)->limits;
	f->env.protos = protos;
	f->env.states = calloc(L7MP_ARRAY_SIZE(protos), sizeof(void *));
	f->env.model = f->model;
	f->env.app = &f->world;
	if (offload)
		params.offload = &f->offload.ops;
	if (l7mp_sessions_new(&params, &f->sessions) ||
	    l7mp_runtime_new(&f->env, f->sessions, &f->runtime))
		return -1;
	*state = f;
	return 0;
}

int sfix_new(void **state)
{
	return set_up(state, false);
}

int sfix_new_offload(void **state)
{
	return set_up(state, true);
}

static void done(void *arg)
{
	((struct sfix *)arg)->shut_down = true;
}

int sfix_free(void **state)
{
	struct sfix *f = *state;
	size_t buffers;

	l7mp_runtime_stop(f->runtime);
	if (!f->shut_down)
		l7mp_sessions_shutdown(f->sessions, 1000, done, f);
	l7mp_loop_turn(f->loop);
	l7mp_loop_advance(f->loop, 1001);
	for (int i = 0; !f->shut_down && i < 1000; i++)
		l7mp_loop_turn(f->loop); /* they end in slices */
	if (!f->shut_down) {
		fprintf(stderr, "sessions are left after the shutdown\n");
		return -1;
	}
	l7mp_runtime_free(&f->runtime);
	l7mp_sessions_free(&f->sessions);
	l7mp_model_free(&f->model);
	fake_world_free(&f->world);
	buffers = l7mp_buf_pool_used(l7mp_loop_bufs(f->loop)) +
	          l7mp_buf_pool_held(l7mp_loop_bufs(f->loop));
	if (buffers || f->offload.flows || f->stats.sessions_started != f->stats.sessions_ended) {
		fprintf(stderr, "left: %zu buffers, %s flows, sessions %llu of %llu\n", buffers,
		        f->offload.flows ? "some" : "no",
		        (unsigned long long)f->stats.sessions_ended,
		        (unsigned long long)f->stats.sessions_started);
		return -1;
	}
	if (l7mp_loop_free(&f->loop))
		return -1;
	free(f->env.states);
	free(f);
	return 0;
}

int sfix_config(struct sfix *f, const char *json, struct l7mp_error *err)
{
	char *text = strdup(json), message[200];
	struct l7mp_change *change;
	struct l7mp_error local = {0};
	cJSON *doc;
	int rc, line;

	for (char *p = text; *p; p++)
		if (*p == '\'')
			*p = '"';
	doc = l7mp_json_parse(text, strlen(text), &line, message, sizeof(message));
	if (!doc)
		fprintf(stderr, "%s: %s\n", text, message);
	if (cJSON_IsObject(doc) && !cJSON_HasObjectItem(doc, "listeners"))
		cJSON_AddArrayToObject(doc, "listeners");
	if (!err)
		err = &local;
	rc = l7mp_change_new(f->model, true, &change);
	if (!rc)
		rc = l7mp_change_config(change, doc, NULL, err);
	if (!rc)
		rc = l7mp_runtime_apply(f->runtime, change, err);
	if (rc && err == &local)
		fprintf(stderr, "config: %s: %s\n", err->path, err->message);
	l7mp_change_free(&change);
	cJSON_Delete(doc);
	free(text);
	return rc;
}

void sfix_simple(struct sfix *f, const char *listener, const char *cluster, const char *route)
{
	const char *endpoints = strcmp(cluster, "FakeEcho") == 0 || strcmp(cluster, "FakePass") == 0
	                                ? ""
	                                : ",'endpoints':[{'name':'e1','spec':{'address':'one'}},"
	                                  "{'name':'e2','spec':{'address':'two'}}]";
	char *text =
	        l7mp_asprintf("{'listeners':[{'name':'l','spec':{'protocol':'%s'},'rules':'rl'}],"
	                      "'clusters':[{'name':'c','spec':{'protocol':'%s'}%s},"
	                      "{'name':'echo','spec':{'protocol':'FakeEcho'}},"
	                      "{'name':'pass','spec':{'protocol':'FakePass'}}],"
	                      "'rulelists':[{'name':'rl','rules':['r']}],"
	                      "'rules':[{'name':'r','action':{'route':'rt'}}],"
	                      "'routes':[{'name':'rt','destination':'c'%s}]}",
	                      listener, cluster, endpoints, route);

	if (sfix_config(f, text, NULL))
		abort();
	free(text);
}

struct l7mp_session *sfix_session(struct sfix *f, const char *name)
{
	return l7mp_sessions_find(f->sessions, name);
}

const char *sfix_json(struct sfix *f, const char *name, const char *pointer)
{
	static char text[1000];
	struct l7mp_session *s = sfix_session(f, name);
	cJSON *json = s ? l7mp_session_to_json(s) : NULL;
	const cJSON *node = json ? l7mp_json_get(json, pointer) : NULL;

	if (cJSON_IsString(node))
		snprintf(text, sizeof(text), "%s", node->valuestring);
	else if (node)
		l7mp_json_brief(node, text, sizeof(text));
	else
		text[0] = '\0';
	cJSON_Delete(json);
	return text;
}

double sfix_num(struct sfix *f, const char *name, const char *pointer)
{
	return strtod(sfix_json(f, name, pointer), NULL);
}

int sfix_state(struct sfix *f, const char *name)
{
	const char *state = sfix_json(f, name, "/status");

	for (int i = 0; i < L7MP_SESSION_STATES; i++)
		if (strcmp(state, l7mp_session_state_name((enum l7mp_session_state)i)) == 0)
			return i;
	return -1;
}

bool sfix_has_event(struct sfix *f, const char *name, const char *event)
{
	struct l7mp_session *s = sfix_session(f, name);
	cJSON *json = s ? l7mp_session_to_json(s) : NULL;
	const cJSON *e;
	bool found = false;

	cJSON_ArrayForEach (e, l7mp_json_member(json, "events"))
		found = found || strcmp(l7mp_json_str(e, "event", ""), event) == 0;
	cJSON_Delete(json);
	return found;
}

void sfix_advance(struct sfix *f, uint64_t ms)
{
	l7mp_loop_turn(f->loop);
	l7mp_loop_advance(f->loop, ms);
	l7mp_loop_turn(f->loop);
}

void sfix_end_using(struct sfix *f, const struct l7mp_object *object)
{
	struct l7mp_session_ender *e;

	if (l7mp_ender_new(f->sessions, &e) || (object && l7mp_ender_add(e, object)))
		abort();
	while (l7mp_ender_step(e))
		;
	l7mp_ender_finish(e);
	l7mp_ender_free(&e);
}
