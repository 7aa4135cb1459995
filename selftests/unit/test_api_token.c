/* SPDX-License-Identifier: MIT */
/* The token file: who may read it, what is taken from it, how often one may be wrong. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/token.h"

struct fix {
	struct l7mp_loop *loop;
	struct api_token *token;
	char dir[64], path[96];
	struct l7mp_error err;
};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_int_equal(l7mp_loop_new_manual(&f->loop), 0);
	assert_int_equal(api_token_new(f->loop, &f->token), 0);
	strcpy(f->dir, "/tmp/l7mp-token-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/token", f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	api_token_free(&f->token);
	assert_int_equal(l7mp_loop_free(&f->loop), 0);
	unlink(f->path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void put(struct fix *f, const char *text, mode_t mode)
{
	FILE *file = fopen(f->path, "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
	assert_int_equal(chmod(f->path, mode), 0);
}

static struct l7mp_addr ip(const char *text)
{
	struct l7mp_addr a = {.len = 0};

	if (text)
		assert_int_equal(l7mp_addr_parse(&a, text, 1), 0);
	return a;
}

static enum api_token_verdict check(struct fix *f, const char *header, const char *from, bool local)
{
	struct l7mp_addr source = ip(from);

	return api_token_check(f->token, header, &source, local);
}

static void test_file(void **state)
{
	static const struct {
		mode_t mode;
		bool fine;
	} modes[] = {{0600, true},  {0400, true},  {0640, true},  {0440, true}, {0644, false},
	             {0604, false}, {0620, false}, {0602, false}, {0601, false}};
	struct fix *f = *state;

	assert_true(api_token_set_file(f->token, f->path, &f->err) < 0);
	assert_non_null(strstr(f->err.message, "No such file"));
	assert_false(api_token_is_set(f->token));
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		put(f, "t0ken\n", modes[i].mode);
		if (api_token_set_file(f->token, f->path, &f->err) != (modes[i].fine ? 0 : -EACCES))
			fail_msg("mode %o", modes[i].mode);
		if (!modes[i].fine)
			assert_non_null(strstr(f->err.message, "others can read or change it"));
	}
	put(f, " \n", 0600);
	assert_true(api_token_set_file(f->token, f->path, &f->err) < 0);
	assert_non_null(strstr(f->err.message, "empty"));
	/* What blocks its reader is no file for a token. */
	unlink(f->path);
	assert_int_equal(mkfifo(f->path, 0600), 0);
	assert_true(api_token_set_file(f->token, f->path, &f->err) < 0);
	assert_non_null(strstr(f->err.message, "regular file"));
	assert_true(api_token_set_file(f->token, f->dir, &f->err) < 0);
	/* The first one stays. */
	assert_true(api_token_is_set(f->token));
	assert_int_equal(api_token_set_file(f->token, NULL, &f->err), 0);
	assert_false(api_token_is_set(f->token));
}

static void test_owner(void **state)
{
	struct fix *f = *state;

	if (geteuid())
		skip();
	put(f, "t0ken", 0600);
	assert_int_equal(chown(f->path, 12345, 0), 0);
	assert_true(api_token_set_file(f->token, f->path, &f->err) < 0);
	assert_non_null(strstr(f->err.message, "user"));
}

static void test_checking(void **state)
{
	struct fix *f = *state;

	put(f, "\n  t0ken \nsecond line\n", 0600);
	assert_int_equal(api_token_set_file(f->token, f->path, &f->err), 0);
	assert_int_equal(check(f, "Bearer t0ken", NULL, true), API_TOKEN_RIGHT);
	assert_int_equal(check(f, "bearer   t0ken", NULL, true), API_TOKEN_RIGHT);
	assert_int_equal(check(f, "Bearer t0ke", NULL, true), API_TOKEN_WRONG);
	assert_int_equal(check(f, "Bearer t0ken2", NULL, true), API_TOKEN_WRONG);
	assert_int_equal(check(f, "Bearer ", NULL, true), API_TOKEN_WRONG);
	assert_int_equal(check(f, "Basic t0ken", NULL, true), API_TOKEN_WRONG);
	assert_int_equal(check(f, NULL, NULL, true), API_TOKEN_WRONG);
	/* Read for each request; a file that has become readable by others is rejected. */
	put(f, "n3w", 0600);
	assert_int_equal(check(f, "Bearer t0ken", NULL, true), API_TOKEN_WRONG);
	assert_int_equal(check(f, "Bearer n3w", NULL, true), API_TOKEN_RIGHT);
	put(f, "n3w", 0644);
	assert_int_equal(check(f, "Bearer n3w", NULL, true), API_TOKEN_WRONG);
	unlink(f->path);
	assert_int_equal(check(f, "Bearer n3w", NULL, true), API_TOKEN_WRONG);
}

static unsigned wrongs_until_often(struct fix *f, const char *from, bool local)
{
	for (unsigned i = 0; i < 1000; i++)
		if (check(f, "Bearer wrong", from, local) == API_TOKEN_TOO_OFTEN)
			return i;
	return 1000;
}

static void test_guessing(void **state)
{
	struct fix *f = *state;
	char text[32];

	put(f, "t0ken", 0600);
	assert_int_equal(api_token_set_file(f->token, f->path, &f->err), 0);
	assert_in_range(wrongs_until_often(f, "192.0.2.1", false), 5, 20);
	/* Not even the right one is looked at, nor anything else from there, for a while. */
	assert_int_equal(check(f, "Bearer t0ken", "192.0.2.1", false), API_TOKEN_TOO_OFTEN);
	assert_int_equal(check(f, "Bearer t0ken", "192.0.2.2", false), API_TOKEN_RIGHT);
	l7mp_loop_advance(f->loop, 10000);
	assert_int_equal(check(f, "Bearer wrong", "192.0.2.1", false), API_TOKEN_WRONG);
	assert_in_range(wrongs_until_often(f, "192.0.2.1", false), 0, 2);
	l7mp_loop_advance(f->loop, 10000);
	assert_int_equal(check(f, "Bearer t0ken", "192.0.2.1", false), API_TOKEN_RIGHT);
	l7mp_loop_advance(f->loop, 120000);
	assert_in_range(wrongs_until_often(f, "192.0.2.1", false), 5, 20);

	/* An IPv6 client has a /64. */
	assert_in_range(wrongs_until_often(f, "2001:db8::1", false), 5, 20);
	assert_int_equal(check(f, "Bearer t0ken", "2001:db8::2", false), API_TOKEN_TOO_OFTEN);
	assert_int_equal(check(f, "Bearer t0ken", "2001:db8:0:1::1", false), API_TOKEN_RIGHT);

	/* On this host the operator is not to be shut out by another user's guesses. */
	assert_in_range(wrongs_until_often(f, "127.0.0.1", true), 5, 20);
	assert_int_equal(check(f, "Bearer t0ken", "127.0.0.1", true), API_TOKEN_RIGHT);
	assert_int_equal(check(f, "Bearer wrong", "127.0.0.1", true), API_TOKEN_TOO_OFTEN);
	assert_in_range(wrongs_until_often(f, NULL, true), 5, 20);
	assert_int_equal(check(f, "Bearer t0ken", NULL, true), API_TOKEN_RIGHT);

	/* However many sources there are, the memory is bounded: the oldest are forgotten. */
	for (unsigned i = 0; i < 3000; i++) {
		snprintf(text, sizeof(text), "198.51.%u.%u", i >> 8, i & 255);
		assert_int_equal(check(f, "Bearer wrong", text, false), API_TOKEN_WRONG);
	}
	assert_int_equal(check(f, "Bearer t0ken", "192.0.2.1", false), API_TOKEN_RIGHT);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {T(test_file), T(test_owner), T(test_checking),
	                                   T(test_guessing)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
