"""Safelight for web products."""

from safelight_client.aio import AsyncClient
from safelight_client.models import Artifact, Batch, Erasure, Error, Event, Grant, Job, Phase, Upload
from safelight_client.sync import Client

__all__ = [
    "Artifact",
    "AsyncClient",
    "Batch",
    "Client",
    "Erasure",
    "Error",
    "Event",
    "Grant",
    "Job",
    "Phase",
    "Upload",
]
