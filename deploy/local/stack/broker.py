"""The broker's configuration, drawn from the topology: an account may do what the tables say of its service, no more.

    publish     the subjects that `PUBLISHERS` gives it, and dead letters of what it reads
    read        its own consumers: ask about them, pull, settle
    subscribe   its own inbox, where answers come

`python -m stack.broker` writes deploy/nats/nats.conf, which compose mounts; a test refuses one that is not
as it would be written now. The embedded stack writes its own at each start. Only the orchestrator takes single
messages out of a stream (those whose readers all died); streams and consumers are changed by `setup` alone.
"""

from __future__ import annotations

import json
from typing import Final

from contracts.topology import CONSUMERS, PUBLISHERS, STREAMS, inbox_of
from stack.home import REPOSITORY, ROLES

FILE: Final = REPOSITORY / "deploy" / "nats" / "nats.conf"
SERVICES: Final = tuple(role.lower().replace("_", "-") for role in ROLES)
# The orchestrator takes out what nobody settles and what is erased, and counts what lies where.
_MORE: Final = {
    "orchestrator": (
        "$JS.API.STREAM.MSG.GET.*",
        *(f"$JS.API.STREAM.MSG.DELETE.{stream.name}" for stream in STREAMS),
        "$JS.API.CONSUMER.LIST.*",
    )
}


def may_publish(service: str) -> list[str]:
    """The subjects that a service's account may send to."""
    says = [pattern for pattern, owners in PUBLISHERS.items() if service in owners]
    asks = [f"$JS.API.STREAM.INFO.{stream.name}" for stream in STREAMS]
    for row in CONSUMERS:
        if row.owner == service:
            says += [f"dead.{subject}" for subject in row.subjects]
            asks += [f"$JS.API.CONSUMER.{what}.{row.stream}.{row.name}" for what in ("INFO", "MSG.NEXT")]
            asks.append(f"$JS.ACK.{row.stream}.{row.name}.>")
    found = dict.fromkeys([*says, *asks, *_MORE.get(service, ())])
    return [one for one in found if not any(one != wide and _covers(wide, one) for wide in found)]


def may_subscribe(service: str) -> list[str]:
    """The subjects that a service's account may listen to."""
    return [f"{inbox_of(service)}.>"]


def configuration() -> str:
    """The text of nats.conf."""
    width = max(map(len, SERVICES)) + 1
    users = [f"    {{user: {'setup,':<{width}} password: $SAFELIGHT_NATS_PASSWORD_SETUP}}"]
    rights = []
    for service, role in zip(SERVICES, ROLES, strict=True):
        name = f"{role.lower()}_may"
        publish, subscribe = _listed(may_publish(service)), _listed(may_subscribe(service))
        rights.append(f"{name}: {{\n  publish: {publish}\n  subscribe: {subscribe}\n}}")
        users.append(
            f"    {{user: {service + ',':<{width}} password: $SAFELIGHT_NATS_PASSWORD_{role}, permissions: ${name}}}"
        )
    return _TEMPLATE.format(rights="\n\n".join(rights), users="\n".join(users))


def _covers(wide: str, narrow: str) -> bool:
    return wide.endswith(".>") and narrow.startswith(wide[:-1])


def _listed(subjects: list[str]) -> str:
    return "[\n" + "".join(f"    {json.dumps(subject)}\n" for subject in subjects) + "  ]"


_TEMPLATE: Final = """\
# Written by `python -m stack.broker` from contracts/contracts/topology.py: change it there.
#
# The broker of every deployment: docker-compose reads this file, the embedded stack writes its like, and
# both give address, port and store folder on the command line (-a, -p, -sd; without -sd it is a
# folder under /tmp).
#
# Users are services. Their passwords come from the environment; anonymous is refused. A password
# must begin with a letter: this file's parser reads "12k" as a number. What an account is not
# allowed here it is refused. Streams and consumers have one owner, `setup`.

server_name: safelight

jetstream {{
  # Not every publish is fsynced: kill -9 loses nothing (the kernel has the pages), a power cut
  # loses at most this much. Writers of state keep an outbox, so a lost event is published again.
  sync_interval: 1s
}}

{rights}

authorization {{
  users: [
{users}
  ]
}}
"""


if __name__ == "__main__":
    FILE.write_text(configuration())
