"""One OpenAPI document for one base URL, merged from what the services say of themselves.

A path is in it when the front door's table leads there. Two services may share a component only
when both mean the same by its name; anything else is refused, because a client generated from it
would be wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from runtime.http import Problem, responses

Document = Mapping[str, Any]
_DOWN = responses("SERVICE_UNAVAILABLE")


def merge(documents: Iterable[Document], reachable: Collection[str], *, version: str) -> dict[str, Any]:
    """The document of the front door. Raises ValueError when two documents contradict each other.

    `reachable` are the path prefixes that the front door hands on.
    """
    paths: dict[str, Any] = {}
    components: dict[str, dict[str, Any]] = {"schemas": {}}
    _add(components["schemas"], {"Problem": Problem.model_json_schema()})
    for document in documents:
        _add(paths, {path: _item(item) for path, item in document["paths"].items() if _under(path, reachable)})
        for kind, named in document.get("components", {}).items():
            _add(components.setdefault(kind, {}), named)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Safelight", "version": version, "description": "Uploads in, finished outputs out."},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": components,
    }


def _under(path: str, prefixes: Collection[str]) -> bool:
    return any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)


def _item(item: Mapping[str, Any]) -> dict[str, Any]:
    """The path's operations; the front door adds to each that the service may be down."""
    down = {str(status): answer for status, answer in _DOWN.items()}
    return {method: {**said, "responses": {**down, **said["responses"]}} for method, said in item.items()}


def _add(known: dict[str, Any], new: Mapping[str, Any]) -> None:
    for name, meaning in new.items():
        if known.setdefault(name, meaning) != meaning:
            raise ValueError(f"two services mean different things by {name}")
