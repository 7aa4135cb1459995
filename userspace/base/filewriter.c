/* SPDX-License-Identifier: MIT */
#include "l7mp/filewriter.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/util.h"

#define MODULE "log"
/* Records for one file are gathered in blocks, each twice as large as the one before. */
#define BLOCK_MAX (32U << 10)

enum item_kind { ITEM_DATA, ITEM_REOPEN, ITEM_CLOSE };

struct item {
	struct item *prev, *next;
	struct l7mp_wfile *file;
	enum item_kind kind;
	unsigned records;
	size_t len, cap;
	char data[];
};

/* After creation all fields except writer and path belong to the thread. */
struct l7mp_wfile {
	struct l7mp_writer *writer;
	struct item *close; /* allocated in advance, so that closing can't fail */
	int fd;
	bool cut;      /* the last line was written only in part */
	int failed;    /* errno of the last write; 0: none */
	uint64_t lost; /* records, since the first failed write */
	char path[];
};

struct l7mp_writer {
	enum l7mp_writer_use use;
	size_t max;
	pthread_t thread;
	pthread_mutex_t lock;   /* protects the fields below */
	pthread_cond_t wake;    /* there are items, or stop */
	pthread_cond_t idle;    /* all items have been written */
	struct item *items;     /* utlist */
	_Atomic size_t pending; /* sum of item_size of the items queued or being run */
	bool running, stop;
	bool abandoned; /* the thread frees the writer */
};

static _Atomic uint64_t lost[L7MP_WRITES_COUNT];

const char *l7mp_writer_use_name(enum l7mp_writer_use use)
{
	static const char *const names[] = {"log", "access_log", "logger"};

	return names[use];
}

void l7mp_writer_lose(enum l7mp_writer_use use, uint64_t records)
{
	atomic_fetch_add_explicit(&lost[use], records, memory_order_relaxed);
}

uint64_t l7mp_writer_lost(enum l7mp_writer_use use)
{
	return atomic_load_explicit(&lost[use], memory_order_relaxed);
}

int l7mp_append_open(const char *path)
{
	const int flags = O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	int fd = open(path, flags);

	if (fd < 0 && errno == ENOENT)
		fd = open(path, flags | O_CREAT, 0640);
	return fd < 0 ? -errno : fd;
}

static size_t item_size(const struct item *it)
{
	return sizeof(*it) + it->cap;
}

/* ---- the writer thread ---- */

/* Logs the first failure, and the number of lost records when a write succeeds again. */
static void write_failed(struct l7mp_wfile *f, int error, unsigned records)
{
	l7mp_writer_lose(f->writer->use, records);
	f->lost += records;
	if (f->failed != error)
		l7mp_log_error(MODULE, "%s: %s", f->path, strerror(error));
	f->failed = error;
}

static void write_worked(struct l7mp_wfile *f)
{
	if (f->failed)
		l7mp_log_warn(MODULE, "%s: %llu records lost: %s", f->path,
		              (unsigned long long)f->lost, strerror(f->failed));
	f->failed = 0;
	f->lost = 0;
}

/* Returns 0 or errno. */
static int write_all(struct l7mp_wfile *f, const char *p, size_t n)
{
	while (n) {
		ssize_t rc = write(f->fd, p, n);

		if (rc < 0 && errno == EINTR)
			continue;
		if (rc <= 0)
			return rc ? errno : EIO;
		p += rc;
		n -= (size_t)rc;
		f->cut = p[-1] != '\n';
	}
	return 0;
}

static void write_item(const struct item *it)
{
	struct l7mp_wfile *f = it->file;
	int error = f->cut ? write_all(f, "\n", 1) : 0;

	if (!error)
		error = write_all(f, it->data, it->len);
	if (error)
		write_failed(f, error, it->records);
	else
		write_worked(f);
}

static void reopen(struct l7mp_wfile *f)
{
	int fd = l7mp_append_open(f->path);
	struct stat st;

	if (fd >= 0 && (fstat(fd, &st) || !S_ISREG(st.st_mode))) {
		close(fd);
		fd = -EINVAL;
	}
	if (fd < 0) {
		l7mp_log_warn(MODULE, "%s can't be opened again, the old file stays: %s", f->path,
		              strerror(-fd));
		return;
	}
	close(f->fd);
	f->fd = fd;
	f->cut = false;
}

static void file_free(struct l7mp_wfile *f)
{
	close(f->fd);
	free(f->close);
	free(f);
}

/* Takes the item. */
static void run(struct item *it)
{
	if (it->kind == ITEM_CLOSE) {
		file_free(it->file); /* has the item */
		return;
	}
	if (it->kind == ITEM_DATA)
		write_item(it);
	else
		reopen(it->file);
	free(it);
}

static void writer_destroy(struct l7mp_writer *w)
{
	struct item *it, *next;

	DL_FOREACH_SAFE (w->items, it, next) {
		if (it->kind == ITEM_CLOSE)
			file_free(it->file);
		else
			free(it);
	}
	pthread_cond_destroy(&w->idle);
	pthread_cond_destroy(&w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static void *thread_main(void *arg)
{
	struct l7mp_writer *w = arg;
	bool abandoned;

	l7mp_thread_background();
	pthread_mutex_lock(&w->lock);
	while (!w->abandoned) {
		struct item *it = w->items;
		size_t n;

		if (!it && w->stop)
			break;
		if (!it) {
			pthread_cond_wait(&w->wake, &w->lock);
			continue;
		}
		DL_DELETE(w->items, it);
		n = item_size(it);
		pthread_mutex_unlock(&w->lock);
		run(it);
		pthread_mutex_lock(&w->lock);
		w->pending -= n;
		if (!w->pending)
			pthread_cond_broadcast(&w->idle);
	}
	abandoned = w->abandoned;
	pthread_mutex_unlock(&w->lock);
	if (abandoned)
		writer_destroy(w);
	return NULL;
}

/* All signals are blocked, so that the loop's thread gets them. Called with the lock held. */
static int start_thread(struct l7mp_writer *w)
{
	sigset_t all, before;
	int rc;

	if (w->running)
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&w->thread, NULL, thread_main, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	w->running = !rc;
	return -rc;
}

/* ---- the writer ---- */

int l7mp_writer_new(enum l7mp_writer_use use, size_t max, struct l7mp_writer **out)
{
	struct l7mp_writer *w = calloc(1, sizeof(*w));
	pthread_condattr_t attr;

	if (!w)
		return -ENOMEM;
	w->use = use;
	w->max = max;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->wake, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&w->idle, &attr);
	pthread_condattr_destroy(&attr);
	*out = w;
	return 0;
}

static struct timespec deadline(unsigned timeout_ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_sec += timeout_ms / 1000;
	ts.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_sec++;
		ts.tv_nsec -= 1000000000;
	}
	return ts;
}

/* Called with the lock held. */
static bool wait_idle(struct l7mp_writer *w, unsigned timeout_ms)
{
	const struct timespec until = deadline(timeout_ms);

	while (w->pending)
		if (pthread_cond_timedwait(&w->idle, &w->lock, &until))
			break;
	return !w->pending;
}

bool l7mp_writer_flush(struct l7mp_writer *w, unsigned timeout_ms)
{
	bool idle;

	pthread_mutex_lock(&w->lock);
	idle = wait_idle(w, timeout_ms);
	pthread_mutex_unlock(&w->lock);
	return idle;
}

bool l7mp_writer_flush_in_signal(const struct l7mp_writer *w, unsigned timeout_ms)
{
	const struct timespec ms = {.tv_nsec = 1000000};

	if (w->running && pthread_equal(pthread_self(), w->thread))
		return false;
	for (unsigned i = 0; atomic_load(&w->pending) && i < timeout_ms; i++)
		nanosleep(&ms, NULL);
	return !atomic_load(&w->pending);
}

size_t l7mp_writer_queued(struct l7mp_writer *w)
{
	return atomic_load(&w->pending);
}

size_t l7mp_writer_free(struct l7mp_writer **wp, unsigned timeout_ms)
{
	struct l7mp_writer *w = *wp;
	size_t rest;

	*wp = NULL;
	if (!w)
		return 0;
	pthread_mutex_lock(&w->lock);
	wait_idle(w, timeout_ms);
	rest = w->pending;
	w->stop = true;
	w->abandoned = rest && w->running;
	pthread_cond_signal(&w->wake);
	if (w->abandoned)
		pthread_detach(w->thread);
	pthread_mutex_unlock(&w->lock);
	if (rest)
		return rest;
	if (w->running)
		pthread_join(w->thread, NULL);
	writer_destroy(w);
	return 0;
}

/* ---- files ---- */

static struct item *item_new(struct l7mp_wfile *f, enum item_kind kind, size_t cap)
{
	struct item *it = calloc(1, sizeof(*it) + cap);

	if (it) {
		it->file = f;
		it->kind = kind;
		it->cap = cap;
	}
	return it;
}

int l7mp_wfile_new(struct l7mp_writer *w, int fd, const char *path, struct l7mp_wfile **out)
{
	struct l7mp_wfile *f = calloc(1, sizeof(*f) + strlen(path) + 1);
	int rc;

	if (!f)
		return -ENOMEM;
	f->writer = w;
	f->fd = fd;
	strcpy(f->path, path);
	f->close = item_new(f, ITEM_CLOSE, 0);
	pthread_mutex_lock(&w->lock);
	rc = f->close ? start_thread(w) : -ENOMEM;
	pthread_mutex_unlock(&w->lock);
	if (rc) {
		free(f->close);
		free(f);
		return rc;
	}
	*out = f;
	return 0;
}

/* Takes the item. Called with the lock held. */
static void queue(struct l7mp_writer *w, struct item *it)
{
	w->pending += item_size(it);
	DL_APPEND(w->items, it);
	pthread_cond_signal(&w->wake);
}

/*
 * Returns the last item if it is for this file and has room, else a new one. NULL: no memory.
 * Called with the lock held.
 */
static struct item *block_for(struct l7mp_wfile *f, size_t n)
{
	struct item *it = f->writer->items ? f->writer->items->prev : NULL;
	size_t cap = n;

	if (it && it->kind == ITEM_DATA && it->file == f) {
		if (it->cap - it->len >= n)
			return it;
		cap = 2 * it->cap < BLOCK_MAX ? 2 * it->cap : BLOCK_MAX;
	}
	it = item_new(f, ITEM_DATA, n > cap ? n : cap);
	if (it)
		queue(f->writer, it);
	return it;
}

int l7mp_wfile_put(struct l7mp_wfile *f, const void *data, size_t n, unsigned records)
{
	struct l7mp_writer *w = f->writer;
	const size_t need = n + sizeof(struct item);
	struct item *it = NULL;
	int rc = -ENOBUFS;

	pthread_mutex_lock(&w->lock);
	if (need <= w->max && w->pending <= w->max - need) {
		it = block_for(f, n);
		rc = it ? 0 : -ENOMEM;
	}
	if (it) {
		memcpy(it->data + it->len, data, n);
		it->len += n;
		it->records += records;
	}
	pthread_mutex_unlock(&w->lock);
	return rc;
}

int l7mp_wfile_reopen(struct l7mp_wfile *f)
{
	struct item *it = item_new(f, ITEM_REOPEN, 0);

	if (!it)
		return -ENOMEM;
	pthread_mutex_lock(&f->writer->lock);
	queue(f->writer, it);
	pthread_mutex_unlock(&f->writer->lock);
	return 0;
}

void l7mp_wfile_close(struct l7mp_wfile **fp)
{
	struct l7mp_wfile *f = *fp;
	struct l7mp_writer *w;

	*fp = NULL;
	if (!f)
		return;
	w = f->writer;
	pthread_mutex_lock(&w->lock);
	queue(w, f->close);
	pthread_mutex_unlock(&w->lock);
}
