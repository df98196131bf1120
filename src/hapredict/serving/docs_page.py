"""The OpenAPI document as one HTML page, for people who want to see and to try."""

import html
import json
from collections.abc import Mapping
from typing import Any

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
details{border:1px solid #ccc;border-radius:6px;margin:.5rem 0;padding:.5rem .8rem}
summary{cursor:pointer}code,pre,textarea{font:13px/1.4 ui-monospace,monospace}
pre{background:#f5f5f5;padding:.6rem;overflow:auto}textarea{width:100%;box-sizing:border-box}
.verb{display:inline-block;width:3.5rem;font-weight:700;color:#05603a}.post{color:#b54708}
table{border-collapse:collapse}td,th{padding:.1rem .8rem .1rem 0;text-align:left}
"""
_SCRIPT = """
document.querySelectorAll('form').forEach(form => form.addEventListener('submit', async event => {
  event.preventDefault();
  const result = form.querySelector('pre');
  const path = form.dataset.path.replace('{version}', form.dataset.version);
  const options = {method: form.dataset.method};
  if (form.elements.body) {
    options.body = form.elements.body.value;
    options.headers = {'Content-Type': 'application/json'};
  }
  try {
    const reply = await fetch(form.dataset.root + path, options);
    result.textContent = reply.status + '\\n' + await reply.text();
  } catch (error) { result.textContent = String(error); }
}));
"""


def page(described: Mapping[str, Any]) -> str:
    """The document as one HTML page that loads nothing from anywhere."""
    info, components = described["info"], described["components"]["schemas"]
    root = described["servers"][0]["url"].rstrip("/")
    examples = {
        name: schema["examples"][0] for name, schema in components.items() if "examples" in schema
    }
    operations = "".join(
        _operation(path, verb, operation, root=root, version=info["version"], examples=examples)
        for path, item in described["paths"].items()
        for verb, operation in item.items()
        if verb in ("get", "post")
    )
    shapes = "".join(
        f"<details><summary><code>{html.escape(name)}</code></summary>{_pre(schema)}</details>"
        for name, schema in components.items()
    )
    title = html.escape(info["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<p>{html.escape(info['description'])} Champion: version "
        f'{html.escape(info["version"])}. <a href="{html.escape(root)}/openapi.json">'
        f"openapi.json</a></p>{operations}<h2>Shapes</h2>{shapes}"
        f"<script>{_SCRIPT}</script></body></html>"
    )


def _operation(
    path: str,
    verb: str,
    operation: Mapping[str, Any],
    *,
    root: str,
    version: str,
    examples: Mapping[str, Any],
) -> str:
    body = ""
    if "requestBody" in operation:
        ref = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        example = examples.get(ref.rsplit("/", 1)[-1], {})
        body = f'<textarea name="body" rows="8">{_json(example)}</textarea>'
    answers = "".join(
        f"<tr><td>{code}</td><td>{html.escape(answer['description'])}</td></tr>"
        for code, answer in operation["responses"].items()
    )
    return (
        f'<details><summary><span class="verb {verb}">{verb.upper()}</span> '
        f"<code>{html.escape(path)}</code> {html.escape(operation['summary'])}</summary>"
        f"<table>{answers}</table>"
        f'<form data-path="{html.escape(path)}" data-method="{verb.upper()}" '
        f'data-root="{html.escape(root)}" data-version="{html.escape(version)}">'
        f"{body}<button>Try</button><pre></pre></form></details>"
    )


def _pre(value: Any) -> str:
    return f"<pre>{_json(value)}</pre>"


def _json(value: Any) -> str:
    return html.escape(json.dumps(value, ensure_ascii=False, indent=2))
