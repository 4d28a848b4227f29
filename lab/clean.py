"""Remove what this clone made on the engine and in its own folder. Debian packages that were installed stay."""

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

from lab import hosts
from lab.engine import ROOT, STATE, LabError, docker, listed, remove

FOLDERS = (".venv", ".lab", "build", ".ansible", ".mypy_cache", ".ruff_cache", ".pytest_cache")


def run() -> None:
    """Remove containers, volumes, the network and images of this clone, then its generated files."""
    remove("container", listed("container", "ls", "--all", "--format", "{{.Names}}"))
    remove("volume", listed("volume", "ls", "--format", "{{.Name}}"))
    remove("network", listed("network", "ls", "--format", "{{.Name}}"))
    _remove_images()
    for environment in sorted((ROOT / "inventories").iterdir()):
        _remove_secrets(environment)
    with contextlib.suppress(OSError):
        (ROOT / ".vault").rmdir()  # stays when it holds a password that is still needed
    for folder in FOLDERS:
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    for cache in ROOT.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
    print("removed everything that this clone made; Debian packages that it installed stay")


def only_lab_hosts(inventory: str) -> bool:
    """Say whether an inventory's text names hosts of the lab and no other.

    >>> only_lab_hosts("---\\napp_hosts:\\n  hosts:\\n    staging-1:\\n      ansible_host: 127.0.77.11\\n")
    True
    >>> only_lab_hosts("---\\napp_hosts:\\n  hosts:\\n    web.example.org:\\n")
    False
    """
    names: set[str] = set()
    for block in re.findall(r"^ *hosts:\n((?: +.*\n)+)", inventory, re.MULTILINE):
        lines = [line for line in block.splitlines() if line.strip() and not line.strip().startswith("#")]
        level = min(len(line) - len(line.lstrip()) for line in lines)
        names |= {line.strip().split(":")[0] for line in lines if len(line) - len(line.lstrip()) == level}
    addresses = set(re.findall(r"ansible_host: *(\S+)", inventory))
    return bool(names) and names <= hosts.HOSTS.keys() and addresses <= {host.address for host in hosts.HOSTS.values()}


def _remove_images() -> None:
    """Remove the images of this clone, children before parents, and the public ones that it pulled."""
    ours = ("image", "ls", "--all", "--format")
    remove("image", [name for name in listed(*ours, "{{.Repository}}:{{.Tag}}") if "<none>" not in name])
    while left := listed(*ours, "{{.ID}}"):
        for image in left:
            with contextlib.suppress(LabError):  # a parent of another one; its turn comes in the next round
                docker("image", "rm", image)
        if listed(*ours, "{{.ID}}") == left:
            print(f"kept, because other images or containers are made from them: {' '.join(left)}")
            break
    pulled = STATE / "pulled-images"
    if pulled.exists():
        remove("image", pulled.read_text().split())


def _remove_secrets(environment: Path) -> None:
    """Remove generated secrets, unless they are kept in git or protect anything but the lab."""
    password = ROOT / ".vault" / environment.name
    vault = environment / "group_vars" / "all" / "vault.yml"
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--error-unmatch", str(vault)], capture_output=True, check=False
    )
    if not password.exists() and not vault.exists():
        return
    if tracked.returncode == 0 or not only_lab_hosts((environment / "hosts.yml").read_text()):
        print(f"kept the secrets of {environment.name}: they belong to more than the lab")
        return
    for path in (password, ROOT / ".vault" / f"{environment.name}-ca.crt", vault, environment / "fingerprints.yml"):
        path.unlink(missing_ok=True)
