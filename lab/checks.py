"""What `./gantry check` and `./gantry test` run."""

import os
import subprocess
import sys
import time

from lab import demo, steps
from lab.engine import ROOT
from lab.steps import Step

PYTHON = (sys.executable, "-m")


def check_plan() -> dict[str, Step]:
    """Return lint and unit tests as steps; they need no Docker Engine."""
    scripts = subprocess.run(
        ["git", "ls-files", "*.sh", "gantry", ".ci/run"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    # Ansible refuses to run without an inventory, even for a look at the syntax; the test hosts' one needs no secrets.
    lint = ("env", "ANSIBLE_INVENTORY=inventories/molecule", "ansible-lint", "--offline", "--profile", "production")
    return {
        "secrets": Step((*PYTHON, "lab.secrets")),
        "ruff": Step((*PYTHON, "ruff", "check", ".")),
        "ruff-format": Step((*PYTHON, "ruff", "format", "--check", ".")),
        "shellcheck": Step(("shellcheck", *scripts)),
        "unit-tests": Step((*PYTHON, "pytest", "--doctest-modules", "tests/unit", "lab"), ("secrets",)),
        "ansible-lint": Step(lint, ("secrets",)),
        "app-tests": Step((*PYTHON, "pytest", "--config-file", "app/pytest.ini", "app")),
        "mypy": Step((*PYTHON, "mypy")),
        "yamllint": Step((*PYTHON, "yamllint", "--strict", ".")),
    }


def test_plan() -> dict[str, Step]:
    """Return everything that CI runs as steps: checks, roles on test hosts, the playbooks on the demo's lab."""
    plan = check_plan() | demo.image_plan()
    plan["image-host-bookworm"] = Step((*PYTHON, "lab", "image", "host-bookworm"), ("image-base",))
    plan["molecule"] = Step(("molecule", "test", "--all"), tuple(plan))
    plan["lab"] = Step((*PYTHON, "lab", "up", "--demo"), ("molecule",))
    plan["push"] = Step((*PYTHON, "lab", "push"), ("lab",))
    plan["end-to-end"] = Step((*PYTHON, "pytest", "tests/e2e"), ("push",))
    return plan


def run(plan: dict[str, Step]) -> None:
    """Run the steps of a plan, as many at once as there are processors, and print how long each took.

    :raises LabError: when one fails.
    """
    begin = time.monotonic()
    took = steps.run(plan, at_once=max(2, os.cpu_count() or 1))
    print(f"\n{steps.table(took, time.monotonic() - begin)}")
