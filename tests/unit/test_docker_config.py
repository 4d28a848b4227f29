"""The engine's options and the logins at registries; what the role docker renders."""

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.gantry import docker_config
from ansible.module_utils.gantry.docker_config import DockerConfigError
from jinja2 import Environment, StrictUndefined

ROLE = Path(__file__).resolve().parents[2] / "roles" / "docker"


@pytest.mark.parametrize(
    ("loaded", "wanted", "action"),
    [
        ({}, {}, "none"),
        ({"debug": True, "bip": "x"}, {"bip": "x", "debug": True}, "none"),
        ({}, {"live-restore": True}, "reload"),
        ({"registry-mirrors": ["a"]}, {"registry-mirrors": ["b"], "debug": False}, "reload"),
        ({"log-opts": {"max-size": "1m"}}, {"log-opts": {"max-size": "2m"}}, "restart"),
        ({"debug": True}, {"debug": False, "log-driver": "local"}, "restart"),
        # A reload leaves an option as it was that is in the file no longer.
        ({"debug": True}, {}, "restart"),
        # The engine has options whose value null is not the same as none.
        ({}, {"bip": None}, "restart"),
    ],
)
def test_the_gentlest_way_to_apply_a_change(loaded, wanted, action):
    assert docker_config.needed_action(loaded, wanted) == action


def test_what_hides_containers_is_never_only_reloaded():
    assert not docker_config.STORE & docker_config.RELOADABLE


def test_a_login_keeps_what_others_put_there():
    there: dict[str, Any] = {"credHelpers": {"gcr.io": "gcloud"}, "auths": {"other": {"auth": "b3RoZXI="}}}
    after = docker_config.with_login(there, "registry.example.org:5000", "staging", "pä:ss")
    assert after["credHelpers"] == there["credHelpers"]
    assert after["auths"]["other"] == there["auths"]["other"]
    assert after["auths"]["registry.example.org:5000"] == {"auth": "c3RhZ2luZzpww6Q6c3M="}
    assert "registry.example.org:5000" not in there["auths"], "the given dictionary was changed"
    assert docker_config.with_login(after, "registry.example.org:5000", "staging", "pä:ss") == after


def test_a_file_without_logins_takes_one():
    assert docker_config.with_login({"auths": None}, "r", "u", "p") == {"auths": {"r": {"auth": "dTpw"}}}


def test_a_user_name_that_docker_cannot_log_in_with_is_refused():
    with pytest.raises(DockerConfigError, match="colon"):
        docker_config.with_login({}, "r", "u:x", "p")


@pytest.mark.parametrize(
    "host", ["", "../../etc", "a/b", "https://registry.example.org", "registry:port", "-x", ".", "a\nb"]
)
def test_a_registry_is_a_host_and_no_path(host):
    with pytest.raises(DockerConfigError, match="is not a registry"):
        docker_config.certificate_path(host)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"a": }'])
def test_a_damaged_file_is_named(text):
    with pytest.raises(DockerConfigError, match=r"/etc/docker/daemon.json is not"):
        docker_config.parse(text, "/etc/docker/daemon.json")


def test_an_empty_file_has_no_options():
    assert docker_config.parse(" \n", "x") == {}


def test_rendered_options_are_read_back():
    options = {"log-opts": {"max-file": "5"}, "live-restore": True, "default-address-pools": [{"size": 24}]}
    assert json.loads(docker_config.render(options)) == options


def test_dockers_own_repository_is_named_with_the_key_that_signs_it():
    template = Environment(undefined=StrictUndefined).from_string((ROLE / "templates/docker.sources.j2").read_text())  # noqa: S701
    rendered = template.render(
        ansible_managed="Managed",
        docker_repository_url="https://mirror.example.org/debian",
        ansible_facts={"distribution_release": "trixie"},
    )
    fields = dict(line.split(": ", 1) for line in rendered.splitlines() if not line.startswith("#"))
    assert fields == {
        "Types": "deb",
        "URIs": "https://mirror.example.org/debian",
        "Suites": "trixie",
        "Components": "stable",
        "Signed-By": "/etc/apt/keyrings/docker.asc",
    }
