"""`./gantry secrets`: what it makes, what it keeps, and what it refuses."""

import datetime
import shutil
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.gantry import fingerprints
from ansible.parsing.vault import VaultLib, VaultSecret
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from lab import secrets

NAMES = {*secrets.PASSWORDS, *secrets.CA_NAMES}


@pytest.fixture
def empty(tmp_path):
    """A project whose environments have no secrets yet."""
    for environment in secrets.ENVIRONMENTS:
        (tmp_path / "inventories" / environment).mkdir(parents=True)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    for environment in secrets.ENVIRONMENTS:
        (root / "inventories" / environment).mkdir(parents=True)
    secrets.make(project=root)
    return root


@pytest.fixture
def project(made, tmp_path):
    """A project of which all secrets have been made."""
    return Path(shutil.copytree(made, tmp_path / "project"))


def vault_of(project, environment="staging"):
    return project / "inventories" / environment / "group_vars" / "all" / "vault.yml"


def vaults(project):
    password = (project / ".vault" / "staging").read_bytes().strip()
    return VaultLib([("staging", VaultSecret(password))])


def rewrite(project, text, file=None):
    """Write one of staging's vaults as a person does with ansible-vault."""
    library = vaults(project)
    (file or vault_of(project)).write_bytes(library.encrypt(text, library.secrets[0][1], vault_id="staging"))


def snapshot(project):
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in project.rglob("*") if file.is_file()}


def test_a_first_run_makes_everything(project):
    for environment in secrets.ENVIRONMENTS:
        assert vault_of(project, environment).read_text().startswith(f"$ANSIBLE_VAULT;1.2;AES256;{environment}\n")
        assert secrets.read(environment, project).keys() == NAMES
    assert len(secrets.read("staging", project)["vault_app_secret_key"]) >= 50
    mine, theirs = (secrets.read(environment, project) for environment in secrets.ENVIRONMENTS)
    assert set(mine.values()).isdisjoint(theirs.values())


def test_only_the_owner_reads_a_secret(project):
    assert (project / ".vault").stat().st_mode & 0o777 == 0o700
    files = [project / ".vault" / "staging", vault_of(project)]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]


def test_nothing_secret_is_printed_or_left_in_clear(empty, capsys):
    secrets.make(project=empty)
    values = [*secrets.read("staging", empty).values(), *secrets.read("production", empty).values()]
    secrets.rotate("staging", project=empty)
    values += secrets.read("staging", empty).values()
    public = [value for value in values if "BEGIN CERTIFICATE" in value]
    printed = capsys.readouterr().out
    assert "made .vault/staging" in printed
    assert [value for value in values if value in printed] == []
    on_disk = b"".join(content for content, _time in snapshot(empty).values())
    assert [value for value in values if value.encode() in on_disk and value not in public] == []


def test_a_second_run_changes_nothing(project, capsys):
    before = snapshot(project)
    capsys.readouterr()
    secrets.make(project=project)
    assert (snapshot(project), capsys.readouterr().out) == (before, "")


def test_the_authority_is_one(project):
    values = secrets.read("staging", project)
    certificate = x509.load_pem_x509_certificate(values["vault_ca_certificate"].encode())
    key = serialization.load_pem_private_key(values["vault_ca_private_key"].encode(), None)
    certificate.verify_directly_issued_by(certificate)
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=Gantry staging CA"
    assert certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC) > datetime.timedelta(days=3649)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca) == (True, True)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)
    assert (project / ".vault" / "staging-ca.crt").read_text() == values["vault_ca_certificate"]


def test_a_missing_secret_is_added_and_the_rest_stays(project):
    rewrite(project, "---\n# By hand.\nvault_mine: keep-this-as-it-is\nvault_app_secret_key: keep-this-as-well\n")
    secrets.make(["staging"], project)
    text = vaults(project).decrypt(vault_of(project).read_bytes()).decode()
    assert text.startswith("---\n# By hand.\nvault_mine: keep-this-as-it-is\nvault_app_secret_key: keep-this-as-well\n")
    assert yaml.safe_load(text).keys() == NAMES | {"vault_mine"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda project: (project / ".vault" / "staging").write_text("wrong\n"),
            r"vault\.yml cannot be opened .*\.vault",
        ),
        (lambda project: (project / ".vault" / "staging").unlink(), r"put the password .* into \.vault/staging"),
        (
            lambda project: vault_of(project).write_text("---\nvault_x: y\n"),
            r"vault\.yml is not encrypted .*ansible-vault",
        ),
        (lambda project: rewrite(project, "- a list, secret-of-mine\n"), r"does not hold variables"),
        (lambda project: rewrite(project, "a: 'secret-of-mine\n"), r"does not hold variables"),
    ],
)
def test_a_vault_that_cannot_be_opened_stops_before_anything_is_touched(project, spoil, message):
    spoil(project)
    before = snapshot(project)
    for command in (
        lambda: secrets.make(project=project),
        lambda: secrets.rotate("staging", project=project),
        lambda: secrets.read("staging", project),
    ):
        with pytest.raises(secrets.SecretsError, match=message) as error:
            command()
        assert "secret-of-mine" not in str(error.value)
    assert snapshot(project) == before


def test_rotation_keeps_what_would_lose_data_or_trust(project, capsys):
    before = secrets.read("staging", project)
    secrets.rotate("staging", project=project)
    after = secrets.read("staging", project)
    changed = {name for name in NAMES if before[name] != after[name]}
    assert changed == {"vault_app_secret_key", "vault_registry_password", "vault_backup_server_password"}
    printed = capsys.readouterr().out
    assert "kept vault_backup_repository_password" in printed
    assert "`ansible-playbook deploy.yml -i inventories/staging`" in printed
    recorded = yaml.safe_load((project / "inventories/staging/fingerprints.yml").read_text())
    assert fingerprints.stale(fingerprints.digests(after, recorded["salt"]), recorded) == []


def test_the_authority_is_rotated_when_named(project):
    before = secrets.read("staging", project)
    secrets.rotate("staging", ["vault_ca_certificate"], project)
    after = secrets.read("staging", project)
    assert {name for name in NAMES if before[name] != after[name]} == secrets.CA_NAMES
    assert (project / ".vault" / "staging-ca.crt").read_text() == after["vault_ca_certificate"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vault_backup_repository_password", "restic key add"),
        ("vault_typo", r"vault_typo: not made here.*Known: vault_app"),
    ],
)
def test_rotation_refuses(project, name, message):
    before = snapshot(project)
    with pytest.raises(secrets.SecretsError, match=message):
        secrets.rotate("staging", [name, "vault_app_secret_key"], project)
    assert snapshot(project) == before


def test_fingerprints_follow_an_edit_and_cover_other_vaults(project):
    host = project / "inventories/staging/host_vars/one/vault.yml"
    host.parent.mkdir(parents=True)
    rewrite(project, "vault_users: [{password: of-the-first-user}]", host)
    secrets.write_fingerprints("staging", project)
    recorded = yaml.safe_load((project / "inventories/staging/fingerprints.yml").read_text())
    print_of_user = recorded["secrets"]["host_vars/one/vault_users.0.password"]
    assert fingerprints.verify("of-the-first-user", print_of_user, recorded["salt"])
    assert not fingerprints.verify("of-another-user", print_of_user, recorded["salt"])


def test_a_short_secret_gets_no_fingerprint(project, capsys):
    rewrite(project, "vault_pin: 'abc123'\n")
    secrets.make(["staging"], project)
    recorded = yaml.safe_load((project / "inventories/staging/fingerprints.yml").read_text())
    assert recorded["secrets"].keys() == NAMES
    assert "vault_pin has no fingerprint" in capsys.readouterr().out


def test_environments_share_a_salt_and_no_fingerprint(project):
    mine, theirs = (
        yaml.safe_load((project / "inventories" / name / "fingerprints.yml").read_text())
        for name in secrets.ENVIRONMENTS
    )
    assert mine["salt"] == theirs["salt"]
    assert set(mine["secrets"].values()).isdisjoint(theirs["secrets"].values())


def test_the_command_line_says_what_is_wrong(capsys):
    assert secrets.main(["rotate", "staging", "vault_typo"]) == 1
    assert capsys.readouterr().err.startswith("./gantry secrets: vault_typo: not made here")
