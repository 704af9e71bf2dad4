"""One OpenAPI document for one base URL, merged from what the services say of themselves.

A path is in it when the front door's table leads from there to the service that describes it, and a
component when such a path needs it: what a service says to its neighbours only is nobody's business.
Two services may share a component only when both mean the same by its name; anything else is
refused, because a client generated from it would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from runtime.http import Problem, responses

Document = Mapping[str, Any]
_DOWN: Final = responses("SERVICE_UNAVAILABLE")
_REF: Final = "#/components/"


def merge(
    documents: Mapping[str, Document], service_of: Callable[[str], str | None], *, version: str
) -> dict[str, Any]:
    """The document of the front door. Raises ValueError when two documents contradict each other.

    `documents` are by service; `service_of` says to which one the front door hands a path on.
    """
    paths: dict[str, Any] = {}
    components: dict[str, dict[str, Any]] = {"schemas": {}}
    _add(components["schemas"], {"Problem": Problem.model_json_schema()})
    for service, document in documents.items():
        mine = {path: _item(item) for path, item in document["paths"].items() if service_of(path) == service}
        _add(paths, mine)
        for kind, name in _needed(mine, document.get("components", {})):
            _add(components.setdefault(kind, {}), {name: document["components"][kind][name]})
    return {
        "openapi": "3.1.0",
        "info": {"title": "Safelight", "version": version, "description": "Uploads in, finished outputs out."},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": components,
    }


def _needed(paths: Mapping[str, Any], components: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The components that these paths refer to, at first or second hand."""
    found: dict[tuple[str, str], None] = {}
    left = list(_referred(paths))
    while left:
        kind, name = left.pop()
        if (kind, name) not in found and name in components.get(kind, {}):
            found[kind, name] = None
            left += _referred(components[kind][name])
    return list(found)


def _referred(node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        ref = node.get("$ref")
        if isinstance(ref, str) and ref.startswith(_REF):
            kind, _, name = ref.removeprefix(_REF).partition("/")
            yield kind, name
        for scheme in node.get("security", ()):
            yield from (("securitySchemes", name) for name in scheme)
        for inner in node.values():
            yield from _referred(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _referred(inner)


def _item(item: Mapping[str, Any]) -> dict[str, Any]:
    """The path's operations; the front door adds to each that the service may be down."""
    down = {str(status): answer for status, answer in _DOWN.items()}
    return {method: {**said, "responses": {**down, **said["responses"]}} for method, said in item.items()}


def _add(known: dict[str, Any], new: Mapping[str, Any]) -> None:
    for name, meaning in new.items():
        if known.setdefault(name, meaning) != meaning:
            raise ValueError(f"two services mean different things by {name}")
