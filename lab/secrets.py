"""Make, rotate and read the secrets of the environments: ``./gantry secrets``.

Each environment has a vault password (``.vault/ENV``), a vault file encrypted as a whole with it, a certificate
authority, and fingerprints by which the other environment can tell an equal secret without seeing it. What is there is
kept; only what is missing is made. Values travel between functions as objects and reach the disk encrypted.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import os
import secrets
import string
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret, get_file_vault_secret, is_encrypted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PROJECT = Path(__file__).resolve().parents[1]
sys.path.append(str(PROJECT / "plugins" / "module_utils"))

from gantry import fingerprints  # noqa: E402  # the folder above is where Ansible finds it

ENVIRONMENTS = ("staging", "production")
CA_NAMES = frozenset({"vault_ca_private_key", "vault_ca_certificate"})
CA_DAYS = 3650


class SecretsError(Exception):
    """What is on disk does not allow what was asked for; the message says what to do."""


def _token(length: int) -> str:
    # Letters and digits only: safe in a URL, in YAML, in a template and as an argument.
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


@dataclass(frozen=True)
class Password:
    """One secret that is a random text.

    :ivar length: characters.
    :ivar after: what makes a new value take effect; None when a new value would lose data.
    """

    length: int
    after: str | None


_ACCOUNT = "give the account its new password ({lab} does that in the lab), then {deploy}"
PASSWORDS = {
    "vault_app_secret_key": Password(64, "{deploy} (signed sessions and links end)"),
    "vault_registry_password": Password(40, _ACCOUNT),
    "vault_backup_repository_password": Password(40, None),
    "vault_backup_server_password": Password(40, _ACCOUNT),
}
CA_AFTER = "{deploy}, and everybody who trusts the old authority gets .vault/{env}-ca.crt"
ROTATED_BY_DEFAULT = tuple(name for name, password in PASSWORDS.items() if password.after)


@dataclass(frozen=True)
class Environment:
    """Where an environment's secrets are.

    :ivar name: folder in ``inventories/`` and vault id.
    :ivar project: the project's root.
    """

    name: str
    project: Path

    @property
    def password(self) -> Path:
        """The vault password, or a script that prints it."""
        return self.project / ".vault" / self.name

    @property
    def ca(self) -> Path:
        """The certificate of the environment's authority, for people's browsers and curl."""
        return self.project / ".vault" / f"{self.name}-ca.crt"

    @property
    def inventory(self) -> Path:
        """The environment's inventory."""
        return self.project / "inventories" / self.name

    @property
    def vault(self) -> Path:
        """The encrypted variables."""
        return self.inventory / "group_vars" / "all" / "vault.yml"

    @property
    def fingerprints(self) -> Path:
        """The fingerprints of all encrypted variables."""
        return self.inventory / "fingerprints.yml"

    def show(self, file: Path) -> str:
        """Return a file's path as the user types it."""
        return str(file.relative_to(self.project))


def make(names: Iterable[str] = ENVIRONMENTS, project: Path = PROJECT) -> None:
    """Make what is missing of each environment and print what was made.

    :param names: the environments.
    :param project: the project's root.
    :raises SecretsError: when a vault cannot be opened or an environment has no inventory; then nothing was touched.
    """
    with _alone(project):
        opened = [(environment, _open(environment)) for environment in _environments(names, project)]
        for environment, text in opened:
            present = _parse(environment, text)
            new = {name: _token(kind.length) for name, kind in PASSWORDS.items() if name not in present}
            if CA_NAMES - present.keys():
                new |= _certificate_authority(environment.name)
            if not environment.password.exists():
                _write(environment.password, _token(64) + "\n", 0o600)
                print(f"made {environment.show(environment.password)}: the password of the vault; keep a copy")
            if new:
                # The new keys go to the end, so that comments of an edited vault stay.
                _encrypt(environment, (text or "---\n").rstrip("\n") + "\n" + _yaml(new))
                print(f"made {', '.join(sorted(new))} in {environment.show(environment.vault)}")
            _publish(environment)


def rotate(name: str, chosen: Iterable[str] = (), project: Path = PROJECT) -> None:
    """Make new values of an environment's secrets and print what to run next.

    :param name: the environment.
    :param chosen: names of secrets; none means those that can change without losing data or trust.
    :param project: the project's root.
    :raises SecretsError: when the vault cannot be opened, a name is unknown, or its data would be lost.
    """
    names = set(chosen) or set(ROTATED_BY_DEFAULT)
    if unknown := names - PASSWORDS.keys() - CA_NAMES:
        known = ", ".join([*PASSWORDS, *sorted(CA_NAMES)])
        raise SecretsError(f"{', '.join(sorted(unknown))}: not made here; edit it with ansible-vault. Known: {known}")
    if lossy := [secret for secret in sorted(names - CA_NAMES) if PASSWORDS[secret].after is None]:
        raise SecretsError(
            f"{', '.join(lossy)}: a new value would lock every backup made so far. Add the new password to the "
            f"repository with `restic key add` first, then put it into the vault with `ansible-vault edit`."
        )
    with _alone(project):
        (environment,) = _environments([name], project)
        text = _open(environment)
        if text is None:
            raise SecretsError(f"{environment.show(environment.vault)} does not exist; make it with ./gantry secrets")
        new = {secret: _token(PASSWORDS[secret].length) for secret in names - CA_NAMES}
        if names & CA_NAMES:
            new |= _certificate_authority(name)
        _encrypt(environment, "---\n" + _yaml(_parse(environment, text) | new))
        _publish(environment)
    words = {"deploy": f"`ansible-playbook deploy.yml -i inventories/{name}`", "lab": "`./gantry lab`", "env": name}
    for secret in sorted(new):
        after = CA_AFTER if secret in CA_NAMES else PASSWORDS[secret].after or ""
        print(f"rotated {secret}; next: {after.format(**words)}")
    if not list(chosen):
        print("kept vault_backup_repository_password, which opens all backups, and the certificate authority")


def read(name: str, project: Path = PROJECT) -> dict[str, str]:
    """Return the secrets of an environment by variable name.

    :param name: the environment.
    :param project: the project's root.
    :raises SecretsError: when there is no vault, or it cannot be opened.
    """
    (environment,) = _environments([name], project)
    text = _open(environment)
    if text is None:
        raise SecretsError(f"{environment.show(environment.vault)} does not exist; make it with ./gantry secrets")
    return _parse(environment, text)


def write_fingerprints(name: str, project: Path = PROJECT) -> None:
    """Write an environment's fingerprints anew, after an edit of a vault by hand.

    :param name: the environment.
    :param project: the project's root.
    :raises SecretsError: when a vault cannot be opened.
    """
    with _alone(project):
        (environment,) = _environments([name], project)
        _open(environment)
        _publish(environment)
    print(f"{environment.show(environment.fingerprints)} is up to date")


@contextlib.contextmanager
def _alone(project: Path) -> Iterator[None]:
    """Make the folder of the passwords, and let two runs wait for each other."""
    folder = project / ".vault"
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _environments(names: Iterable[str], project: Path) -> list[Environment]:
    environments = [Environment(name, project) for name in names]
    for environment in environments:
        if not environment.inventory.is_dir():
            raise SecretsError(f"there is no inventory {environment.show(environment.inventory)}")
    return environments


def _secret(environment: Environment) -> VaultSecret:
    secret = get_file_vault_secret(str(environment.password), vault_id=environment.name, loader=DataLoader())
    secret.load()
    return secret


def _decrypt(environment: Environment, file: Path) -> str:
    """Return the text of a vault file.

    :raises SecretsError: when it is not encrypted as a whole or the environment's password does not open it.
    """
    shown, password = environment.show(file), environment.show(environment.password)
    data = file.read_bytes()
    if not is_encrypted(data):
        how = f"ansible-vault encrypt --encrypt-vault-id {environment.name} {shown}"
        raise SecretsError(f"{shown} is not encrypted as a whole; do it with `{how}`")
    if not environment.password.exists():
        raise SecretsError(
            f"{shown} is there, but not its password: put the password that it was encrypted with into {password}"
        )
    try:
        return VaultLib([(environment.name, _secret(environment))]).decrypt(data).decode()
    except AnsibleError as error:
        raise SecretsError(
            f"{shown} cannot be opened with the password in {password} ({error}): put the password there that it was "
            f"encrypted with, or move the file away and run `./gantry secrets` for a new one"
        ) from error


def _open(environment: Environment) -> str | None:
    """Return the text of an environment's vault, None when there is none yet."""
    return _decrypt(environment, environment.vault) if environment.vault.exists() else None


def _parse(environment: Environment, text: str | None, file: Path | None = None) -> dict[str, str]:
    """Return the variables of a vault's text; *file* names it in the error, by default the environment's own."""
    try:
        content = yaml.safe_load(text or "") or {}
    except yaml.YAMLError:
        content = None  # the error would quote the secrets
    if not isinstance(content, dict):
        shown = environment.show(file or environment.vault)
        raise SecretsError(f"{shown} does not hold variables; see it with `ansible-vault view {shown}`")
    return content


def _encrypt(environment: Environment, text: str) -> None:
    data = VaultLib().encrypt(text, _secret(environment), vault_id=environment.name)
    _write(environment.vault, data.decode(), 0o600)


def _publish(environment: Environment) -> None:
    """Write what is not secret and follows from the vaults, where it is missing or out of date."""

    def load(file: Path) -> object:
        return _parse(environment, _decrypt(environment, file), file)

    values = fingerprints.read_vaults(environment.inventory, load)
    if certificate := values.get("vault_ca_certificate"):
        _update(environment, environment.ca, certificate)
    for name in fingerprints.too_short(values):
        print(f"{name} has no fingerprint, which would give it away: use {fingerprints.SHORTEST} characters or more")
    text = yaml.safe_dump(fingerprints.make(values, _salt(environment)))
    heading = "# Salted fingerprints of this environment's secrets, by ./gantry secrets; no other one may share any.\n"
    _update(environment, environment.fingerprints, f"---\n{heading}{text}")


def _salt(environment: Environment) -> str:
    """Return the salt in use: the environment's own, or that of another one, so that they share it, or a new one."""
    others = sorted(environment.inventory.parent.glob("*/fingerprints.yml"))
    for file in [environment.fingerprints, *others]:
        if file.exists():
            return yaml.safe_load(file.read_text(encoding="utf-8"))["salt"]
    return fingerprints.new_salt()


def _certificate_authority(name: str) -> dict[str, str]:
    """Return a new private key and self-signed certificate of an environment's authority, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Gantry {name} CA")])
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"], False
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # hosts' clocks differ a little
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "vault_ca_private_key": private.decode(),
        "vault_ca_certificate": certificate.public_bytes(serialization.Encoding.PEM).decode(),
    }


def _yaml(values: dict[str, str]) -> str:
    """Return variables as YAML, several lines as a block."""

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(values, Dumper=Dumper, default_flow_style=False)


def _update(environment: Environment, file: Path, text: str) -> None:
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        _write(file, text, 0o644)
        print(f"made {environment.show(file)}")


def _write(file: Path, text: str, mode: int) -> None:
    """Replace a file in one step.

    :param mode: permission bits.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, mode)
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink()
        raise


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    :param arguments: words after the command's name; None for those of the process.
    :returns: the exit code.
    """
    parser = argparse.ArgumentParser(prog="./gantry secrets", description="Make what is missing of the secrets.")
    commands = parser.add_subparsers(dest="command")
    missing = commands.add_parser("make", help="make what is missing (the default)")
    missing.add_argument("environments", nargs="*", metavar="ENV", default=list(ENVIRONMENTS))
    new = commands.add_parser("rotate", help="make new values")
    new.add_argument("environment", metavar="ENV")
    new.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(ROTATED_BY_DEFAULT)}")
    edited = commands.add_parser("fingerprints", help="write the fingerprints anew after editing a vault by hand")
    edited.add_argument("environment", metavar="ENV")
    options = parser.parse_args(arguments)
    run: dict[str | None, Callable[[], None]] = {
        None: make,
        "make": lambda: make(options.environments),
        "rotate": lambda: rotate(options.environment, options.names),
        "fingerprints": lambda: write_fingerprints(options.environment),
    }
    try:
        run[options.command]()
    except SecretsError as error:
        print(f"./gantry secrets: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
