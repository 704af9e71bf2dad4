"""Certificates for servers of one's own: `python -m stack.certificates FOLDER` writes an authority and what it signs.

    FOLDER/ca.pem             what clients believe (SAFELIGHT_NATS_CA_FILE, sslrootcert, SAFELIGHT_S3_CA_FILE)
    FOLDER/NAME/cert.pem      of each server, for its name in compose, `localhost` and 127.0.0.1
    FOLDER/NAME/key.pem       mode 600; the authority's own key is not kept: make all of them anew before they end

For a private network between our own containers. What browsers and GPU providers reach wants a certificate that they
believe without being told: from a public authority, at a proxy in front.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIVES: Final = timedelta(days=825)
SERVERS: Final = ("nats", "postgres", "s3")
CLIENT: Final = "client"  # what our services show, where a broker asks for it


def write(folder: Path, now: datetime) -> None:
    """Make the authority and a certificate for each server, and one for clients."""
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = _named("Safelight's own authority")
    whole = x509.BasicConstraints(ca=True, path_length=0)
    root = _begun(issuer, issuer, authority.public_key(), now).add_extension(whole, critical=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_bytes(
        root.add_extension(_signs(), critical=True).sign(authority, hashes.SHA256()).public_bytes(_PEM)
    )
    for name in (*SERVERS, CLIENT):
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if name == CLIENT else ExtendedKeyUsageOID.SERVER_AUTH
        names = [x509.DNSName(name), x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        leaf = (
            _begun(_named(name), issuer, key.public_key(), now)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        )
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "cert.pem").write_bytes(leaf.sign(authority, hashes.SHA256()).public_bytes(_PEM))
        path = folder / name / "key.pem"
        path.touch(mode=0o600)
        path.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


_PEM: Final = serialization.Encoding.PEM


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIVES)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signs() -> x509.KeyUsage:
    """An authority signs certificates, and does nothing else."""
    others = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return x509.KeyUsage(
        **dict.fromkeys(others, False), key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]), datetime.now(UTC))
