"""The account under which PostgreSQL runs when we are root, which it refuses to be.

It is a system account `safelight` without home or shell, made when it is missing (`nobody` where
accounts cannot be made). Nobody's permissions are widened for it: when the account may not walk to
its folder or to the programs (root's home is mode 700), the process is given the one capability
that lets it pass, CAP_DAC_OVERRIDE, which is still less than root has.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_NAME: Final = "safelight"


@dataclass(frozen=True, slots=True)
class Account:
    """A system account that a child runs under. `programs` is a folder that it must be able to reach."""

    name: str
    uid: int
    gid: int
    programs: Path

    def enter(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
        """How to start a program as this account in `folder`: a command prefix, and arguments for Popen.

        Raises:
            PermissionError: the account cannot reach the folder, and this system has no `setpriv`.
        """
        if _open_to_all(folder.parent) and _open_to_all(self.programs):
            return (), {"user": self.uid, "group": self.gid, "extra_groups": []}
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise PermissionError(f"account {self.name} cannot reach {folder}: choose another SAFELIGHT_HOME")
        identity = (f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups")
        capability = ("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override")
        # access(2) ignores capabilities of ordinary accounts unless this bit is set, and initdb asks access(2).
        bits = "--securebits=+no_setuid_fixup"
        # A change of identity clears the wish to die with the parent, so setpriv states it again.
        return (setpriv, *identity, bits, *capability, "--pdeathsig=KILL", "--"), {}

    def own(self, folder: Path) -> None:
        """Make `folder` for this account alone."""
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, self.uid, self.gid)
        folder.chmod(0o700)


def for_postgres(programs: Path) -> Account | None:
    """The account to switch to, or None when we are an ordinary user and stay ourselves."""
    if os.geteuid() != 0:
        return None
    entry = _entry(_NAME) or _made(_NAME) or pwd.getpwnam("nobody")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, programs)


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _made(name: str) -> pwd.struct_passwd | None:
    useradd = shutil.which("useradd", path=os.defpath + ":/usr/sbin:/sbin")
    if useradd is None:
        return None
    command = (useradd, "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name)
    subprocess.run(command, check=False, capture_output=True)  # it may just have been made by somebody else
    return _entry(name)


def _open_to_all(folder: Path) -> bool:
    return all(step.stat().st_mode & stat.S_IXOTH for step in (folder, *folder.resolve().parents))
