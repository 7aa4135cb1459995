/* SPDX-License-Identifier: MIT */
/* What admin_server.c and admin_request.c share. The server's contract is in l7mp/api.h. */
#pragma once

#include <signal.h>

/* Lets a thread of the server fall out of poll(2); its handler does nothing. */
#define ADMIN_WAKE_SIGNAL SIGRTMIN
