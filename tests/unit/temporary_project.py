"""A project with the real Ansible configuration and plugins, and inventories that a test is free to spoil."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


class TemporaryProject:
    """A copy of ``ansible.cfg`` and ``plugins/`` in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copy(PROJECT / "ansible.cfg", root)
        compiled = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / "plugins", root / "plugins", ignore=compiled, dirs_exist_ok=True)

    def without_secrets(self) -> None:
        """Give the environments a vault password and no vault; Ansible starts only when one password is there."""
        for environment in ("staging", "production"):
            self.write({f".vault/{environment}": "not used\n"})

    def write(self, files: dict[str, str]) -> None:
        """Write files; their folders are made."""
        for name, text in files.items():
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("---\n" + text, encoding="utf-8")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of Ansible in the project, with its two output streams as one."""
        program = Path(sys.executable).parent / command[0]
        foreign = ("ANSIBLE_", "MOLECULE_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        environment |= {"PATH": f"{program.parent}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}
        return subprocess.run(
            [program, *command[1:]],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
