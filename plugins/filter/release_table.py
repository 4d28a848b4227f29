# Copyright: the Gantry authors
"""Ansible filter: the table that ``playbooks/status.yml`` shows."""

from __future__ import annotations

DOCUMENTATION = r"""
name: release_table
short_description: Lay out what is released on each host as a table
options:
  _input:
    description: Variables of the hosts, each with what M(release_info) answered in C(__app_status).
    type: list
    elements: dict
    required: true
  environment:
    description: Name of the environment.
    type: str
    required: true
"""
EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ ansible_play_hosts | map('extract', hostvars) | release_table('staging') }}"
"""
RETURN = r"""
_value:
  description: The table, lines of text.
  type: str
"""

from collections.abc import Iterable, Mapping
from typing import Any

COLUMNS = ("host", "environment", "version", "digest", "since", "by", "healthy", "go back to")


def row(host: str, environment: str, status: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one line of the table.

    >>> row("web-1", "staging", {"live": None, "previous": []})
    ('web-1', 'staging', '-', '-', '-', '-', 'nothing released', '-')
    """
    live = status.get("live")
    previous = ", ".join(str(release["id"]) for release in status.get("previous", [])) or "-"
    if not live:
        return (host, environment, "-", "-", "-", "-", "nothing released", previous)
    digest = str(live["digest"]).removeprefix("sha256:")[:12]
    healthy = "yes" if live["healthy"] else f"NO ({live['health']})"
    return (host, environment, str(live["version"]), digest, str(live["since"]), str(live["by"]), healthy, previous)


def release_table(hosts: Iterable[Mapping[str, Any]], environment: str) -> str:
    """Return a table with a line a host, columns as wide as their widest entry."""
    rows = [COLUMNS] + [row(str(host["inventory_hostname"]), environment, host["__app_status"]) for host in hosts]
    widths = [max(len(line[column]) for line in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows
    )


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"release_table": release_table}
