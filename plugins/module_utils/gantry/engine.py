"""The containers of releases: one thin layer over the Docker SDK.

Containers carry labels (``gantry.app``, ``gantry.release``, ``gantry.process``, ``gantry.slot``); those, and not their
names, say what is ours.
"""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Mapping
from typing import Any

import docker
import docker.errors
import docker.types
from ansible.module_utils.gantry.releases import Release
from ansible.module_utils.gantry.store import Store

LOG_LINES = 20
LOG_COLUMNS = 500
WEB = "web"


class EngineError(Exception):
    """The engine could not do it; the message says what and why.

    :ivar log: the last log lines of the container concerned, if there is one.
    """

    def __init__(self, message: str, log: str = "") -> None:
        """Take the message and the container's last log lines."""
        super().__init__(message)
        self.log = log


class Engine:
    """The Docker Engine of this host, for one instance of an application."""

    def __init__(self, store: Store) -> None:
        """Connect to the engine.

        :raises EngineError: when none answers.
        """
        self.store = store
        self.app = store.app
        self.network = f"gantry-{store.app}"
        try:
            self.client = docker.DockerClient(base_url="unix:///var/run/docker.sock", version="auto", timeout=120)
            self.api = self.client.api
        except docker.errors.DockerException as error:
            raise EngineError(f"the Docker Engine does not answer ({error}); see `systemctl status docker`") from error

    # Images ---------------------------------------------------------------------------------------------------------

    def pull(self, image: str, digest: str) -> bool:
        """Fetch an image unless it is there; return whether it had to be fetched.

        :raises EngineError: when the registry does not give it.
        """
        with contextlib.suppress(docker.errors.ImageNotFound):
            self.client.images.get(f"{image}@{digest}")
            return False
        try:
            self.client.images.pull(image, tag=digest)
        except docker.errors.APIError as error:
            raise EngineError(f"pulling {image}@{digest} failed: {error.explanation or error}") from error
        return True

    def remove_image(self, image: str, digest: str) -> None:
        """Remove an image that no container uses; one still in use stays."""
        with contextlib.suppress(docker.errors.ImageNotFound, docker.errors.APIError):
            self.client.images.remove(f"{image}@{digest}")

    # Containers -----------------------------------------------------------------------------------------------------

    def containers(self, **labels: str) -> list[Any]:
        """Return this instance's containers, stopped ones too, that carry all of ``gantry.NAME=value``."""
        wanted = [f"gantry.app={self.app}"] + [f"gantry.{name}={value}" for name, value in labels.items()]
        return self.client.containers.list(all=True, filters={"label": wanted}, ignore_removed=True)

    def web(self, release: str) -> Any | None:
        """Return the web container of a release, or ``None``."""
        found = self.containers(release=release, process=WEB)
        return found[0] if found else None

    def create_web(self, record: Release, slot: int) -> Any:
        """Create the container that serves, published on the slot's loopback port and nowhere else."""
        return self._create(record, WEB, slot=slot, ports={record.spec.port: ("127.0.0.1", record.spec.slots[slot])})

    def create_tasks(self, record: Release) -> None:
        """Create a stopped container for each scheduled task; its timer starts it again and again."""
        for task in record.spec.scheduled_tasks:
            if not self.containers(release=record.id, process=f"task-{task.name}"):
                self._create(record, f"task-{task.name}", command=task.command)

    def run_once(self, record: Release, process: str, command: list[str], timeout: int) -> str:
        """Run *command* in a container of a release that is removed afterwards; return what it printed.

        :param timeout: seconds that it may take.
        :raises EngineError: when it fails or takes longer.
        """
        for leftover in self.containers(process=process):
            leftover.remove(force=True)
        container = self._create(record, process, command=command)
        try:
            container.start()
            try:
                status = container.wait(timeout=timeout)["StatusCode"]
            except Exception as error:  # the SDK lets errors of two libraries through
                raise EngineError(f"`{' '.join(command)}` took longer than {timeout} s", self.log(container)) from error
            output = container.logs().decode(errors="replace")
            if status != 0:
                raise EngineError(f"`{' '.join(command)}` ended with exit code {status}", self.log(container))
            return output
        except docker.errors.APIError as error:
            raise EngineError(f"`{' '.join(command)}` could not run: {error.explanation or error}") from error
        finally:
            container.remove(force=True)

    def start(self, container: Any) -> None:
        """Start a container, without a restart policy: until it has proven itself an exit is a failure."""
        try:
            container.update(restart_policy={"Name": "no"})
            container.start()
        except docker.errors.APIError as error:
            raise EngineError(
                f"{container.name} does not start: {error.explanation or error}", self.log(container)
            ) from error

    def keep_running(self, container: Any) -> None:
        """Have the engine restart a container from now on, after a crash and after a reboot."""
        container.update(restart_policy={"Name": "unless-stopped"})

    def stop(self, container: Any, timeout: int) -> None:
        """Stop a container: SIGTERM, and SIGKILL after *timeout* seconds. It stays, for going back."""
        container.stop(timeout=timeout)

    def log(self, container: Any) -> str:
        """Return the container's last log lines."""
        lines = container.logs(tail=LOG_LINES).decode(errors="replace").strip().splitlines()
        return "\n".join(line if len(line) <= LOG_COLUMNS else f"{line[:LOG_COLUMNS]} …" for line in lines)

    def wait_healthy(self, container: Any, record: Release, slot: int, timeout: float) -> float:
        """Wait until the application answers its health check; return how many seconds that took.

        :raises EngineError: as soon as the container has exited, or after *timeout* seconds.
        """
        begin = time.monotonic()
        answer = "nothing"
        while time.monotonic() - begin < timeout:
            container.reload()
            if container.status not in ("running", "created"):
                code = container.attrs["State"]["ExitCode"]
                killed = ", out of memory" if container.attrs["State"].get("OOMKilled") else ""
                raise EngineError(
                    f"the container exited with code {code}{killed} instead of serving", self.log(container)
                )
            healthy, answer = probe(record, slot)
            if healthy:
                return time.monotonic() - begin
            # The pause between two questions of a bounded wait: short while an answer may come any moment.
            time.sleep(0.1 if time.monotonic() - begin < 5 else 0.5)
        raise EngineError(
            f"GET {record.spec.health_path} answered {answer} for {timeout:.0f} s instead of 200", self.log(container)
        )

    def _create(
        self,
        record: Release,
        process: str,
        *,
        command: list[str] | None = None,
        slot: int | None = None,
        ports: Mapping[int, tuple[str, int]] | None = None,
    ) -> Any:
        self._ensure_network()
        spec, env = record.spec, self.store.env(record.id)
        mounts = [docker.types.Mount("/data", spec.data_path, type="bind")]
        names = self.store.secret_names(record.id)
        if names:
            source = str(self.store.secrets_folder(record.id))
            mounts.append(docker.types.Mount("/run/secrets", source, type="bind", read_only=True))
            env |= {f"{name}_FILE": f"/run/secrets/{name}" for name in names}
        labels = {"gantry.app": self.app, "gantry.release": record.id, "gantry.process": process}
        if slot is not None:
            labels["gantry.slot"] = str(slot)
        try:
            return self.client.containers.create(
                f"{spec.image}@{spec.digest}",
                command,
                name=f"{self.app}-{process}-{record.id}",
                environment=env,
                labels=labels,
                user=f"{spec.uid}:{spec.uid}",
                mounts=mounts,
                network=self.network,
                ports=dict(ports or {}),
                read_only=True,
                tmpfs={"/tmp": "mode=1777,size=64m"},  # noqa: S108 - the container's own
                cap_drop=["ALL"],
                security_opt=["no-new-privileges:true"],
                mem_limit=spec.memory,
                nano_cpus=int(spec.cpus * 1e9),
                pids_limit=spec.pids,
                init=True,
            )
        except docker.errors.APIError as error:
            raise EngineError(f"the {process} container cannot be created: {error.explanation or error}") from error

    def _ensure_network(self) -> None:
        if not self.client.networks.list(names=[f"^{self.network}$"]):
            self.client.networks.create(self.network, driver="bridge", labels={"gantry.app": self.app})


def probe(record: Release, slot: int) -> tuple[bool, str]:
    """Ask the application in *slot* whether it can serve.

    :returns: whether it can, and what it answered.
    """
    connection = http.client.HTTPConnection("127.0.0.1", record.spec.slots[slot], timeout=2)
    # As the proxy would ask: the application may check its host name and redirect what did not come by https.
    headers = {"Host": record.spec.health_host, "X-Forwarded-Proto": "https"}
    try:
        connection.request("GET", record.spec.health_path, headers=headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return False, f"nothing ({error})"
    finally:
        connection.close()
    return status == 200, f"HTTP {status}"
