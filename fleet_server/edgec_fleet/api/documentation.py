"""The API's reference as one plain page, made from the OpenAPI document; nothing is loaded."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

_PAGE = Markup("""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
summary {{ cursor: pointer; padding: .5rem 0; border-top: 1px solid #8886 }}
code, pre {{ font-family: ui-monospace, monospace; font-size: .875rem }}
pre {{ overflow-x: auto; padding: .75rem; border: 1px solid #8886 }}
.method {{ display: inline-block; min-width: 4rem; font-weight: 600 }}
</style>
<h1>{title}</h1>
<p>Version {version}. The same as data: <a href="/openapi.json">openapi.json</a>.
Send an API token as <code>Authorization: Bearer TOKEN</code>; make one with
<code>edgec-fleet token api</code>. Every refusal is
<code>{{"error": "one sentence", "detail": facts or null}}</code>.</p>
{body}</html>""")

_OPERATION = Markup(
    '<details><summary><span class="method">{method}</span> <code>{path}</code> {summary}'
    "</summary><p>{text}</p>{schemas}</details>"
)


def render(spec: Mapping[str, Any]) -> str:
    """Return the page for the OpenAPI document `spec`."""
    sections: dict[str, list[Markup]] = {}
    for path, method, operation in _operations(spec):
        tag = (operation.get("tags") or ["Other"])[0]
        sections.setdefault(tag, []).append(_operation(spec, path, method, operation))
    body = Markup("").join(
        Markup("<h2>{}</h2>{}").format(tag, Markup("").join(operations))
        for tag, operations in sections.items()
    )
    info = spec["info"]
    return str(_PAGE.format(title=info["title"], version=info["version"], body=body))


def _operations(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            if method in ("get", "post", "put", "patch", "delete"):
                yield path, method, operation


def _operation(
    spec: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]
) -> Markup:
    parts = Markup("")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts += Markup("<p>Body ({}):</p>{}").format(kind, _schema(spec, content))
    names = [p["name"] for p in operation.get("parameters", ()) if p.get("in") == "query"]
    if names:
        parts += Markup("<p>Query: <code>{}</code></p>").format(", ".join(names))
    for status, response in operation.get("responses", {}).items():
        if status.startswith("2"):
            shown = [_schema(spec, content) for content in response.get("content", {}).values()]
            parts += Markup("<p>Answer {}:</p>{}").format(status, Markup("").join(shown))
    return _OPERATION.format(
        method=method.upper(),
        path=path,
        summary=operation.get("summary", ""),
        text=operation.get("description", ""),
        schemas=parts,
    )


def _schema(spec: Mapping[str, Any], content: Mapping[str, Any]) -> Markup:
    example = _example(spec, content.get("schema", {}), 0)
    return Markup("<pre>{}</pre>").format(json.dumps(example, indent=2))


def _example(spec: Mapping[str, Any], schema: Mapping[str, Any], depth: int) -> Any:
    """Return the schema as the JSON that it describes, with types in place of values."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _example(spec, spec["components"]["schemas"][name], depth)
    if depth < 6 and "properties" in schema:
        return {
            name: _example(spec, value, depth + 1) for name, value in schema["properties"].items()
        }
    if depth < 6 and "items" in schema:
        return [_example(spec, schema["items"], depth + 1)]
    found = schema.get("type", "any")
    return " | ".join(found) if isinstance(found, list) else found
