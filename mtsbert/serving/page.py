"""The page at /docs: the OpenAPI description as plain HTML, without scripts and without anything from elsewhere."""

import json
from html import escape


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}"
    "pre{background:#f3f4f6;padding:.75rem;overflow-x:auto}h2{margin-top:2rem}code{font-size:.95em}"
)


def page_of(openapi: dict) -> str:
    """Returns the page of an API, with every request and its fields."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(openapi['info']['title'])}</title>",
        f"<style>{STYLE}</style><h1>{escape(openapi['info']['title'])}</h1>",
        f"<p>{escape(openapi['info']['description'])} For programs: <a href=openapi.json>openapi.json</a>.</p>",
    ]
    for path, methods in openapi["paths"].items():
        for method, request in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(request['summary'])}.</p>")
            if (body := request.get("requestBody")) is not None:
                reference = body["content"]["application/json"]["schema"]["$ref"]
                parts.append(_fields(openapi["components"]["schemas"][reference.rpartition("/")[2]]))
    return "\n".join([*parts, "</html>"])


def _fields(schema: dict) -> str:
    lines = []
    for name, field in schema["properties"].items():
        is_required = name in schema.get("required", ())
        default = "required" if is_required else f"default: {json.dumps(field.get('default'))}"
        lines.append(f"<dt><code>{escape(name)}</code> ({escape(default)})<dd>{escape(field['description'])}")
    return f"<dl>{''.join(lines)}</dl>"
