"""Make the project's module_utils importable as Ansible makes them for modules: ``ansible.module_utils.gantry``."""

from pathlib import Path

import ansible.module_utils

ansible.module_utils.__path__.append(str(Path(__file__).parents[2] / "plugins" / "module_utils"))
