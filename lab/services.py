"""What the hosts of the lab need around them: a container registry and a backup server, over TLS, with accounts."""

import io
import ssl
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from lab import credentials, images
from lab.engine import OURS, LabError, docker, inspect, wait_for

ENVIRONMENTS = ("staging", "production")
OWNER = 10010  # the user that the services run as, see their Dockerfiles


@dataclass(frozen=True)
class Service:
    """A service of the lab.

    :ivar address: loopback address on which it is published.
    :ivar port: its port, there and inside.
    :ivar name: its DNS name in the lab's network.
    :ivar image: makes its image and returns its name.
    :ivar password: variable of an environment's vault with the password of the environment's account.
    """

    address: str
    port: int
    name: str
    image: Callable[[], str]
    password: str


SERVICES = {
    "registry": Service("127.0.77.10", 5000, "registry.gantry.test", images.registry, "vault_registry_password"),
    "backup": Service("127.0.77.15", 8000, "backup.gantry.test", images.backup, "vault_backup_server_password"),
}


def up(service_name: str, container: str, volume: str, network: str) -> None:
    """Start a service that does not run yet, bring its accounts up to date, and wait until it answers."""
    service = SERVICES[service_name]
    state = inspect("container", container, "{{.State.Status}}")
    if state is None:
        image = service.image()
        docker("volume", "create", "--label", OURS, volume)
        publish = f"--publish={service.address}:{service.port}:{service.port}"
        where = [publish, "--network", network, "--network-alias", service.name, "--hostname", service_name]
        docker("create", "--name", container, "--label", OURS, *where, "--volume", f"{volume}:/srv/data", image)
        key, certificate = credentials.server_certificate(service.name, service.address)
        _place(container, {"tls.key": key, "tls.crt": certificate, "htpasswd": ""})
    if state != "running":
        docker("start", container)
    _place(container, {"htpasswd": _accounts(service_name, container)})
    if service_name == "backup":
        docker("kill", "--signal", "HUP", container)  # reads its accounts again; the registry does so by itself
    _wait(service, container)


def push() -> None:
    """Push the application's images to the lab's registry."""
    address = images.APP_REPOSITORY.partition("/")[0]
    environment = credentials.log_in(address)
    for kind in images.KINDS:
        for tag in images.app(kind):
            print(f"pushing {tag}", flush=True)
            docker("push", "--quiet", tag, environment=environment)


def _accounts(service_name: str, container: str) -> str:
    """Return the htpasswd file of a service; the container's own tool hashes passwords from its standard input."""
    from lab import secrets  # needs Ansible, which nothing else here does

    try:
        accounts = {name: secrets.read(name)[SERVICES[service_name].password] for name in ENVIRONMENTS}
    except secrets.SecretsError as error:
        raise LabError(str(error)) from error
    if service_name == "registry":
        accounts["builder"] = credentials.builder_password()
    hashing = ["exec", "--interactive", container, "htpasswd", "-n", "-i", "-B"]
    return "".join(
        f"{docker(*hashing, account, stdin=password.encode()).strip()}\n" for account, password in accounts.items()
    )


def _place(container: str, files: dict[str, str]) -> None:
    """Put private files into a service's container, running or not."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.uid = entry.gid = OWNER
            entry.mode = 0o600
            entry.mtime = int(time.time())
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    docker("cp", "-", f"{container}:/srv/private", stdin=packed.getvalue())


def _wait(service: Service, container: str) -> None:
    """Wait until a service answers over TLS, be it that it wants a login."""
    trust = ssl.create_default_context(cafile=str(credentials.CA))

    def answers() -> bool:
        if inspect("container", container, "{{.State.Running}}") != "true":
            raise LabError(f"{container} stopped; see `docker logs {container}`")
        try:
            urllib.request.urlopen(f"https://{service.address}:{service.port}/v2/", timeout=5, context=trust).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    wait_for(f"{service.name} answers", answers, patience=30)
