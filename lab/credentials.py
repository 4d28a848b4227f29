"""What opens the lab: an ssh key, pinned host keys, a certificate authority and the accounts of its services."""

import base64
import contextlib
import fcntl
import json
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from lab.engine import STATE, LabError

KEY = STATE / "id_ed25519"
KNOWN_HOSTS = STATE / "known_hosts"
CA = STATE / "ca.crt"
CA_KEY = STATE / "ca.key"
DOCKER_CONFIG = STATE / "docker"


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let runs that change the lab's state wait for each other."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)


def public_key() -> str:
    """Return the public half of the lab's ssh key, which is made when it is missing."""
    if not KEY.exists():
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gantry-lab", "-f", str(KEY))
    return KEY.with_name(f"{KEY.name}.pub").read_text()


def with_host_keys(known_hosts: str, keys: Mapping[str, str | None]) -> str:
    """Return the text of a known_hosts file with other keys for some addresses; None forgets an address.

    >>> with_host_keys("127.0.0.2 ssh-ed25519 A\\n127.0.0.3 ssh-ed25519 B\\n", {"127.0.0.2": None, "127.0.0.4": "t C"})
    '127.0.0.3 ssh-ed25519 B\\n127.0.0.4 t C\\n'
    """
    lines = [line for line in known_hosts.splitlines() if line.split(" ", 1)[0] not in keys]
    lines += [f"{address} {' '.join(key.split()[:2])}" for address, key in keys.items() if key]
    return "".join(f"{line}\n" for line in lines)


def pin(keys: Mapping[str, str | None]) -> None:
    """Put the public keys of hosts, by address, into the lab's known_hosts file; None forgets a host."""
    before = KNOWN_HOSTS.read_text() if KNOWN_HOSTS.exists() else ""
    write(KNOWN_HOSTS, with_host_keys(before, keys))


def server_certificate(name: str, address: str) -> tuple[str, str]:
    """Issue a certificate of the lab's authority, which is made when it is missing.

    :param name: DNS name of the server.
    :param address: IP address of the server.
    :returns: the private key and the certificate with its authority's behind it, as PEM.
    """
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    if not CA.exists():
        subject = ("-subj", "/CN=Gantry lab CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        _run("openssl", "req", "-x509", *curve, "-days", "3650", *subject, "-keyout", str(CA_KEY), "-out", str(CA))
    key = STATE / f"{name}.key"
    request = _run("openssl", "req", *curve, "-subj", f"/CN={name}", "-keyout", str(key))
    extensions = (
        f"subjectAltName=DNS:{name},IP:{address}\nbasicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n"
        "extendedKeyUsage=serverAuth\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    extension_file = STATE / f"{name}.cnf"
    extension_file.write_text(extensions)
    issuer = ("-CA", str(CA), "-CAkey", str(CA_KEY), "-set_serial", f"0x{secrets.token_hex(16)}")
    certificate = _run(
        "openssl", "x509", "-req", *issuer, "-days", "825", "-extfile", str(extension_file), stdin=request
    )
    private = key.read_text()
    key.unlink()
    extension_file.unlink()
    return private, certificate + CA.read_text()


def builder_password() -> str:
    """Return the password of the registry account that pushes, which is made when it is missing."""
    path = STATE / "builder-password"
    if not path.exists():
        write(path, secrets.token_urlsafe(32))
    return path.read_text()


def log_in(registry: str) -> dict[str, str]:
    """Return the environment in which docker can push to a registry, without touching the user's own logins.

    :param registry: address and port.
    """
    auth = base64.b64encode(f"builder:{builder_password()}".encode()).decode()
    write(DOCKER_CONFIG / "config.json", json.dumps({"auths": {registry: {"auth": auth}}}))
    endpoint = _run("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").strip()
    return {"DOCKER_CONFIG": str(DOCKER_CONFIG), "DOCKER_HOST": os.environ.get("DOCKER_HOST", endpoint)}


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"`{' '.join(command[:2])} …` failed: {done.stderr.strip()}")
    return done.stdout
