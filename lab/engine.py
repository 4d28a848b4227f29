"""The local Docker Engine by its command line, and the mark by which this clone knows its own objects."""

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".lab"
LABEL = "gantry.lab"
OURS = f"{LABEL}={ROOT}"


class LabError(Exception):
    """Something the user has to know or do; the message says what."""


def docker(
    *arguments: str, stdin: bytes | None = None, environment: dict[str, str] | None = None, timeout: float | None = None
) -> str:
    """Run one docker command and return what it prints, without the final newline.

    Raises LabError with docker's own message when the command fails, or when it takes longer than timeout seconds.
    """
    command = ["docker", *arguments]
    variables = os.environ | (environment or {})
    try:
        done = subprocess.run(
            command, input=stdin or b"", capture_output=True, env=variables, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"`{' '.join(command[:3])} …` did not end within {timeout} seconds") from None
    except FileNotFoundError:
        raise LabError("there is no docker command; run ./gantry lab, which installs what is missing") from None
    if done.returncode:
        raise LabError(f"`{' '.join(command[:3])} …` failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace").removesuffix("\n")


def stream(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """Run a long command whose output goes where ours goes.

    Raises LabError when it fails.
    """
    done = subprocess.run(command, stdin=subprocess.DEVNULL, env=os.environ | (environment or {}), check=False)
    if done.returncode:
        raise LabError(f"`{' '.join(command[:3])} …` failed with exit code {done.returncode}")


def inspect(kind: str, name: str, template: str) -> str | None:
    """Return what the template says about an image, container, network or volume, None when it does not exist."""
    try:
        return docker(kind, "inspect", "--format", template, name)
    except LabError as error:
        if "no such" in str(error).lower() or "not found" in str(error).lower():
            return None
        raise


def label_of(kind: str, name: str) -> str | None:
    """Return the folder of the clone that made an object, '' when no clone made it, None when it does not exist."""
    labels = ".Config.Labels" if kind in ("image", "container") else ".Labels"
    found = inspect(kind, name, f'{{{{with {labels}}}}}{{{{index . "{LABEL}"}}}}{{{{end}}}}')
    return None if found is None else found.replace("<no value>", "")


def listed(*arguments: str) -> list[str]:
    """Return the lines of a docker command that lists objects of this clone, without repetitions."""
    return list(dict.fromkeys(docker(*arguments, "--filter", f"label={OURS}").split()))


def remove(kind: str, names: Iterable[str]) -> None:
    """Remove containers, volumes, networks or images; those that are gone already do not matter."""
    for name in names:
        force = [] if kind == "network" else ["--force"]
        try:
            docker(kind, "rm", *force, *(["--volumes"] if kind == "container" else []), name)
        except LabError as error:
            if "no such" not in str(error).lower() and "not found" not in str(error).lower():
                raise


def wait_for(what: str, ready: Callable[[], bool], patience: float = 120) -> None:
    """Ask again until a condition holds.

    :param what: the condition, for the error.
    :param patience: seconds.
    :raises LabError: when it does not hold in time.
    """
    end = time.monotonic() + patience
    while not ready():
        if time.monotonic() > end:
            raise LabError(f"waited {patience:.0f} seconds in vain until {what}")
        time.sleep(0.1)
