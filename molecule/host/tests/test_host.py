"""What the first role leaves on a host, as its users meet it."""

import subprocess

import pytest


@pytest.fixture
def connection(host):
    """The variables by which Ansible reaches the host."""
    return host.ansible.get_variables()


def test_the_deploy_user_logs_in_with_the_key_and_becomes_root(connection):
    options = f"{connection['ansible_ssh_common_args']} -o BatchMode=yes"
    login = f"ssh {options} deploy@{connection['ansible_host']} sudo -n id -u"
    # A shell, because the connection's arguments name a variable of the environment.
    ran = subprocess.run(login, shell=True, capture_output=True, text=True, timeout=30, check=False)  # noqa: S602
    assert ran.stdout.strip() == "0", ran.stderr


def test_no_password_opens_the_deploy_user(host):
    assert host.run("sudo getent shadow deploy").stdout.split(":")[1] in ("*", "!")


def test_only_the_given_keys_are_allowed(host):
    assert host.run("sudo sh -c 'grep --count . ~deploy/.ssh/authorized_keys'").stdout.strip() == "1"


def test_sudo_accepts_all_of_its_rules(host):
    assert host.run("sudo visudo --check").rc == 0


def test_the_clock_shows_the_time_zone(host):
    assert host.run("date +%Z").stdout.strip() == "UTC"


def test_security_updates_install_by_themselves_and_nothing_else(host):
    told = host.run("sudo unattended-upgrade --dry-run --debug")
    assert told.rc == 0, told.stderr
    origins = [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Allowed origins are")]
    codename = host.system_info.codename
    assert origins == [f"Allowed origins are: origin=Debian,codename={codename}-security,label=Debian-Security"]


@pytest.mark.parametrize("timer", ["apt-daily.timer", "apt-daily-upgrade.timer"])
def test_the_updates_have_a_next_time(host, timer):
    shown = host.run(f"systemctl show {timer} --property=NextElapseUSecRealtime --property=UnitFileState").stdout
    assert "UnitFileState=enabled" in shown
    assert "NextElapseUSecRealtime=\n" not in shown + "\n"


def test_apt_is_told_to_run_the_updates_daily(host):
    assert 'APT::Periodic::Unattended-Upgrade "1";' in host.run("apt-config dump").stdout
