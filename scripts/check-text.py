#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Checks conventions for source files that clang-format does not cover.

- The licence line, in one form, is the first line (after #! in scripts).
- Lines of C sources have at most 100 columns, comments included; tabs count to the next 8.
- Non-standard words for which the field has a term are not used (WORDS).
- No reference to documents that are not in the tree.
- Files that the test runner starts (selftests/*/test_* with #!) are executable.
"""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS = 100
# Word -> what to write instead. In names, too: words are bounded by anything but letters.
WORDS = {
    r"graveyard": "name what is kept",
    r"unspin": "name what it does",
    r"go_deaf|(goes |is )deaf": "stop reading",
    r"knock(s|ed|ing)?": "wake, notify",
    r"the house": "the project",
    r"without a word": "silently, without FIN or RST",
    r"whoever": "the caller, the client, a program",
    r"somebody|anybody": "a client, another process, an observer",
    r"for good": "permanently, or nothing",
    r"strangers?": "peer, other client, attacker",
    r"sweeps?": "counter poll",
    r"news": "rewrite, event",
    r"twins?": "ordinal, duplicate",
    r"swallow(s|ed|ing)?": "drop, discard",
    r"under way": "in progress",
    r"mend(s|ed|ing)?": "correct, repair",
    r"the way (in|out|back)": "receive, egress, the other direction",
    r"(a|the|next) hops?": "nexthop, next stage",
    r"(may|can) have way|without a way": "route",
}
WORDS = {re.compile(rf"(?<![a-z])({word})(?![a-z])", re.I): instead
         for word, instead in WORDS.items()}
REFERENCES = re.compile(r"\bSPEC(\.md)? section|\b(the|see) issue \d|\bissue #?\d+\b", re.I)
SELF = "scripts/check-text.py"


def tracked():
    out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    return [name for name in out.stdout.decode().split("\0")
            if name.endswith((".c", ".h", ".py", ".sh", ".md", ".yaml"))
            and not name.startswith("selftests/fuzz/corpus") and name != SELF]


def check_licence(name, lines, errors):
    if name.endswith((".c", ".h")):
        good = lines[:1] == ["/* SPDX-License-Identifier: MIT */"]
    elif name.endswith((".py", ".sh")):
        first = lines[1:2] if lines and lines[0].startswith("#!") else lines[:1]
        good = first == ["# SPDX-License-Identifier: MIT"]
    else:
        return
    if not good:
        errors.append(f"{name}:1: expected the SPDX line")


def check_mode(name, lines, errors):
    folder, _, file = name.rpartition("/")
    if folder.startswith("selftests/") and file.startswith("test_") and lines[0].startswith("#!") and not os.access(ROOT / name, os.X_OK):
        errors.append(f"{name}: expected to be executable")


def check_lines(name, lines, errors):
    source = name.endswith((".c", ".h"))
    for number, line in enumerate(lines, 1):
        here = f"{name}:{number}"
        if source:
            columns = len(line.expandtabs(8))
            if columns > COLUMNS:
                errors.append(f"{here}: {columns} columns, expected at most {COLUMNS}")
        for word, instead in WORDS.items():
            hit = word.search(line)
            if hit:
                errors.append(f"{here}: '{hit.group()}': expected another word ({instead})")
        hit = REFERENCES.search(line)
        if hit:
            errors.append(f"{here}: '{hit.group()}' refers to a document that is not in the tree")


def main():
    errors = []
    for name in tracked():
        path = ROOT / name
        if not path.is_file():
            continue
        lines = path.read_text(errors="replace").split("\n")
        check_licence(name, lines, errors)
        check_mode(name, lines, errors)
        check_lines(name, lines, errors)
    for e in errors:
        print(e)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
