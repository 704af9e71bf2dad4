"""The supervisor restarts what dies, leaves nothing behind, and recognises what an earlier one left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stack import control, ports, processes, services
from stack.home import REPOSITORY, SECRETS, Home, Refusal, new_secrets

STAND_IN = (sys.executable, "-m", "tests.servers.stand_in_stack")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A stack's folder in a path with spaces and umlauts; whatever is up in it is taken down."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "böse Pfad mit Leerzeichen" / ".safelight"))
    here = Home.here()
    yield here
    control.down(here)
    processes.end(processes.marked(here.path))


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def child(home: Home, name: str) -> psutil.Process:
    row = home.read_state()["processes"][name]
    found = processes.find(row["pid"], row["created"])
    assert found is not None
    return found


def supervisor_of(home: Home) -> psutil.Process:
    row = home.read_state()["supervisor"]
    found = processes.find(row["pid"], row["created"])
    assert found is not None
    return found


def test_up_waits_until_ready_and_a_second_up_says_so(home: Home) -> None:
    first = control.up(home, STAND_IN)
    second = control.up(home, STAND_IN)
    assert (first.already, second.already) == (False, True)
    assert first.state["supervisor"] == second.state["supervisor"]
    assert {row["status"] for row in second.state["processes"].values()} == {"ready"}


def test_down_drains_services_before_servers(home: Home) -> None:
    control.up(home, STAND_IN)
    assert control.down(home)
    journal = (home.path / "journal").read_text().splitlines()
    assert sorted(journal[-3:-1]) == ["ingest drained", "output drained"]
    assert journal[-1] == "nats drained"
    assert control.status(home)["status"] == "down"
    assert not control.down(home), "a second down has nothing to do"


def test_a_service_that_is_killed_is_restarted(home: Home) -> None:
    control.up(home, STAND_IN)
    before = child(home, "ingest").pid
    child(home, "ingest").kill()

    def is_back() -> bool:
        row = home.read_state()["processes"]["ingest"]
        return bool(row["status"] == "ready" and row["pid"] != before and row["restarts"] == 1)

    eventually(is_back, "ingest is restarted and ready")
    assert home.read_state()["processes"]["output"]["restarts"] == 0


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="SIGTERM leaves no process"),
        pytest.param(signal.SIGINT, id="Ctrl-C leaves no process"),
        pytest.param(signal.SIGHUP, id="a closed terminal leaves no process"),
    ],
)
def test_a_signal_ends_everything(home: Home, number: signal.Signals) -> None:
    control.up(home, (*STAND_IN, "--leave-child"))
    assert len(processes.marked(home.path)) == 4, "three stand-ins, and the child that one of them left"
    supervisor_of(home).send_signal(number)
    eventually(lambda: not home.is_up(), "the supervisor ends")
    assert processes.marked(home.path) == []
    assert (home.path / "journal").read_text().count("drained") == 3


@linux_only
def test_killing_the_supervisor_kills_its_children(home: Home) -> None:
    control.up(home, STAND_IN)
    supervisor_of(home).kill()
    eventually(lambda: processes.marked(home.path) == [], "the children follow")


def test_the_next_up_cleans_what_a_killed_supervisor_left(home: Home) -> None:
    control.up(home, (*STAND_IN, "--leave-child"))
    supervisor_of(home).kill()
    eventually(lambda: not home.is_up(), "the supervisor is gone")
    left = {process.pid for process in processes.marked(home.path)}
    assert left, "a process in a session of its own outlives even kill -9"
    again = control.up(home, STAND_IN)
    assert not again.already
    assert left.isdisjoint(process.pid for process in processes.marked(home.path))


def test_a_stranger_with_a_recorded_pid_is_left_alone(home: Home) -> None:
    home.create()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        created = psutil.Process(stranger.pid).create_time() - 3600
        row = {"pid": stranger.pid, "created": created, "status": "ready"}
        home.write_state({"processes": {"ingest": row}, "supervisor": row, "ports": ports.anywhere()})
        control.up(home, STAND_IN)
        control.down(home)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_service_that_cannot_start_fails_the_start_with_its_log(home: Home) -> None:
    with pytest.raises(control.NotReady) as failed:
        control.up(home, (*STAND_IN, "--fail"))
    assert "output" in str(failed.value)
    assert any("the moon is in the wrong phase" in line for line in failed.value.tail)
    eventually(lambda: not home.is_up(), "the supervisor ends")
    assert processes.marked(home.path) == []


def test_ports_and_secrets_survive_a_restart(home: Home) -> None:
    before, secrets = control.up(home, STAND_IN).state["ports"], home.secrets()
    control.down(home)
    assert control.up(home, STAND_IN).state["ports"] == before
    assert home.secrets() == secrets


def test_a_taken_port_is_left_to_its_owner() -> None:
    wanted = ports.anywhere()
    with socket.create_server((ports.HOST, wanted["console"])):
        chosen = ports.choose(wanted)
    assert chosen["console"] != wanted["console"]
    assert {name: port for name, port in chosen.items() if name != "console"} == {
        name: port for name, port in wanted.items() if name != "console"
    }


def test_every_port_is_chosen_once() -> None:
    chosen = ports.choose({})
    assert len(set(chosen.values())) == len(ports.PORTS)


def test_secrets_are_made_once_and_read_by_their_owner_alone(home: Home) -> None:
    home.create()
    made = home.make_secrets()
    assert set(made) == set(SECRETS)
    assert len(set(made.values())) == len(SECRETS)
    assert (home.path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert home.make_secrets() == made


def test_data_whose_passwords_are_lost_are_refused(home: Home) -> None:
    home.create()
    (home.data / "postgres").mkdir()
    with pytest.raises(Refusal, match="passwords"):
        home.make_secrets()


@pytest.mark.parametrize(
    ("name", "never"),
    [
        pytest.param("console", ("NATS", "POSTGRES", "S3_ACCESS", "S3_SECRET", "API"), id="console has no credential"),
        pytest.param("orchestrator", ("S3",), id="orchestrator sees no object"),
        pytest.param("gpu-bridge", ("API_KEYS",), id="gpu-bridge checks no API key"),
    ],
)
def test_a_service_is_told_its_own_secrets_only(name: str, never: tuple[str, ...]) -> None:
    secrets = new_secrets()
    row = next(row for row in services.SERVICES if row.name == name)
    given = services.environment(row, ports.PORTS, secrets)
    assert not [variable for variable in given if variable.startswith(tuple(f"SAFELIGHT_{word}" for word in never))]
    others = {v for n, v in secrets.items() if "PASSWORD" in n and not n.endswith(row.role.upper())}
    assert not [variable for variable, value in given.items() if any(secret in value for secret in others)]


def test_no_secret_is_on_a_command_line(home: Home) -> None:
    from stack import servers

    home.create()
    secrets = home.make_secrets()
    for make in (servers.nats, servers.postgres, servers.s3):
        program = make(home.path, home.data / make.__name__, ports.PORTS, secrets)
        assert not [word for word in program.command if any(secret in word for secret in secrets.values())]
    for program in (*services.programs(home, ports.PORTS, secrets), services.setup_program(home, ports.PORTS, secrets)):
        assert not [word for word in program.command if any(secret in word for secret in secrets.values())]


def test_children_see_nothing_of_the_callers_environment_but_what_is_listed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "somebody-elses")
    control.up(home, STAND_IN)
    seen = child(home, "ingest").environ()
    assert set(seen) <= {*processes.PASSED_ON, processes.MARK, "LC_CTYPE"}
    assert seen[processes.MARK] == str(home.path)
    assert os.environ["AWS_PROFILE"] == "somebody-elses"
