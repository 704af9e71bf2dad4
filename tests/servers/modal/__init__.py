"""Modal on this machine: the real SDK spawns, polls, reattaches, cancels and deploys against it, and it runs what was
deployed in real processes, by Modal's own container entrypoint.

    async with ModalPlatform(folder) as modal:
        modal.deploy("deploy.modal.app")            # the real `modal deploy`
        ModalProvider()                             # with modal.environment() in os.environ
        modal.faults.silent = True                  # see faults.py
        modal.counters.started["run"]               # see ledger.py

What it is not: no images are built (containers run in this virtual environment, with the image's ENV), no
volumes, no GPUs, no snapshots, one region. Its queue starts `containers_max` containers and keeps them until the end.
Sources: the SDK's protocol as the pinned version speaks it; the design notes on providers, "Testing it without an
account". Where Modal's own behaviour is not documented, the table in faults.py says what was assumed.
"""

from tests.servers.modal.faults import Faults
from tests.servers.modal.ledger import Call, Counters
from tests.servers.modal.platform import TOKEN, ModalPlatform

__all__ = ["TOKEN", "Call", "Counters", "Faults", "ModalPlatform"]
