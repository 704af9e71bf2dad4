"""Whatever a stranger writes, only the public internet is asked, and whatever has been opened on purpose."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from contracts.errors import Permanent
from runtime import outside

PUBLIC = ("93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8")
PRIVATE = (
    "127.0.0.1",
    "10.0.0.1",
    "172.16.9.9",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "239.1.1.1",
    "198.18.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.0.0.9",
    "168.63.129.16",
    "3fff::1",
    "240.0.0.1",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "ff02::1",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_reached(address: str) -> None:
    assert outside.may_be_reached(ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_of_our_own_house_may_not(address: str) -> None:
    assert not outside.may_be_reached(ip_address(address))


def test_an_operator_may_open_a_network_and_no_more() -> None:
    open_ = outside.networks("10.1.0.0/16, fd00::/8")
    assert outside.may_be_reached(ip_address("10.1.2.3"), open_)
    assert outside.may_be_reached(ip_address("::ffff:10.1.2.3"), open_)
    assert outside.may_be_reached(ip_address("fd00::1"), open_)
    assert not outside.may_be_reached(ip_address("10.2.0.1"), open_)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("ftp://example.com/x", id="another scheme"),
        pytest.param("file:///etc/passwd", id="a file"),
        pytest.param("//example.com/x", id="no scheme"),
        pytest.param("https://", id="no host"),
        pytest.param("https://user:pass@example.com/", id="a password"),
        pytest.param("https://user@127.0.0.1/", id="a user name"),
        pytest.param("https://example.com:99999/", id="a port that is none"),
        pytest.param("https://example.com:0/", id="port zero"),
        pytest.param("https://example.com/a b", id="a blank"),
        pytest.param("https://example.com/\r\nHost: x", id="a line break"),
        pytest.param("https://exämple.com/", id="other letters"),
        pytest.param("http://127.0.0.1/", id="loopback"),
        pytest.param("http://[::ffff:10.0.0.1]/", id="a mapped private address"),
        pytest.param("http://[fe80::1%25eth0]/", id="a link's own address"),
        pytest.param("https://example.com/" + "a" * 2048, id="too long"),
    ],
)
def test_what_is_no_url_of_the_public_internet_is_refused(url: str) -> None:
    with pytest.raises(Permanent) as refused:
        outside.check_url(url)
    assert refused.value.code == "ADDRESS_REFUSED"


def test_a_public_url_is_taken_as_it_is() -> None:
    assert outside.check_url("https://example.com:8443/hooks?a=b") == "https://example.com:8443/hooks?a=b"


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.0.0.1"])
async def test_a_name_or_number_that_leads_home_is_refused_before_anything_is_sent(host: str) -> None:
    async with outside.pool() as pool:
        with pytest.raises(Permanent) as refused:
            await pool.request("GET", f"http://{host}:9/")
    assert refused.value.code == "ADDRESS_REFUSED"


async def test_the_address_that_was_judged_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads elsewhere the second time it is looked up: there is no second time."""
    asked: list[str] = []

    async def rebinding(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        address = "127.0.0.2" if len(asked) == 1 else "127.0.0.3"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        here = writer.get_extra_info("sockname")[0].encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(here), here))
        writer.close()

    server = await asyncio.start_server(answer, ["127.0.0.2", "127.0.0.3"], 0)
    async with server, outside.pool(outside.networks("127.0.0.2/32")) as pool:
        port = dict(one.getsockname() for one in server.sockets)["127.0.0.2"]
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", rebinding, raising=False)
        response = await pool.request("GET", f"http://rebinding.test:{port}/")
        assert (response.content, asked) == (b"127.0.0.2", ["rebinding.test"])
        with pytest.raises(Permanent):
            await pool.request("GET", f"http://rebinding.test:{port}/")


async def test_one_private_address_condemns_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both, raising=False)
    async with outside.pool() as pool:
        with pytest.raises(Permanent):
            await pool.request("GET", "http://both.test/")


async def test_a_redirect_is_told_and_not_followed() -> None:
    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(redirect, "127.0.0.1", 0)
    async with server, outside.pool(outside.networks("127.0.0.1")) as pool:
        port = server.sockets[0].getsockname()[1]
        assert (await pool.request("GET", f"http://127.0.0.1:{port}/")).status == 302


async def test_a_name_that_is_none_is_no_connection() -> None:
    async with outside.pool() as pool:
        with pytest.raises(httpcore.ConnectError):
            await pool.request("GET", "http://nowhere.invalid/")


async def test_tls_is_verified_for_the_name_and_not_for_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def here(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    theirs, believed = authority(tmp_path, "good.test")
    server = await asyncio.start_server(ok, "127.0.0.1", 0, ssl=theirs)
    async with server, outside.pool(outside.networks("127.0.0.1"), tls=believed) as pool:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", here, raising=False)
        assert (await pool.request("GET", f"https://good.test:{port}/")).status == 204
        with pytest.raises(httpcore.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await pool.request("GET", f"https://evil.test:{port}/")


def authority(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(what a server of this name shows, what believes it)."""
    key = ec.generate_private_key(ec.SECP256R1())
    who, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(pem, secret)
    return theirs, ssl.create_default_context(cafile=str(pem))
