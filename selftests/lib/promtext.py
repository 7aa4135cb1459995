# SPDX-License-Identifier: MIT
"""A strict reader of Prometheus' text format 0.0.4, written from its description:
https://prometheus.io/docs/instrumenting/exposition_formats/ (text-based format)."""
import re

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
VALUE = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?Inf|NaN")
TYPES = {"counter", "gauge", "histogram", "summary", "untyped"}


class FormatError(Exception):
    pass


def need(condition, line, what):
    if not condition:
        raise FormatError(f"{what}: {line!r}")


def labels_of(line, text):
    """Reads 'a="b",c="d"}' and returns (labels, what follows)."""
    labels = {}
    while not text.startswith("}"):
        m = LABEL.match(text)
        need(m, line, "label name")
        key, text = m.group(), text[m.end():]
        need(text.startswith('="'), line, "label value")
        text, value = text[2:], ""
        while True:
            need(text, line, "unfinished label value")
            c, text = text[0], text[1:]
            if c == '"':
                break
            if c == "\\":
                need(text and text[0] in '\\"n', line, "escape")
                c, text = {"n": "\n"}.get(text[0], text[0]), text[1:]
            value += c
        need(key not in labels, line, "label twice")
        labels[key] = value
        if text.startswith(","):
            text = text[1:]
        else:
            need(text.startswith("}"), line, "after a label")
    return labels, text[1:]


def parse(data):
    """{name: {"type", "help", "samples": {frozenset of labels: value}}} of bytes, or FormatError."""
    text = data.decode("utf-8", "strict")
    need(text.endswith("\n"), text[-40:], "no final line feed")
    families, current = {}, None
    for line in text[:-1].split("\n"):
        if not line.strip():
            continue
        if line.startswith("#"):
            m = re.fullmatch(r"# (HELP|TYPE) (\S+) (.*)", line)
            need(m, line, "comment that is neither HELP nor TYPE")
            kind, name, rest = m.groups()
            need(NAME.fullmatch(name), line, "metric name")
            if name != current:
                need(name not in families, line, "metric in two places")
                families[name] = {"samples": {}}
                current = name
            need(kind.lower() not in families[name], line, "said twice")
            need(not families[name]["samples"], line, "after the samples")
            if kind == "TYPE":
                need(rest in TYPES, line, "type")
            families[name][kind.lower()] = rest
            continue
        m = NAME.match(line)
        need(m, line, "metric name")
        name, rest = m.group(), line[m.end():]
        # A histogram's samples have names of their own; they are checked for their form only.
        parts = current and families[current].get("type") == "histogram" and \
            name in (f"{current}_bucket", f"{current}_sum", f"{current}_count")
        need(name == current or parts, line, "sample outside of its metric")
        labels = {"__part__": name} if parts else {}
        name = current
        if rest.startswith("{"):
            found, rest = labels_of(line, rest[1:])
            labels.update(found)
        m = re.fullmatch(r" (\S+)( -?\d+)?", rest)
        need(m and VALUE.fullmatch(m.group(1)), line, "value")
        key = frozenset(labels.items())
        need(key not in families[name]["samples"], line, "sample twice")
        families[name]["samples"][key] = float(m.group(1))
    for name, family in families.items():
        need("help" in family and "type" in family, name, "HELP and TYPE expected")
        need(family["type"] != "counter" or name.endswith("_total"), name, "counters end in _total")
    return families


def value(families, name, **labels):
    """The one sample with these labels among its labels."""
    found = [v for k, v in families[name]["samples"].items() if set(labels.items()) <= k]
    if len(found) != 1:
        raise FormatError(f"{name} {labels}: {len(found)} samples")
    return found[0]
