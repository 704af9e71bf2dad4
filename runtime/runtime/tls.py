"""TLS to the servers, by configuration: who is told to use it checks certificate and name, or does not connect.

    broker     tls://host:port, SAFELIGHT_NATS_CA_FILE       the handshake comes first: nothing is said before it,
                                                             so nobody in between can talk a client out of it
    database   postgresql://...?sslmode=verify-full&sslrootcert=FILE     libpq's own words; no other mode is taken
    storage    https://host:port, SAFELIGHT_S3_CA_FILE

Without a file of authorities the system's are believed. A certificate of our own is shown where one is given.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_WORDS: Final = ("sslmode", "sslrootcert", "sslcert", "sslkey")


def context(ca: Path | str | None, cert: Path | str | None = None, key: Path | str | None = None) -> ssl.SSLContext:
    """A client's context that believes these authorities (None: the system's). Raises ValueError for bad files."""
    try:
        made = ssl.create_default_context(cafile=ca)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if cert:
            made.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as problem:
        raise ValueError(f"a certificate file cannot be used: {type(problem).__name__}") from problem
    return made


def of_database(url: str) -> tuple[str, ssl.SSLContext | Literal[False] | None]:
    """A database's URL without its words on TLS, and the context that they ask for. False: none; None: no word.

    Raises:
        ValueError: it asks for TLS without the check of certificate and name, which keeps nobody out.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    asked = {name: query.pop(name, None) for name in _WORDS}
    bare = urlunsplit(parts._replace(query=urlencode(query)))
    match asked["sslmode"]:
        case None:
            return bare, None
        case "disable":
            return bare, False
        case "verify-full":
            return bare, context(asked["sslrootcert"], asked["sslcert"], asked["sslkey"])
    raise ValueError("sslmode must be verify-full, or disable")
