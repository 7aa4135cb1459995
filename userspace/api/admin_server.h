/* SPDX-License-Identifier: MIT */
/* Shared by admin_server.c and admin_request.c. The server's API is in l7mp/api.h. */
#pragma once

#include <signal.h>

/* Interrupts poll(2) in a thread of the server; the handler does nothing. */
#define ADMIN_WAKE_SIGNAL SIGRTMIN
