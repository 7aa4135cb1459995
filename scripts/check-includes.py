#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Checks the include graph: dependencies point down only (docs/architecture.md).

Each public header belongs to one layer; a file of layer L may include headers of
L and of the layers before it. Third-party headers stay behind their doors.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ORDER = ["base", "loop", "model", "session", "net", "proto", "transform", "offload", "config", "api", "daemon"]
ALLOWED = {layer: set(ORDER[: i + 1]) for i, layer in enumerate(ORDER)}
ALLOWED["model"] -= {"loop"}  # pure data
ALLOWED["config"] = {"base", "model", "config"}
ALLOWED["transform"] -= {"proto"}
ALLOWED["offload"] -= {"proto", "transform"}
ALLOWED["ctl"] = {"base", "model", "config", "ctl"}
HEADERS = {
    "base": "log error buf addr hash json jsonframe metrics stats text util",
    "loop": "loop slice work mailbox dgram stream_io resolve process",
    "model": "model change schema protodesc predicate",
    "session": "stream proto flow session runtime",
    "net": "tls",
    "proto": "protos",
    "transform": "transforms",
    "offload": "offload abi",
    "config": "config openapi rest registry_all oneliner",
    "api": "api",
    "daemon": "app",
}
LAYER_OF = {f"l7mp/{h}.h": layer for layer, hs in HEADERS.items() for h in hs.split()}
# header -> the only places that may include it
DOORS = {
    "bpf/": r"^userspace/offload/",
    "xdp/": r"^userspace/offload/",
    "civetweb.h": r"^userspace/api/admin_server\.c$",
    "libwebsockets.h": r"^userspace/proto/websocket/",
    "yaml.h": r"^userspace/config/yaml\.c$",
    "pcre2.h": r"^userspace/model/match/",
    "uthash.h": r"^include/l7mp/hash\.h$",
    "utlist.h": r"^include/l7mp/hash\.h$",
    "curl/": r"^userspace/ctl/",
    "openssl/ssl.h": r"^userspace/net/tls/",
    "ares.h": r"^userspace/loop/resolve\.c$",
    "uv.h": r"^(include/l7mp/loop\.h|userspace/(loop|net|proto|transform|offload|api|daemon)/)",
}
# Below a layer: the folders that a folder may include headers of, beside its own.
INSIDE = {
    "offload/path": set(),
    "offload/table": {"offload/path"},
    "offload/hook": {"offload/path", "offload/table"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def circles(folders):
    """Folders that include each other's headers, directly or by way of others."""
    for start in folders:
        stack, seen = [(start, [start])], set()
        while stack:
            here, way = stack.pop()
            for there in folders.get(here, {}):
                if there == start:
                    if start == min(way):  # each circle once
                        yield way + [start]
                elif there not in seen:
                    seen.add(there)
                    stack.append((there, way + [there]))


def check(path, layer, errors, folders):
    rel = path.relative_to(ROOT).as_posix()
    for quote, name in INCLUDE.findall(path.read_text()):
        if name.startswith("l7mp/"):
            owner = LAYER_OF.get(name)
            if owner is None:
                errors.append(f"{rel}: {name} belongs to no layer; add it to scripts/check-includes.py")
            elif owner not in ALLOWED[layer]:
                errors.append(f"{rel}: {layer}/ may not include {name} of {owner}/")
        elif quote == '"' and not name.endswith(".skel.h"):
            # A private header: by its name from its own folder, else by its path below userspace/.
            owner = name.split("/")[0] if "/" in name else layer
            if owner not in ALLOWED[layer]:
                errors.append(f"{rel}: {layer}/ may not include {name} of {owner}/")
            here = path.parent.relative_to(ROOT / "userspace").as_posix() if "userspace" in rel else layer
            there = name.rsplit("/", 1)[0] if "/" in name else here
            if here in INSIDE and there != here and there not in INSIDE[here]:
                errors.append(f"{rel}: {here}/ may not include {name}")
            if there != here:
                folders.setdefault(here, {}).setdefault(there, rel)
        for door, where in DOORS.items():
            if (name == door or (door.endswith("/") and name.startswith(door))) and not re.search(where, rel):
                errors.append(f"{rel}: <{name}> may be included only in {where}")


def main():
    errors, folders = [], {}
    for header in sorted((ROOT / "include/l7mp").glob("*.h")):
        name = f"l7mp/{header.name}"
        if name not in LAYER_OF:
            errors.append(f"include/{name} belongs to no layer; add it to scripts/check-includes.py")
            continue
        check(header, LAYER_OF[name], errors, {})
    for folder in sorted((ROOT / "userspace").iterdir()):
        if folder.name not in ALLOWED:
            errors.append(f"userspace/{folder.name}: unknown layer")
            continue
        for path in sorted(folder.rglob("*.[ch]")):
            check(path, folder.name, errors, folders)
    for way in circles(folders):
        errors.append("circle of folders: " + " -> ".join(
            f"{a} ({folders[a][b]})" for a, b in zip(way, way[1:])) + f" -> {way[-1]}")
    for e in errors:
        print(e)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
