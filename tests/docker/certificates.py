"""Certificates of an authority of the tests' own, for an engine on the loopback and those who may use it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.components import require

_OF_WHOM = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"


def authority(folder: Path) -> None:
    """Make the folder, and an authority in it: `ca.pem`."""
    require("openssl", shutil.which("openssl"), "apt-get install openssl")
    folder.mkdir()
    ending = ["-x509", "-nodes", "-days", "2", "-subj", "/CN=tests", "-keyout", "ca-key.pem", "-out", "ca.pem"]
    # from 3.13 on, Python wants to be told what a key is for
    _openssl(folder, "req", "-newkey", "rsa:2048", *ending, "-addext", "keyUsage=critical,keyCertSign,cRLSign")


def certificate(folder: Path, name: str, *, server: bool) -> None:
    """Make NAME.pem and NAME-key.pem, signed by the folder's authority."""
    use = "serverAuth\nsubjectAltName=IP:127.0.0.1" if server else "clientAuth"
    (folder / "extensions").write_text(
        f"keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage={use}\n{_OF_WHOM}"
    )
    asked = ["-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}-key.pem", "-out", f"{name}.csr"]
    _openssl(folder, "req", "-newkey", "rsa:2048", *asked)
    signed = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2", "-extfile", "extensions"]
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")


def for_client(folder: Path) -> Path:
    """A folder for `DOCKER_CERT_PATH`, with a certificate of the authority's."""
    certificate(folder, "client", server=False)
    given = folder / "client"
    given.mkdir()
    for name, source in {"ca.pem": "ca.pem", "cert.pem": "client.pem", "key.pem": "client-key.pem"}.items():
        shutil.copy(folder / source, given / name)
    return given


def _openssl(folder: Path, *arguments: str) -> None:
    made = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
