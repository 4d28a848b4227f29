"""What the engine does for those who run containers on the host, and what a change of its options does to them."""

import json

import pytest

# The host's own programs in a container: nothing has to be pulled.
IMAGE = "gantry-test:host"
MAKE_IMAGE = f"""
set -e
sudo docker image inspect {IMAGE} >/dev/null 2>&1 && exit
folder=$(mktemp -d)
mkdir $folder/usr
for name in bin lib lib64; do ln -s usr/$name $folder/$name; done
tar -C $folder -c . | sudo docker import - {IMAGE}
"""
RUN = f"sudo docker run --detach --volume /usr:/usr:ro --env LC_ALL=C {{options}} {IMAGE} {{command}}"
# With the host's Python, which is there before any other program is.
ASK = """
import time, urllib.request
while True:
    try:
        print(urllib.request.urlopen("http://127.0.0.1:8099/GPL-3", timeout=5).read().decode())
        break
    except OSError:
        time.sleep(0.2)
"""
SERVE = "python3 -m http.server --directory /usr/share/common-licenses 8000"


def inspect(host, name, template):
    return host.check_output(f"sudo docker inspect --format '{template}' {name}")


def answers(host):
    """Ask the container; its server may still be starting."""
    return host.run(f"timeout 20 python3 -c '{ASK}'")


def options(host):
    return json.loads(host.check_output("cat /etc/docker/daemon.json"))


def apply(host, wanted):
    """Apply the engine's options as the role does."""
    return host.ansible("docker_daemon", json.dumps({"options": wanted}), check=False, become=True)


def identity(host):
    """What another instance of the container would not share."""
    return inspect(host, "web", "{{.Id}} {{.State.StartedAt}} {{.State.Pid}} {{.State.Running}}")


@pytest.fixture(scope="module")
def web(host):
    """A web server in a container, published on loopback."""
    assert host.run(MAKE_IMAGE).rc == 0
    host.run("sudo docker rm --force web")
    host.check_output(RUN.format(options="--name web --publish 127.0.0.1:8099:8000", command=SERVE))
    yield "web"
    host.check_output("sudo docker rm --force web")
    host.check_output(f"sudo docker image rm {IMAGE}")


@pytest.fixture
def before(host):
    """The options that the role set; they are set again afterwards."""
    role = options(host)
    yield role
    if options(host) != role:
        assert "action" in apply(host, role)


def test_the_engine_starts_at_boot(host):
    assert host.check_output("systemctl is-enabled docker") == "enabled"


def test_a_published_port_answers_on_loopback_without_a_proxy_process(host, web):
    assert "GNU GENERAL PUBLIC LICENSE" in answers(host).stdout
    assert "docker-proxy" not in host.check_output("sudo ss --listening --tcp --processes --no-header")


def test_logs_are_bounded(host, web):
    log = json.loads(inspect(host, web, "{{json .HostConfig.LogConfig}}"))
    assert log == {"Type": "local", "Config": {"max-file": "5", "max-size": "20m"}}


def test_gantrys_modules_can_talk_to_the_engine(host):
    program = "import docker; print(docker.from_env().ping())"
    assert host.check_output(f"sudo /usr/bin/python3 -c '{program}'") == "True"


def test_a_restart_of_the_engine_leaves_containers_alone(host, web):
    there = identity(host)
    assert host.run("sudo systemctl restart docker").rc == 0
    assert identity(host) == there
    assert answers(host).rc == 0


def test_a_change_that_needs_a_restart_leaves_containers_alone(host, web, before):
    there = identity(host)
    applied = apply(host, {**before, "log-opts": {"max-file": "2", "max-size": "1m"}})
    assert applied.get("action") == "restart", applied
    assert identity(host) == there
    assert answers(host).rc == 0
    host.check_output(RUN.format(options="--name later", command="true"))
    assert inspect(host, "later", '{{index .HostConfig.LogConfig.Config "max-size"}}') == "1m"
    host.check_output("sudo docker rm --force later")


def test_containers_survive_even_the_change_that_first_protects_them(host, web, before):
    assert apply(host, {**before, "live-restore": False})["action"] == "reload"
    there = identity(host)
    assert apply(host, {**before, "log-opts": {"max-size": "2m"}})["action"] == "restart"
    assert identity(host) == there


def test_a_change_that_the_engine_can_load_does_not_restart_it(host, before):
    engine = host.check_output("systemctl show docker --property=MainPID")
    applied = apply(host, {**before, "debug": True})
    assert applied.get("action") == "reload", applied
    assert host.check_output("sudo docker info --format '{{.Debug}}'") == "true"
    assert host.check_output("systemctl show docker --property=MainPID") == engine


# The engine's own check finds the first, from version 23 on; that of the second only shows when it starts.
@pytest.mark.parametrize("bad", [{"no-such-option": True}, {"log-driver": "no-such-driver"}])
def test_options_that_the_engine_refuses_change_nothing(host, web, before, bad):
    there = identity(host)
    applied = apply(host, {**before, **bad})
    assert "action" not in applied
    assert "no-such-" in applied["msg"], "the message does not say what is wrong"
    assert options(host) == before
    assert host.run("sudo docker info").rc == 0
    assert identity(host) == there
    assert apply(host, before)["changed"] is False


def test_containers_are_not_hidden_by_another_store(host, web, before):
    applied = apply(host, {**before, "data-root": "/var/lib/elsewhere"})
    assert "would hide" in applied["msg"]
    assert options(host) == before


def test_a_run_that_was_cut_off_after_writing_is_healed(host, before):
    wanted = {**before, "debug": True}
    text = json.dumps(wanted, indent=2, sort_keys=True)
    assert host.run(f"printf '%s\\n' '{text}' | sudo tee /etc/docker/daemon.json").rc == 0
    assert apply(host, wanted)["action"] == "reload"
    assert host.check_output("sudo docker info --format '{{.Debug}}'") == "true"


def test_an_engine_that_was_stopped_is_started_again(host, web, before):
    there = identity(host)
    assert host.run("sudo systemctl stop docker.socket docker.service").rc == 0
    assert apply(host, before)["action"] == "start"
    assert identity(host) == there


def test_the_private_registry_is_trusted_and_lets_the_engine_in(host):
    pulled = host.run("sudo docker pull registry.gantry.test:5000/no-such-image:none")
    # Without the CA it would be an x509 error, without the login `no basic auth credentials`.
    assert "manifest unknown" in pulled.stderr or "name unknown" in pulled.stderr, pulled.stderr


def test_only_root_reads_the_logins(host):
    assert host.run("cat /root/.docker/config.json").rc != 0
    auths = json.loads(host.check_output("sudo cat /root/.docker/config.json"))["auths"]
    assert list(auths) == ["registry.gantry.test:5000"]
