"""The page to try the server at `/`, and the list of its routes at `/docs`. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from functools import cache
from importlib.resources import files
from typing import Any

_COMMON = {
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}  # fmt: skip


@cache
def page() -> tuple[str, dict[str, str]]:
    """Its text and its headers: only its own script runs, and it talks to this server alone."""
    style, script = _read("page.css"), _read("page.js")
    return _document("rm-serve", style, _read("page.html"), script), _headers(style, script)


def reference_page(document: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The routes of an OpenAPI document, and the shapes that they take and give."""
    style = _read("page.css")
    parts = ["<main><h1>rm-serve: routes</h1><p>For programs: <a href='/openapi.json'>/openapi.json</a>. "]
    parts.append("To try it: <a href='/'>the page</a>.</p>")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation))
    parts.append("<h2>Shapes</h2>")
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        if name not in ("HTTPValidationError", "ValidationError"):
            text = html.escape(json.dumps(schema, indent=1, ensure_ascii=False))
            parts.append(f"<details class='card' id='{html.escape(name)}'><summary>{html.escape(name)}</summary>")
            parts.append(f"<pre>{text}</pre></details>")
    parts.append("</main>")
    return _document("rm-serve: routes", style, "".join(parts), ""), _headers(style, "")


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    said = html.escape(str(operation.get("description", "")))
    lock = " <span class='quiet'>(bearer token)</span>" if operation.get("security") else ""
    takes = "".join(_linked("Takes", one) for one in _schemas(operation.get("requestBody", {})))
    answers = operation.get("responses", {})
    gives = "".join(_linked("Gives", one) for one in _schemas(answers.get("200", {})))
    refusals = ", ".join(code for code in answers if code != "200")
    refused = f"<br>Refuses with {html.escape(refusals)}" if refusals else ""
    return (
        f"<div class='card'><h3><code>{method.upper()} {html.escape(path)}</code>{lock}</h3>"
        f"<p>{said}</p><p class='quiet'>{takes}{gives}{refused}</p></div>"
    )


def _schemas(part: dict[str, Any]) -> list[str]:
    schema = part.get("content", {}).get("application/json", {}).get("schema", {})
    options = schema.get("anyOf", [schema])
    return [one["$ref"].rpartition("/")[2] for one in options if "$ref" in one]


def _linked(word: str, name: str) -> str:
    return f"{word} <a href='#{html.escape(name)}'>{html.escape(name)}</a>. "


def _document(title: str, style: str, body: str, script: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}"
        + (f"<script>{script}</script>" if script else "")
        + "\n</body>\n</html>\n"
    )


def _headers(style: str, script: str) -> dict[str, str]:
    allowed = f"script-src '{_hash(script)}'; " if script else ""
    policy = (
        f"default-src 'none'; {allowed}style-src '{_hash(style)}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {**_COMMON, "Content-Security-Policy": policy}


def _read(name: str) -> str:
    return (files("rm_experiments.serving") / "page_files" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
