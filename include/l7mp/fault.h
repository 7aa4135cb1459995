/* SPDX-License-Identifier: MIT */
/*
 * Fault points: moments at which a build for tests (-DL7MP_FAULTS, as SAN=asan has it) ends as if
 * by SIGKILL, when the environment variable L7MP_FAULT names them: "NAME" at the first pass,
 * "NAME:3" at the third, "NAME:kill" at any. "NAME:hang" goes no further there, "NAME:orphan" kills
 * the parent process. In other builds they are nothing.
 *
 * Thread: loop only.
 */
#pragma once

#ifdef L7MP_FAULTS
void l7mp_fault(const char *name);
#define L7MP_FAULT(name) l7mp_fault(name)
#else
#define L7MP_FAULT(name) ((void)0)
#endif
