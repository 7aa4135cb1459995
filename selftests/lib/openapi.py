# SPDX-License-Identifier: MIT
"""Answers against an OpenAPI 3.0 document: as much of JSON schema as the document uses."""
import re

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool}


def is_type(value, name):
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool) or isinstance(value, float) and value.is_integer()
    if name == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


class Document:
    """`closed`: a key that the schema does not describe is an error, too."""

    def __init__(self, document, closed=True):
        self.document, self.closed = document, closed

    def resolve(self, schema):
        while "$ref" in schema:
            node = self.document
            for part in schema["$ref"].lstrip("#/").split("/"):
                node = node[part]
            schema = node
        return schema

    def keys(self, schema):
        """What a schema describes, with those that it is made of; None: anything."""
        schema = self.resolve(schema)
        found = set(schema.get("properties", {}))
        if schema.get("additionalProperties") or not any(k in schema for k in ("properties", "maxProperties", "allOf", "oneOf", "anyOf")):
            return None
        for part in [p for k in ("allOf", "oneOf", "anyOf") for p in schema.get(k, [])]:
            more = self.keys(part)
            if more is None:
                return None
            found |= more
        return found

    def errors(self, schema, value, path=""):
        """What is wrong, as texts with the place."""
        schema = self.resolve(schema)
        found = []
        if "type" in schema and not is_type(value, schema["type"]):
            return [f"{path}: {value!r} is no {schema['type']}"]
        if "enum" in schema and value not in schema["enum"]:
            found.append(f"{path}: {value!r} is none of {schema['enum']}")
        if isinstance(value, str):
            if "pattern" in schema and not re.search(schema["pattern"], value):
                found.append(f"{path}: {value!r} does not match {schema['pattern']}")
            if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1 << 60):
                found.append(f"{path}: {value!r} has a length out of bounds")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not schema.get("minimum", float("-inf")) <= value <= schema.get("maximum", float("inf")):
                found.append(f"{path}: {value!r} is out of bounds")
        if isinstance(value, list):
            if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1 << 60):
                found.append(f"{path}: {len(value)} items are out of bounds")
            for i, item in enumerate(value):
                found += self.errors(schema.get("items", {}), item, f"{path}[{i}]")
        if isinstance(value, dict):
            found += self.object_errors(schema, value, path)
        for part in schema.get("allOf", []):
            found += self.errors(part, value, path)
        for k in ("anyOf", "oneOf"):
            tried = [self.errors(part, value, path) for part in schema.get(k, [])]
            if tried and all(tried):  # those of the alternative that is of the value's type, when there is one
                found += min(tried, key=lambda e: e[0].startswith(path + ": ") and " is no " in e[0])
        return found

    def object_errors(self, schema, value, path):
        found = [f"{path}: has no {key}" for key in schema.get("required", []) if key not in value]
        if len(value) > schema.get("maxProperties", 1 << 60):
            found.append(f"{path}: has {len(value)} keys")
        properties = schema.get("properties", {})
        for key, item in value.items():
            if key in properties:
                found += self.errors(properties[key], item, f"{path}.{key}")
            elif isinstance(schema.get("additionalProperties"), dict):
                found += self.errors(schema["additionalProperties"], item, f"{path}.{key}")
        known = self.keys(schema)
        if self.closed and known is not None:
            found += [f"{path}: {key} is not described" for key in value if key not in known]
        return found

    def answer_errors(self, path, method, status, content_type, body):
        """Of an answer to an operation; `body` is decoded."""
        operation = self.document["paths"][path][method.lower()]
        response = operation["responses"].get(str(status))
        if response is None:
            return [f"{method} {path}: {status} is not described"]
        media = response["content"].get(content_type)
        if media is None:
            return [f"{method} {path}: {status}: {content_type} is not described"]
        return [f"{method} {path}: {status}{e}" for e in self.errors(media["schema"], body)]
