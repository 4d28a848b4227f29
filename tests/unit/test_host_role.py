"""The role host refuses what it was not tested on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def run(tmp_path, facts):
    """Run the role in check mode against this machine, which is made to look like another one."""
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"host_deploy_authorized_keys": ["ssh-ed25519 AAAA nobody"]},
        "pre_tasks": [{"ansible.builtin.set_fact": {**facts, "cacheable": True}}],
        "roles": ["host"],
    }
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps([play]))
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "--check", "--inventory=localhost,", playbook],
        cwd=tmp_path,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "ANSIBLE_VAULT_IDENTITY_LIST": f"none@{playbook}",
            "ANSIBLE_INVENTORY_UNPARSED_FAILED": "false",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(("distribution", "version"), [("Ubuntu", "24.04"), ("Debian", "11.9"), ("Debian", "14.0")])
def test_another_system_is_refused_before_anything_is_touched(tmp_path, distribution, version):
    facts = {
        "distribution": distribution,
        "distribution_version": version,
        "distribution_major_version": version.split(".")[0],
    }
    ran = run(tmp_path, facts)
    said = " ".join(ran.stdout.split())
    assert ran.returncode != 0
    assert f"runs {distribution} {version}; Gantry manages Debian 12 and 13 only" in said, ran.stdout + ran.stderr
    assert "Install the packages" not in said
