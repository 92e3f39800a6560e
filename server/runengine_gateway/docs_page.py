"""Renders the OpenAPI document as one HTML page, without scripts and without further files."""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runengine_gateway.openapi_errors import Json
from runengine_gateway.routes import Endpoint

_SAMPLES_BY_FORMAT = {
    "uuid": "0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e",
    "date-time": "2026-01-31T09:30:00.123Z",
}
_SHORT = {"delete": "del"}
_SAMPLES_BY_TYPE = {"string": "…", "integer": 1, "number": 1, "boolean": False, "null": None}


def docs_endpoint(document: Json) -> Endpoint:
    """Returns the page of this OpenAPI document, without a token."""
    style = files("runengine_gateway").joinpath("docs.css").read_text("utf-8")
    page = _Page(document).render(style).encode("utf-8")
    style_hash = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    async def endpoint(request: Request) -> Response:
        headers = {"content-security-policy": policy}
        return Response(page, headers=headers, media_type="text/html; charset=utf-8")

    return endpoint


def _heading(tag: Json) -> str:
    """The tag in words: `Bulk operations` of `BulkOperations`."""
    return escape(re.sub("(?<=[a-z])[A-Z]", lambda found: f" {found[0].lower()}", tag["name"]))


class _Page:
    def __init__(self, document: Json) -> None:
        self._document = document
        self._operations: list[tuple[str, str, Json]] = [
            (method, path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
        ]
        authorised = [each for _, _, each in self._operations if each.get("security") != []]
        # Errors that any call may return are shown once.
        self._common: dict[str, Json] = {
            status: response
            for status, response in (authorised[0]["responses"].items() if authorised else ())
            if all(each["responses"].get(status) == response for each in authorised)
        }

    def render(self, style: str) -> str:
        info = self._document["info"]
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(info['title'])}</title><style>{style}</style></head>"
            f'<body>{self._navigation()}<main><header id="top">'
            f"<h1>{escape(info['title'])}<small>{escape(info['version'])}</small></h1>"
            f"<p>{_prose(info['description'])}</p>"
            '<p>For programs: <a href="/openapi.json">OpenAPI 3.1</a>. The calls below expect these '
            "variables, and <code>$runId</code> or what else is in the path:</p>"
            '<pre class="curl">export API=http://127.0.0.1:8080 TOKEN=…</pre>'
            '<h4 id="errors">Errors of any call, each a <a href="#Problem">Problem</a></h4>'
            f"{self._problems(self._common)}</header>"
            f"{''.join(self._group(tag) for tag in self._document['tags'])}"
            f"{self._schemas()}</main></body></html>"
        )

    def _navigation(self) -> str:
        groups = ""
        for tag in self._document["tags"]:
            links = "".join(
                f'<li><a href="#{escape(operation["operationId"])}">'
                f"{_method(method, _SHORT.get(method, method))}"
                f'<span class="path">{escape(path)}</span></a></li>'
                for method, path, operation in self._of_tag(tag)
            )
            groups += f"<h2>{_heading(tag)}</h2><ul>{links}</ul>"
        schemas = "".join(
            f'<li><a href="#{escape(name)}"><span class="path">{escape(name)}</span></a></li>'
            for name in self._document["components"]["schemas"]
        )
        title = escape(self._document["info"]["title"])
        return (
            f'<nav aria-label="Contents"><a class="brand" href="#top">{title}</a>{groups}'
            f'<div class="schemas"><h2>Schemas</h2><ul>{schemas}</ul></div></nav>'
        )

    def _of_tag(self, tag: Json) -> Iterator[tuple[str, str, Json]]:
        return (each for each in self._operations if tag["name"] in each[2]["tags"])

    def _group(self, tag: Json) -> str:
        operations = "".join(self._operation(*each) for each in self._of_tag(tag))
        return (
            f'<section><div class="group"><h2>{_heading(tag)}</h2>'
            f"<p>{_prose(tag['description'])}</p></div>{operations}</section>"
        )

    def _operation(self, method: str, path: str, operation: Json) -> str:
        anchor = escape(operation["operationId"])
        description = operation.get("description", "")
        return (
            f'<article class="operation" id="{anchor}">'
            f'<h3>{_method(method, method)}<a class="path" href="#{anchor}">{escape(path)}</a></h3>'
            f'<div class="columns"><div>'
            f"<p><strong>{_prose(operation['summary'])}</strong> {_prose(description)}</p>"
            f"{self._parameters(operation)}{self._body(operation)}{self._errors(operation)}</div>"
            f'<div class="samples">{self._samples(method, path, operation)}</div></div></article>'
        )

    def _parameters(self, operation: Json) -> str:
        rows = "".join(
            self._row(
                each["name"], each["schema"], each.get("required", False), each["in"], each["description"]
            )
            for each in operation.get("parameters", [])
        )
        return f"<h4>Parameters</h4><dl>{rows}</dl>" if rows else ""

    def _body(self, operation: Json) -> str:
        body = operation.get("requestBody")
        if body is None:
            return ""
        schema = self._resolve(body["content"]["application/json"]["schema"])
        return f"<h4>Body, and no other fields</h4>{self._properties(schema, show_required=True)}"

    def _errors(self, operation: Json) -> str:
        own = {
            status: response
            for status, response in operation["responses"].items()
            if status not in self._common or operation.get("security") == []
        }
        also = "" if operation.get("security") == [] else ', and <a href="#errors">those of any call</a>'
        shown = self._problems(own)
        return f"<h4>Errors{also}</h4>{shown}" if shown or also else ""

    def _problems(self, responses: Json) -> str:
        rows = ""
        meanings = self._document["components"]["schemas"]["ErrorReason"]["x-enumDescriptions"]
        for status, response in responses.items():
            reasons = self._resolve(response).get("x-reasons", [])
            if reasons:
                described = "".join(
                    f"<p><code>{escape(word)}</code> {_prose(meanings[word])}</p>" for word in reasons
                )
                rows += f"<div><dt>{escape(status)}</dt><dd>{described}</dd></div>"
        return f'<dl class="errors">{rows}</dl>' if rows else ""

    def _samples(self, method: str, path: str, operation: Json) -> str:
        call = f'<h4>Call</h4><pre class="curl">{escape(self._curl(method, path, operation))}</pre>'
        status, response = next(iter(operation["responses"].items()))
        title = f"{escape(status)}, {_lower_first(_prose(response['description'])).removesuffix('.')}"
        schema = response["content"].get("application/json", {}).get("schema")
        if schema is None:
            return f"{call}<h4>{title}</h4>"
        if "$ref" in schema:
            title += f" ({self._type(schema)})"
        # A call that changes a run or a campaign returns it as GET does, but in another state than the
        # sample's.
        sample = f"<pre>{_highlighted(self._sample(schema))}</pre>" if method == "get" else ""
        return f"{call}<h4>{title}</h4>{sample}"

    def _curl(self, method: str, path: str, operation: Json) -> str:
        filled = re.sub(r"\{(\w+)\}", r"$\1", path)
        lines = ["curl" + ("" if method == "get" else f" -X {method.upper()}") + f' "$API{filled}"']
        if operation.get("security") != []:
            lines.append('-H "authorization: Bearer $TOKEN"')
        if any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", [])):
            lines.append('-H "idempotency-key: $(uuidgen)"')
        if "requestBody" in operation:
            sample = self._sample(operation["requestBody"]["content"]["application/json"]["schema"])
            lines.append('-H "content-type: application/json"')
            lines.append("-d " + shlex.quote(json.dumps(sample, ensure_ascii=False)))
        if "*/*" in operation["responses"].get("200", {}).get("content", {}):
            lines.append("-OJ")
        return " \\\n  ".join(lines)

    def _schemas(self) -> str:
        shown = "".join(
            f'<article class="schema" id="{escape(name)}"><h3>{escape(name)}</h3>'
            f"<p>{_prose(schema.get('description', ''))}</p>{self._schema(schema)}</article>"
            for name, schema in self._document["components"]["schemas"].items()
        )
        return f'<section><div class="group"><h2>Schemas</h2></div>{shown}</section>'

    def _schema(self, schema: Json) -> str:
        if "enum" in schema:
            meanings = schema["x-enumDescriptions"]
            rows = "".join(
                f"<div><dt><code>{escape(word)}</code></dt><dd><p>{_prose(meanings[word])}</p></dd></div>"
                for word in schema["enum"]
            )
            return f"<dl>{rows}</dl>"
        return self._properties(schema, show_required=schema.get("additionalProperties") is False)

    def _properties(self, schema: Json, *, show_required: bool) -> str:
        required = schema.get("required", [])
        rows = "".join(
            self._row(name, each, show_required and name in required, "", each.get("description", ""))
            for name, each in schema.get("properties", {}).items()
        )
        return f"<dl>{rows}</dl>" if rows else ""

    def _row(self, name: str, schema: Json, required: bool, place: str, description: str) -> str:
        kind = ", ".join([self._type(schema), *_bounds(schema), *([place] if place else [])])
        mark = ' <span class="mark">required</span>' if required else ""
        return (
            f'<div><dt><code>{escape(name)}</code>{mark}<br><span class="type">{kind}</span></dt>'
            f"<dd><p>{_prose(description)}</p></dd></div>"
        )

    def _type(self, schema: Json) -> str:
        """The type in words, with links to schemas; escaped."""
        if "$ref" in schema:
            name = escape(schema["$ref"].rpartition("/")[2])
            return f'<a href="#{name}">{name}</a>'
        if "anyOf" in schema:
            return " or ".join(self._type(each) for each in schema["anyOf"])
        if "const" in schema:
            return escape(json.dumps(schema["const"]))
        types = schema.get("type", "any")
        names = list(types) if isinstance(types, list) else [types]
        if "format" in schema and schema["format"] in _SAMPLES_BY_FORMAT:
            names[0] = schema["format"]
        shown = [escape(name) for name in names]
        if names[0] == "array":
            shown[0] = f"array of {self._type(schema['items'])}"
        return " or ".join(shown)

    def _sample(self, schema: Json) -> Any:
        """A value that the schema permits."""
        if "examples" in schema:
            return schema["examples"][0]
        if "$ref" in schema:
            return self._sample(self._resolve(schema))
        if "anyOf" in schema:
            return None
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        types = schema["type"]
        kind = types[0] if isinstance(types, list) else types
        if kind == "object":
            members = list(schema.get("properties", {}).items())[: schema.get("maxProperties")]
            return {name: self._sample(each) for name, each in members}
        if kind == "array":
            return [self._sample(schema["items"])]
        return _SAMPLES_BY_FORMAT.get(schema.get("format", ""), _SAMPLES_BY_TYPE[kind])

    def _resolve(self, schema: Json) -> Json:
        if "$ref" not in schema:
            return schema
        found: Any = self._document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return dict(found)


def _method(method: str, shown: str) -> str:
    return f'<span class="method {escape(method)}">{escape(shown.upper())}</span>'


def _bounds(schema: Json) -> list[str]:
    found = []
    if "minimum" in schema and "maximum" in schema:
        least, most = schema["minimum"], schema["maximum"]
        found.append(f"from {least}" if most >= 2**31 - 1 else f"{least} to {most}")
    if "maxLength" in schema:
        found.append(f"{schema.get('minLength', 0)} to {schema['maxLength']} characters")
    return found


def _prose(text: str) -> str:
    """Escaped, with `code` as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


_TOKEN = re.compile(
    r'(?P<n>"(?:[^"\\]|\\.)*")(?=: )|(?P<s>"(?:[^"\\]|\\.)*")|(?P<l>\b(?:true|false|null|-?[0-9.]+)\b)'
)


def _highlighted(sample: object) -> str:
    """The sample as indented JSON, escaped, its tokens in colour."""
    text, shown, end = json.dumps(sample, indent=2, ensure_ascii=False), "", 0
    for token in _TOKEN.finditer(text):
        shown += escape(text[end : token.start()])
        shown += f'<span class="{token.lastgroup}">{escape(token[0])}</span>'
        end = token.end()
    return shown + escape(text[end:])
