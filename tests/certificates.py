"""Certificates for tests, made by the openssl command."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, as PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority of our own, by the openssl command."""

    folder: Path
    own: Identity

    @classmethod
    def found(cls, folder: Path, name: str) -> Self:
        """Make one; without openssl the test is skipped, or fails where CI is set."""
        own = Identity(folder / f"{name}.pem", folder / f"{name}.key")
        extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
        # The name's extensions of openssl's own config would come twice, so there is none.
        config = folder / "empty.cnf"
        config.write_text("[req]\ndistinguished_name=dn\n[dn]\n", encoding="ascii")
        openssl(
            *("req", "-x509", "-config", config, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", own.key, "-out", own.cert),
            *(part for extension in extensions for part in ("-addext", extension)),
            *("-addext", "subjectKeyIdentifier=hash"),
        )
        return cls(folder, own)

    def issue(self, name: str, *also: str) -> Identity:
        """A certificate for `name` and for further names such as `DNS:localhost`."""
        made = Identity(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        lines = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]
        lines += ["subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid"]
        lines += [f"subjectAltName={','.join(also)}"] if also else []
        extensions.write_text("\n".join(lines), encoding="ascii")
        openssl(
            *("req", "-new", "-config", self.folder / "empty.cnf", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", made.key, "-out", request),
        )
        openssl(
            *("x509", "-req", "-in", request, "-CA", self.own.cert, "-CAkey", self.own.key, "-days", "2"),
            *("-set_serial", str(int.from_bytes(os.urandom(8)) >> 1), "-extfile", extensions),
            *("-out", made.cert),
        )
        return made


def openssl(*arguments: str | Path) -> None:
    """Run the openssl command."""
    if shutil.which("openssl") is None:
        reason = "the openssl command is not there to make certificates with"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
