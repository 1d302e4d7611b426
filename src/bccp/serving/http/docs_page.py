"""``/docs``: the page on the service, made of its OpenAPI description; nothing is loaded from elsewhere, and nothing on it is run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from starlette.responses import Response

from bccp.reporting import html
from bccp.serving.http import json_text
from bccp.serving.http.documentation import EXAMPLE, SAMPLES, address_of, openapi
from bccp.serving.http.incoming import Incoming
from bccp.serving.http.parts import Parts
from bccp.serving.http.problems import KINDS

HEADERS = {
    **json_text.HEADERS,
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
}

_STYLE = """
.endpoint { background: var(--card); border-radius: 10px; padding: 0.2rem 1.1rem; margin: 0.75rem 0 0; }
.endpoint > summary { padding: 0.55rem 0; display: flex; flex-wrap: wrap; gap: 0.2rem 0.7rem; align-items: baseline; }
.endpoint > summary code { font-size: 0.95rem; font-weight: 600; }
.endpoint > summary span { color: var(--soft); }
.endpoint[open] { padding-bottom: 0.9rem; }
.endpoint h3 { margin: 1.1rem 0 0.3rem; }
.endpoint p { margin: 0.3rem 0; max-width: 52rem; }
.endpoint > summary .method { font: 600 0.72rem/1.5 ui-monospace, monospace; letter-spacing: 0.04em; color: var(--page); }
.method { padding: 0.1rem 0.45rem; border-radius: 5px; background: var(--good); }
.method.get { background: var(--blue); }
.endpoint pre, .intro pre { background: var(--page); border: 1px solid var(--line); overflow-wrap: anywhere; user-select: all; }
.problem:target td { background: var(--card); }
pre, code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
"""


async def page(parts: Parts, incoming: Incoming) -> Response:
    """Answer with the page."""
    return Response(docs_page(openapi(parts, address_of(incoming))), 200, HEADERS, "text/html; charset=utf-8")


async def front(parts: Parts, incoming: Incoming) -> Response:
    """Lead whoever opens the service's address to the page."""
    return Response(None, 307, {**HEADERS, "Location": "/docs"})


def docs_page(described: Mapping[str, Any]) -> str:
    """Make the page.

    Parameters
    ----------
    described : mapping
        An OpenAPI document, as :func:`bccp.serving.http.documentation.openapi` makes it.

    Returns
    -------
    str
        HTML.
    """
    info = described["info"]
    return html.document(f"{info['title']} service", _parts(described), style=_STYLE)


def _parts(described: Mapping[str, Any]) -> Iterator[str]:
    info = described["info"]
    yield f"<h1>{escape(info['title'])} service <span>{escape(info['version'])}</span></h1>"
    yield f"<p class='said'>{_prose(info['summary'])} {_prose(info['description'])}</p>"
    make = f"echo {EXAMPLE} | base64 -d > example.png"
    yield f"<div class='intro'><p class='note'>The examples send this small file:</p><pre>{escape(make)}</pre></div>"
    schemas = described["components"]["schemas"]
    for tag in described["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2><p class='note'>{_prose(tag['description'])}</p>"
        for path, operations in described["paths"].items():
            for method, operation in operations.items():
                if tag["name"] in operation["tags"]:
                    yield _endpoint(method, path, operation, schemas)
    yield _tokens(described)
    yield _problems()
    yield "<footer>The same for programs: <a href='/openapi.json'>/openapi.json</a></footer>"


def _endpoint(method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    head = f"<span class='method {method}'>{method.upper()}</span> <code>{escape(path)}</code> <span>{escape(operation['summary'])}</span>"
    parts = [f"<p>{_prose(operation['description'])}</p>"]
    for sample in operation.get(SAMPLES, ()):
        label = sample["label"] or "Example"
        parts.append(f"<h3>{escape(label)}</h3><pre>{escape(sample['source'])}</pre>")
    if "parameters" in operation:
        rows = [(one["name"], one["in"], _prose(one["description"])) for one in operation["parameters"]]
        parts.append("<h3>Parameters</h3>" + _table(("name", "where", ""), rows))
    if "requestBody" in operation:
        rows = [(kind, "", _form(one.get("schema", {}))) for kind, one in operation["requestBody"]["content"].items()]
        parts.append("<h3>Body</h3>" + _table(("content type", "", "fields"), rows))
    rows = []
    for status, response in sorted(operation["responses"].items()):
        schema = next(iter(response.get("content", {"": {}}).values())).get("schema", {})
        shown = "" if int(status) >= 400 else _form(_resolved(schema, schemas))
        rows.append((status, "", f"{_prose(response['description'])} {shown}"))
    parts.append("<h3>Answers</h3>" + _table(("status", "", ""), rows))
    is_open = " open" if path in ("/predict", "/feedback") else ""
    return f"<details class='endpoint'{is_open}><summary>{head}</summary>{''.join(parts)}</details>"


def _resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema with the first of those that it refers to in its place."""
    schema = schema["oneOf"][0] if "oneOf" in schema else schema
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _form(schema: Mapping[str, Any]) -> str:
    """The fields of a schema, and those of its alternatives."""
    if "oneOf" in schema:
        return "; or ".join(filter(None, (_form(one) for one in schema["oneOf"])))
    fields = schema.get("properties", {})
    names = [f"<code>{escape(name)}</code>" for name, field in fields.items() if field != {"type": "null"}]
    return ", ".join(names)


def _table(headings: tuple[str, str, str], rows: list[tuple[str, str, str]]) -> str:
    """A table of three columns, of which an empty one is left out; the last is HTML."""
    has_second = any(row[1] for row in rows)
    columns = [0, 1, 2] if has_second else [0, 2]
    head = "".join(f"<th>{escape(headings[k])}</th>" for k in columns)
    lines = ""
    for first, second, third in rows:
        middle = f"<td>{escape(second)}</td>" if has_second else ""
        lines += f"<tr><td><code>{escape(first)}</code></td>{middle}<td class='long'>{third}</td></tr>"
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"


def _tokens(described: Mapping[str, Any]) -> str:
    schemes = described["components"]["securitySchemes"]
    asked = any(operation["security"] for operation in described["paths"]["/predict"].values())
    said = "" if asked else " This service was started without the first: whoever reaches it from this machine predicts and votes."
    rows = [(name, "", _prose(scheme["description"])) for name, scheme in schemes.items()]
    note = f"<p class='note'>Sent as <code>Authorization: Bearer TOKEN</code>.{said}</p>"
    return f"<h2>Tokens</h2>{note}{_table(('role', '', ''), rows)}"


def _problems() -> str:
    rows = "".join(
        f"<tr class='problem' id='{kind}'><td><code>{kind}</code></td><td class='figure'>{one.status}</td><td>{escape(one.title)}</td>"
        f"<td class='long'>{_prose(one.remedy)}</td></tr>"
        for kind, one in KINDS.items()
    )
    head = "<tr><th>problem</th><th>status</th><th></th><th>remedy</th></tr>"
    example = json.dumps({"type": "/docs#empty", "title": KINDS["empty"].title, "status": 422, "detail": "…"}, ensure_ascii=False)
    return (
        f"<h2>Problems</h2><p class='note'>Documents such as <code>{escape(example)}</code>; detail names culprit and remedy.</p>"
        f"<div class='wide'><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"
    )


def _prose(text: str) -> str:
    """A text as HTML, with what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
