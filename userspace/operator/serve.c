/* SPDX-License-Identifier: MIT */
/*
 * The operator's own HTTP server: civetweb in threads of its own, which ask the loop for each page
 * and wait for it. A loop that does not answer within five seconds is what /healthz exists for.
 */
#include <civetweb.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "l7mp/listening.h"
#include "l7mp/log.h"
#include "l7mp/mailbox.h"
#include "operator.h"

#define ANSWER_S 5

struct op_serve {
	struct l7mp_mailbox *mailbox;
	struct mg_context *mg;
	void (*page)(void *arg, const char *path, struct op_serve_page *out);
	void *arg;
	atomic_bool started;
	char message[256]; /* of civetweb, when it does not start */
};

/* A question to the loop; it belongs to both until both are done with it. */
struct question {
	struct l7mp_mail mail;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool answered, left;
	char path[16];
	struct op_serve_page page;
};

static void question_free(struct question *q)
{
	pthread_mutex_destroy(&q->lock);
	pthread_cond_destroy(&q->wake);
	l7mp_str_free(&q->page.body);
	free(q);
}

static void on_mail(struct l7mp_mail *mail, void *arg)
{
	struct question *q = l7mp_container_of(mail, struct question, mail);
	struct op_serve *s = arg;
	bool left;

	s->page(s->arg, q->path, &q->page);
	pthread_mutex_lock(&q->lock);
	q->answered = true;
	left = q->left;
	pthread_cond_signal(&q->wake);
	pthread_mutex_unlock(&q->lock);
	if (left)
		question_free(q);
}

static struct question *question_new(const char *path)
{
	struct question *q = calloc(1, sizeof(*q));
	pthread_condattr_t attr;

	if (!q)
		return NULL;
	pthread_mutex_init(&q->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&q->wake, &attr);
	pthread_condattr_destroy(&attr);
	q->mail.cb = on_mail;
	snprintf(q->path, sizeof(q->path), "%s", path);
	return q;
}

/* Returns whether there is an answer; else the question is the loop's. */
static bool wait_for(struct question *q)
{
	struct timespec until;
	bool answered;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ANSWER_S;
	pthread_mutex_lock(&q->lock);
	while (!q->answered && !pthread_cond_timedwait(&q->wake, &q->lock, &until))
		;
	answered = q->answered;
	q->left = true;
	pthread_mutex_unlock(&q->lock);
	return answered;
}

static void answer(struct mg_connection *c, int status, const char *type, const char *body,
                   size_t len)
{
	mg_printf(c,
	          "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
	          "Cache-Control: no-store\r\nConnection: close\r\n\r\n",
	          status, mg_get_response_code_text(c, status), type, len);
	mg_write(c, body, len);
}

static void refuse(struct mg_connection *c, int status, const char *text)
{
	answer(c, status, "text/plain; charset=utf-8", text, strlen(text));
}

static int on_request(struct mg_connection *c)
{
	static const char *const paths[] = {"/metrics", "/healthz", "/readyz", "/proxies"};
	const struct mg_request_info *ri = mg_get_request_info(c);
	struct op_serve *s = ri->user_data;
	struct question *q = NULL;
	size_t i = 0;

	while (i < L7MP_ARRAY_SIZE(paths) && strcmp(paths[i], ri->local_uri) != 0)
		i++;
	if (i == L7MP_ARRAY_SIZE(paths)) {
		refuse(c, 404, "there are /metrics, /healthz, /readyz and /proxies\n");
		return 404;
	}
	if (strcmp(ri->request_method, "GET") != 0) {
		refuse(c, 405, "expected GET\n");
		return 405;
	}
	q = question_new(paths[i]);
	if (!q || l7mp_mailbox_post(s->mailbox, &q->mail)) {
		if (q)
			question_free(q);
		refuse(c, 503, "shutting down\n");
		return 503;
	}
	if (!wait_for(q)) {
		refuse(c, 503, "the event loop does not answer\n");
		return 503;
	}
	answer(c, q->page.status, q->page.type, q->page.body.s ? q->page.body.s : "",
	       q->page.body.len);
	question_free(q);
	return 200;
}

static int on_log(const struct mg_connection *c, const char *text)
{
	struct op_serve *s = mg_get_user_data(mg_get_context(c));

	if (s && !atomic_load(&s->started))
		snprintf(s->message, sizeof(s->message), "%s", text);
	return 1;
}

static int start(struct op_serve *s, const char *listen)
{
	const struct mg_callbacks callbacks = {.begin_request = on_request, .log_message = on_log};
	const char *options[] = {"listening_ports",
	                         listen,
	                         "num_threads",
	                         "3",
	                         "enable_keep_alive",
	                         "no",
	                         "request_timeout_ms",
	                         "5000",
	                         "access_control_allow_origin",
	                         "",
	                         "enable_directory_listing",
	                         "no",
	                         NULL};
	sigset_t all, before;

	/* Signals stay with the loop's thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	s->mg = mg_start(&callbacks, s, options);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	atomic_store(&s->started, true);
	signal(SIGCHLD, SIG_DFL); /* mg_start has changed it */
	signal(SIGPIPE, SIG_IGN);
	return s->mg ? 0 : -EADDRINUSE;
}

int op_serve_new(struct l7mp_loop *loop, const char *listen,
                 void (*page)(void *arg, const char *path, struct op_serve_page *out), void *arg,
                 struct op_serve **out, struct l7mp_error *err)
{
	struct op_serve *s = calloc(1, sizeof(*s));
	int rc = -ENOMEM;

	*out = NULL;
	if (s) {
		s->page = page;
		s->arg = arg;
		rc = l7mp_mailbox_new(loop, s, &s->mailbox);
	}
	if (rc) {
		free(s);
		return l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
	}
	rc = start(s, listen);
	if (!rc) {
		*out = s;
		return 0;
	}
	l7mp_error_set(err, rc, L7MP_ERR_REALISE, "--listen %s: %s", listen,
	               *s->message ? s->message : "can't listen there");
	l7mp_mailbox_close(&s->mailbox);
	free(s);
	return rc;
}

void op_serve_free(struct op_serve **pp)
{
	struct op_serve *s = *pp;
	struct mg_server_port port = {0};
	struct l7mp_listening_wake wake = {-1, -1};
	struct l7mp_mailbox *mailbox;

	if (!s)
		return;
	*pp = NULL;
	/* Threads may post until they are joined; none waits for the loop after the close. */
	mailbox = l7mp_mailbox_ref(s->mailbox);
	l7mp_mailbox_close(&mailbox);
	/* Its thread does not notice otherwise for two seconds. */
	if (mg_get_server_ports(s->mg, 1, &port) == 1)
		l7mp_listening_wake(l7mp_listening_find((uint16_t)port.port), &wake);
	mg_stop(s->mg);
	l7mp_listening_woken(&wake);
	l7mp_mailbox_unref(s->mailbox);
	free(s);
}
