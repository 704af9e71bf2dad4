"""The one folder in which a stack lives: data, logs, secrets, state, lock.

.safelight/            mode 711: the database's account may walk through, nobody may list
  lock                 held (flock) by the supervisor for as long as it lives: the one proof that a stack is up
  state.json           what runs, where, since when; written by the supervisor alone, whole or not at all
  secrets.json         mode 600, made once
  logs/NAME.log        mode 700
  data/{nats,postgres,s3}/
  weights/             models' files, where `safelight weights pull` was asked for them
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[3]

ROLES: Final = ("INGEST", "ORCHESTRATOR", "GPU_BRIDGE", "OUTPUT")  # who has an account at the broker and a schema
SECRETS: Final = (
    *(f"SAFELIGHT_NATS_PASSWORD_{name}" for name in ("SETUP", *ROLES)),
    *(f"SAFELIGHT_POSTGRES_PASSWORD_{name}" for name in ("ADMIN", *ROLES)),
    "SAFELIGHT_S3_ACCESS_KEY",  # of set-up; a service's is its name
    "SAFELIGHT_S3_SECRET_KEY",
    *(f"SAFELIGHT_S3_SECRET_KEY_{name}" for name in ROLES if name != "ORCHESTRATOR"),
    "SAFELIGHT_S3_INTERNAL_KEY",  # between the parts of the S3 server
    "SAFELIGHT_GRANT_KEYS",  # `name:secret,...`: sign upload grants, the first of them new ones
    "SAFELIGHT_MASTER_KEYS",  # `name:secret,...`: the first wraps the keys of sealed work, the others open older ones
    "SAFELIGHT_RECEIPT_KEY",  # signs receipts of erasures
    "SAFELIGHT_API_KEY",  # of the tenant `demo`
    "SAFELIGHT_OPERATOR_KEY",  # of the operator `ops`
    "SAFELIGHT_SIGNING_KEYS",  # what output signs webhooks and links with
)


class Refusal(Exception):
    """The stack cannot do what was asked; the text is the one sentence that the user reads."""


def new_secrets() -> dict[str, str]:
    """One secret per name. Each begins with a letter, for nats.conf reads `12k` as a number."""
    named = {"SAFELIGHT_GRANT_KEYS": "g1:", "SAFELIGHT_MASTER_KEYS": "m1:"}
    return {name: named.get(name, "") + "s" + secrets.token_hex(20) for name in SECRETS}


@dataclass(frozen=True, slots=True)
class Home:
    """A stack's folder. `Home.here()` is the one that commands use."""

    path: Path

    @classmethod
    def here(cls) -> Home:
        """`SAFELIGHT_HOME`, else `.safelight` in the repository."""
        return cls(Path(os.environ.get("SAFELIGHT_HOME") or REPOSITORY / ".safelight").resolve())

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def weights(self) -> Path:
        """The models' files that an operator has pulled."""
        return self.path / "weights"

    @property
    def data(self) -> Path:
        return self.path / "data"

    def log(self, name: str) -> Path:
        """Where the process of this name writes."""
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Make the folders. Raises Refusal when they belong to somebody else."""
        try:
            for folder, mode in ((self.path, 0o711), (self.logs, 0o700), (self.data, 0o711)):
                folder.mkdir(parents=True, exist_ok=True)
                if folder.stat().st_uid != os.geteuid():
                    raise Refusal(f"{folder} belongs to another account: use that one, or set SAFELIGHT_HOME")
                folder.chmod(mode)
        except PermissionError as problem:
            raise Refusal(f"{self.path} cannot be written: set SAFELIGHT_HOME to a folder of yours") from problem

    def lock(self) -> IO[bytes] | None:
        """The lock, held until the file is closed or this process ends; None when a stack holds it."""
        file = (self.path / "lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def is_up(self) -> bool:
        """Whether a supervisor lives here."""
        if not (self.path / "lock").exists():
            return False
        lock = self.lock()
        if lock is None:
            return True
        lock.close()
        return False

    def read_state(self) -> dict[str, Any]:
        """The last state that a supervisor wrote, {} when there is none."""
        return _read(self.path / "state.json")

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state."""
        _write(self.path / "state.json", state)

    def secrets(self) -> dict[str, str]:
        """The secrets of this stack, {} before its first start."""
        return _read(self.path / "secrets.json")

    def make_secrets(self) -> dict[str, str]:
        """The secrets; made at the first start. Raises Refusal when data are there whose passwords are lost."""
        known = self.secrets()
        if not known and any(self.data.iterdir()):
            raise Refusal(f"the passwords to {self.data} are lost: move {self.path} away")
        complete = {name: known.get(name, value) for name, value in new_secrets().items()}
        if complete != known:
            _write(self.path / "secrets.json", complete)
        return complete


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _write(path: Path, content: Mapping[str, Any]) -> None:
    draft = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
