#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs every linter, also after one has failed. Exit status 1 if any had a finding.
set -u
cd "$(dirname "$0")/.." || exit 1
scripts/setup.sh lint || exit 1
status=0
step() { # step NAME COMMAND...: silent when clean
	name=$1
	shift
	if out=$("$@" 2>&1); then
		echo "ok   lint: $name"
	else
		echo "$out" | tail -n 60
		echo "FAIL lint: $name"
		status=1
	fi
}
sources() { git ls-files '*.c' '*.h' | grep -v '^selftests/fuzz/corpus'; }
# shellcheck disable=SC2046 # file names without spaces
step clang-format clang-format --dry-run --Werror $(sources)
step include-graph scripts/check-includes.py
step text scripts/check-text.py
# Identifiers that codespell takes for typing errors; selftests have typing errors on purpose.
# shellcheck disable=SC2046
step codespell codespell -q 3 -L "oneliners,childs,flushs,te,want's" $(git ls-files '*.c' '*.h' '*.md' '*.yaml' '*.sh' '*.py' | grep -v '^selftests/')
# shellcheck disable=SC2046
step shellcheck shellcheck $(git ls-files '*.sh' .ci/run 'debian/*.post*' 'scripts/container/*' 'scripts/completion/*.bash' | xargs)
# shellcheck disable=SC2046
step python /usr/bin/python3 -c 'import ast, sys
for f in sys.argv[1:]: ast.parse(open(f).read(), f)' $(git ls-files '*.py')
make -s bpf build/gen/console_files.h >/dev/null
# uninitvar, ctuuninitvar: utlist's loops confuse it; the compilers warn of the real ones. ctunullpointer: l7mp_error_set
# looks at err first. varFuncNullUB: in POSIX NULL is a pointer.
step cppcheck cppcheck -q -j"$(nproc)" --enable=warning,portability --inline-suppr --error-exitcode=1 \
	--suppress=missingInclude --suppress=unknownMacro --suppress=uninitvar --suppress=ctuuninitvar --suppress=ctunullpointer --suppress=varFuncNullUB --std=c11 -DL7MP_VERSION='""' -Iinclude -Iuserspace userspace
# clang-tidy reads its flags, one a line, from compile_flags.txt of a folder.
mkdir -p build/lint
{
	printf '%s\n' -std=gnu11 -D_GNU_SOURCE '-DL7MP_VERSION="0"' "-I$PWD/include" "-I$PWD/userspace" "-I$PWD/headers" "-I$PWD/build/gen"
	pkg-config --cflags libuv libcjson libbpf | tr ' ' '\n' | sed '/^$/d'
} >build/lint/compile_flags.txt
# shellcheck disable=SC2317 # called through step
tidy() {
	git ls-files 'userspace/*.c' |
		xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p build/lint 2>/dev/null
}
step clang-tidy tidy
exit $status
