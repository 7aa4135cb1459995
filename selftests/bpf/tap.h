/* SPDX-License-Identifier: MIT */
/* TAP (https://testanything.org) on standard output. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void tap_result(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void tap_skip(const char *reason, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A comment line of the test that ran last. */
void tap_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void tap_dump(const char *what, const uint8_t *data, size_t n);
/* Nothing more can be tested. */
void tap_bail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Prints the plan; the exit status. */
int tap_done(void);
/* make test-full? */
bool test_mode_full(void);
