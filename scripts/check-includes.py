#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Checks the include rules, and that docs/architecture.md matches the code.

- A public header (include/l7mp/) belongs to one layer; a file of a layer may include headers of
  the layers that ALLOWED names.
- No two folders include each other's headers, directly or indirectly.
- A third-party header is included only where the table of libraries in docs/architecture.md says,
  each place in that table includes it, and scripts/setup.sh installs its package.
- The include graph in docs/architecture.md is that of the code.

    scripts/check-includes.py            check; prints what is wrong
    scripts/check-includes.py --graph    print the graph of the code
    scripts/check-includes.py --write    put it into docs/architecture.md
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOC = ROOT / "docs/architecture.md"
ORDER = ["base", "loop", "model", "session", "net", "proto", "transform", "offload", "config", "api", "daemon"]
ALLOWED = {layer: set(ORDER[: i + 1]) for i, layer in enumerate(ORDER)}
ALLOWED["model"] -= {"loop"}  # pure data
ALLOWED["config"] = {"base", "model", "config"}
ALLOWED["transform"] -= {"proto"}
ALLOWED["offload"] -= {"proto", "transform"}
ALLOWED["ctl"] = {"base", "loop", "model", "config", "kube", "ctl"}
ALLOWED["kube"] = {"base", "loop", "config", "kube"}
ALLOWED["operator"] = {"base", "loop", "model", "config", "kube", "operator"}
PROGRAMS = ["kube", "ctl", "operator"]  # after the layers, in the graph
HEADERS = {
    "base": "log filewriter error fault buf addr hash json jsonframe metrics relaymark stats text util",
    "loop": "loop slice work mailbox dgram stream_io resolve process listening",
    "model": "model change health schema protodesc predicate",
    "session": "stream proto flow abi_rtp session runtime drain handover",
    "net": "tls handed",
    "proto": "protos",
    "transform": "transforms",
    "offload": "offload abi abi_tcp",
    "config": "config openapi rest registry_all oneliner",
    "api": "api",
    "daemon": "app",
    "kube": "kube kube_http",
}
LAYER_OF = {f"l7mp/{h}.h": layer for layer, hs in HEADERS.items() for h in hs.split()}
# The folders of offload/ that each of them may include headers of, beside its own.
INSIDE = {
    "offload/path": set(),
    "offload/table": {"offload/path"},
    "offload/tcp": set(),
    "offload/hook": {"offload/path", "offload/table"},
}
# Headers of the C library, of the kernel and of the compiler: everything else is a library's.
SYSTEM_FOLDERS = ("sys/", "linux/", "net/", "netinet/", "arpa/", "asm/", "sanitizer/")
SYSTEM = set("""assert ctype dirent elf errno fcntl getopt grp ifaddrs inttypes limits locale malloc math netdb poll pwd
    pthread sched setjmp signal spawn stdarg stdatomic stdbool stddef stdint stdio stdlib string strings
    termios time unistd""".split())
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
GRAPH = re.compile(r"(<!-- include graph[^\n]*-->\n```text\n)(.*?)(```\n)", re.S)
LIBRARY_ROW = re.compile(r"^\| \[?([^|\]]+?)(?:\]\([^|]*\))? \| (`[^|]*`) \| ([^|]*) \| ([^|]*) \| [^|]+ \|$", re.M)


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


class Libraries:
    """The table of third-party libraries in docs/architecture.md."""

    def __init__(self, text, errors):
        self.rows = [(name, quoted(packages), quoted(headers), quoted(places))
                     for name, packages, headers, places in LIBRARY_ROW.findall(text)]
        self.used = set()
        setup = (ROOT / "scripts/setup.sh").read_text()
        if not self.rows:
            errors.append("docs/architecture.md: no table of libraries found")
        for name, packages, _, _ in self.rows:
            for package in packages:
                if not re.search(rf"(?<![\w-]){re.escape(package)}(?![\w-])", setup):
                    errors.append(f"scripts/setup.sh does not install {package} ({name} in docs/architecture.md)")

    def check(self, rel, header, errors):
        for name, _, headers, places in self.rows:
            if not any(header == h or (h.endswith("/") and header.startswith(h)) for h in headers):
                continue
            place = next((p for p in places if rel == p or (p.endswith("/") and rel.startswith(p))), None)
            if place is None:
                errors.append(f"{rel}: <{header}> of {name} may be included only in {', '.join(places)}")
            self.used.add((name, place))
            return
        if not (header.startswith(SYSTEM_FOLDERS) or header.removesuffix(".h") in SYSTEM):
            errors.append(f"{rel}: <{header}> is of no library in the table of docs/architecture.md")

    def check_places(self, errors):
        for name, _, _, places in self.rows:
            for place in places:
                if (name, place) not in self.used:
                    errors.append(f"docs/architecture.md: {name} is not included in {place} any more")


def cycles(graph):
    """Cycles of folders that include each other's headers."""
    for start in graph:
        stack, seen = [(start, [start])], set()
        while stack:
            here, path = stack.pop()
            for there in graph.get(here, {}):
                if there == start and here != start:
                    if start == min(path):  # each cycle once
                        yield path + [start]
                elif there not in seen:
                    seen.add(there)
                    stack.append((there, path + [there]))


def check_file(path, layer, libraries, errors, graph, private):
    """`graph`: folder -> folder whose headers it includes -> a file that does; `private` the same
    without public headers, which belong to a layer as a whole."""
    rel = path.relative_to(ROOT).as_posix()
    here = path.parent.relative_to(ROOT / "userspace").as_posix() if rel.startswith("userspace/") else layer
    for quote, name in INCLUDE.findall(path.read_text()):
        if name.startswith("l7mp/"):
            owner = there = LAYER_OF.get(name)
            if owner is None:
                errors.append(f"{rel}: {name} belongs to no layer; add it to scripts/check-includes.py")
                continue
        elif quote == '"' and not name.endswith((".skel.h", "console_files.h")):  # made by the build
            # A private header: by its name from its own folder, else by its path below userspace/.
            owner = name.split("/")[0] if "/" in name else layer
            there = name.rsplit("/", 1)[0] if "/" in name else here
            if not (ROOT / "userspace" / there / name.rsplit("/", 1)[-1]).exists():
                owner = there = "headers" if (ROOT / "headers" / name).exists() else None
                if owner is None:
                    errors.append(f"{rel}: there is no {name}; write its path below userspace/")
                    continue
            if here in INSIDE and there != here and there not in INSIDE[here] | {"headers"}:
                errors.append(f"{rel}: {here}/ may not include {name}")
            if there != here:
                private.setdefault(here, {}).setdefault(there, rel)
        else:
            if quote == "<":
                libraries.check(rel, name, errors)
            continue
        if owner not in ALLOWED[layer] and owner != "headers":
            errors.append(f"{rel}: {layer}/ may not include {name} of {owner}/")
        graph.setdefault(here, {})
        if there != here:
            graph[here].setdefault(there, rel)


def print_graph(graph):
    """One folder a line, in the order of the layers, with the folders that it includes headers of."""
    rank = {layer: i for i, layer in enumerate(["headers"] + ORDER + PROGRAMS)}

    def order(folder):
        return rank[folder.split("/")[0]], folder

    width = max(map(len, graph))
    return "".join(f"{folder:{width}} -> {' '.join(sorted(graph[folder], key=order)) or '(nothing)'}\n"
                   for folder in sorted(graph, key=order))


def main():
    errors, graph, private = [], {}, {}
    text = DOC.read_text()
    libraries = Libraries(text, errors)
    for header in sorted((ROOT / "include/l7mp").glob("*.h")):
        name = f"l7mp/{header.name}"
        if name not in LAYER_OF:
            errors.append(f"include/{name} belongs to no layer; add it to scripts/check-includes.py")
            continue
        check_file(header, LAYER_OF[name], libraries, errors, graph, {})
    for folder in sorted((ROOT / "userspace").iterdir()):
        if folder.name not in ALLOWED:
            errors.append(f"userspace/{folder.name}: unknown layer")
            continue
        for path in sorted(folder.rglob("*.[ch]")):
            check_file(path, folder.name, libraries, errors, graph, private)
    for path in cycles(private):
        errors.append("folders that include each other: " + " -> ".join(
            f"{a} ({private[a][b]})" for a, b in zip(path, path[1:])) + f" -> {path[-1]}")
    libraries.check_places(errors)

    now = print_graph(graph)
    if "--graph" in sys.argv[1:]:
        print(now, end="")
        return 0
    if "--write" in sys.argv[1:]:
        DOC.write_text(GRAPH.sub(lambda m: m[1] + now + m[3], text))
        return 0
    documented = GRAPH.search(text)
    if not documented or documented[2] != now:
        errors.append("docs/architecture.md: the include graph is not that of the code; "
                      "run scripts/check-includes.py --write")
        if documented:
            was, new = documented[2].splitlines(), now.splitlines()
            errors += [f"  documented: {line}" for line in was if line not in new]
            errors += [f"  in the code: {line}" for line in new if line not in was]
    for e in errors:
        print(e)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
