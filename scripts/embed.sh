#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Prints files as a C table: their bytes, and an ETag computed from them.
#
#   scripts/embed.sh NAME=FILE[,FILE...] ...      several files become one
set -eu

n=0
table=""
printf '/* Made by scripts/embed.sh. */\n'
for arg in "$@"; do
	name=${arg%%=*}
	files=$(echo "${arg#*=}" | tr ',' ' ')
	# shellcheck disable=SC2086 # a list of file names
	etag=$(cat $files | sha256sum | cut -c 1-32)
	# shellcheck disable=SC2086
	printf 'static const unsigned char embedded_%d[] = {\n%s\n};\n' "$n" \
		"$(cat $files | od -An -v -tx1 | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g')"
	table="$table	{\"$name\", embedded_$n, sizeof(embedded_$n), \"\\\\\"$etag\\\\\"\"},
"
	n=$((n + 1))
done
printf 'static const struct embedded embedded_files[] = {\n%b};\n' "$table"
