"""From nothing to the application on staging and production.

Only the standard library, because making the virtual environment is one of the steps.
"""

import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial

from lab import images, steps
from lab.engine import ROOT, LabError
from lab.steps import BIN, Step

ENVIRONMENTS = ("staging", "production")


def _build_app(environment: str) -> None:
    for tag in images.app(environment):
        print(f"built {tag}", flush=True)


IMAGES: dict[str, Callable[[], object]] = {
    "base": lambda: (images.base("trixie"), images.base("trixie", "python")),
    "host": lambda: images.host("trixie"),
    "host-bookworm": lambda: images.host("bookworm"),
    "registry": images.registry,
    "backup": images.backup,
    **{f"app-{environment}": partial(_build_app, environment) for environment in ENVIRONMENTS},
}


def image_plan() -> dict[str, Step]:
    """Return the steps that make the images of the demo."""
    image = (sys.executable, "-m", "lab", "image")
    order = {"image-base": Step((*image, "base"))}
    for name in ("app-production", "app-staging", "host", "registry", "backup"):
        order[f"image-{name}"] = Step((*image, name), ("image-base",))
    return order


def plan() -> dict[str, Step]:
    """Return the steps of the demo by name."""
    python = str(BIN / "python")
    order = image_plan() | {
        "venv": Step((str(ROOT / "gantry"), "venv")),
        "secrets": Step((python, "-m", "lab.secrets"), ("venv",)),
        "lab": Step((python, "-m", "lab", "up", "--demo"), ("image-host", "image-registry", "image-backup", "secrets")),
        "push": Step((python, "-m", "lab", "push"), ("image-app-production", "image-app-staging", "lab")),
    }
    for environment in ENVIRONMENTS:
        deploy = (str(BIN / "ansible-playbook"), "deploy.yml", "-i", f"inventories/{environment}")
        order[f"deploy-{environment}"] = Step(deploy, ("push",))
    return order


def run() -> None:
    """Run all steps, then say what was made and what to try.

    :raises LabError: when a step fails or the application does not answer.
    """
    begin = time.monotonic()
    took = steps.run(plan())
    print(f"\n{steps.table(took, time.monotonic() - begin)}\n")
    for environment in ENVIRONMENTS:
        for address in addresses(environment):
            print(f"{environment:<11} {address}\n{'':<11} {answer(address, environment)}")
    print(
        "\nTry next (the first line once per terminal):\n"
        "  . .venv/bin/activate\n"
        f"  ansible-playbook deploy.yml -i inventories/staging -e app_version={images.VERSIONS[-1]}\n"
        "  ansible-playbook rollback.yml -i inventories/staging\n"
        "  ansible-playbook playbooks/status.yml -i inventories/staging"
    )


def addresses(environment: str) -> Iterator[str]:
    """Yield the addresses of the application on the hosts of an environment, as its inventory has them."""
    command = [str(BIN / "ansible-inventory"), "-i", f"inventories/{environment}", "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise LabError(f"ansible-inventory failed: {done.stderr.decode(errors='replace').strip()}")
    inventory = json.loads(done.stdout)
    for host in inventory["app_hosts"]["hosts"]:
        variables = inventory["_meta"]["hostvars"][host]
        yield f"https://{variables.get('ansible_host', host)}{variables['app_url_prefix']}/"


def answer(address: str, environment: str) -> str:
    """Return in one line what an address answers over TLS, verified by the environment's authority.

    :raises LabError: when it does not answer.
    """
    trust = ssl.create_default_context(cafile=str(ROOT / ".vault" / f"{environment}-ca.crt"))
    try:
        response = urllib.request.urlopen(address, timeout=10, context=trust)  # noqa: S310  # always https
    except urllib.error.HTTPError as error:
        response = error
    except OSError as error:
        raise LabError(f"{address} does not answer: {error}") from error
    with response:
        names = ("X-App-Version", "X-App-Environment")
        shown = [f"{name}: {response.headers[name]}" for name in names if name in response.headers]
        return ", ".join([f"{response.status} {response.reason}", *shown])
