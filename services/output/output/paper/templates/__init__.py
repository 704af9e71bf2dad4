"""Templates of fields: those beside this module are built in, a user's lie in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from output.paper.fields import Template

BUILT_IN: Final = Path(__file__).parent
FILES: Final = (".yaml", ".yml")
FILE_BYTES_MAX: Final = 64 * 1024


class TemplateInvalid(Exception):
    """A template's file cannot be used; the message names the file and says why."""


def load(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """The templates by name, as data. Raises TemplateInvalid, also for a name that two files declare."""
    if folder is not None and not folder.is_dir():
        raise TemplateInvalid(f"{folder}: there is no such folder")
    found: dict[str, dict[str, Any]] = {}
    for place in (BUILT_IN, folder):
        for path in sorted(place.iterdir()) if place else ():
            if path.suffix.lower() in FILES and not path.name.startswith("."):
                template = _read(path)
                if template.name in found:
                    raise TemplateInvalid(f"{path}: a template called {template.name} is there already")
                found[template.name] = template.model_dump()
    return found


def _read(path: Path) -> Template:
    try:
        text = path.read_bytes()
        if len(text) > FILE_BYTES_MAX:
            raise TemplateInvalid(f"{path}: it has more than {FILE_BYTES_MAX} bytes")
        return Template.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as problem:
        raise TemplateInvalid(f"{path}: {problem}") from problem
    except ValidationError as problem:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problem.errors())
        raise TemplateInvalid(f"{path}: {wrong}") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise TemplateInvalid(f"{path}: it cannot be read") from problem
