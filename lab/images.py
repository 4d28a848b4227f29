"""Images of the lab: Debian bases, hosts, registry, backup server, and the application in its versions and kinds.

Only the standard library and the docker command, so that it runs while the virtual environment is still being made.
Always the classic builder: it is in every engine, with or without buildx.
"""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lab.engine import LABEL, OURS, ROOT, STATE, LabError, docker, inspect, label_of, stream

SUITES = ("trixie", "bookworm")
VERSIONS = ("1.0.0", "1.1.0")
APP_REPOSITORY = "127.0.77.10:5000/dblood"
KINDS = {"production": ("Dockerfile", ""), "staging": ("dev.Dockerfile", "-staging")}  # and the end of the tag
PUBLIC = {
    "base:trixie": "debian:trixie-slim",
    "base:bookworm": "debian:bookworm-slim",
    "python:trixie": "python:3.13-slim-trixie",
}
MACHINE_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def source() -> str:
    """Say where base images come from: `public` (a container registry) or `bootstrap` (Debian packages).

    GANTRY_BASE_IMAGES decides, else what was found out before, else whether a small public image can be pulled.
    """
    recorded = STATE / "base-images"
    answer = os.environ.get("GANTRY_BASE_IMAGES") or (recorded.read_text().strip() if recorded.exists() else "")
    if not answer:
        try:
            pull("debian:trixie-slim", timeout=60)
            answer = "public"
        except LabError as error:
            print(f"base images are built from Debian packages, for no public one can be pulled: {error}")
            answer = "bootstrap"
    if answer not in ("public", "bootstrap"):
        raise LabError(f"GANTRY_BASE_IMAGES is `{answer}`; say public or bootstrap")
    STATE.mkdir(mode=0o700, exist_ok=True)
    recorded.write_text(f"{answer}\n")
    return answer


def pull(name: str, timeout: float) -> None:
    """Pull a public image, unless it is here; `./gantry clean` removes what was pulled.

    Raises LabError when the pull fails or takes longer than timeout seconds.
    """
    if inspect("image", name, "{{.Id}}") is None:
        docker("pull", "--quiet", name, timeout=timeout)
        STATE.mkdir(mode=0o700, exist_ok=True)
        with (STATE / "pulled-images").open("a") as pulled:
            pulled.write(f"{name}\n")


def split_certificates(bundle: str) -> list[str]:
    """Return the certificates of a PEM bundle.

    >>> split_certificates("# a CA\\n-----BEGIN CERTIFICATE-----\\nQQ==\\n-----END CERTIFICATE-----\\n")
    ['-----BEGIN CERTIFICATE-----\\nQQ==\\n-----END CERTIFICATE-----\\n']
    """
    pattern = r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?"
    return [block.rstrip("\n") + "\n" for block in re.findall(pattern, bundle, re.DOTALL)]


def build(tag: str, dockerfile: Path, context: Path, **arguments: str) -> None:
    """Build an image with the label of this clone; unchanged layers come from the engine's cache.

    The images of earlier stages, which the classic builder keeps, carry the label too: they inherit it from the base.
    """
    options = ["--network", _build_network(arguments["BASE_IMAGE"]), "--label", OURS, "--file", str(dockerfile)]
    for name, value in arguments.items():
        options += ["--build-arg", f"{name}={value}"]
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        if name in os.environ:
            options += ["--build-arg", name]
    stream(["docker", "build", *options, "--tag", tag, str(context)], {"DOCKER_BUILDKIT": "0"})


def base(suite: str, kind: str = "base") -> str:
    """Make the base image of hosts (kind `base`) or of Python applications (kind `python`) and return its name."""
    name = f"gantry/{kind}:{suite}"
    origin = source()
    if origin == "public":
        raw = PUBLIC[f"{kind}:{suite}"]
        pull(raw, timeout=600)
    else:
        raw = _bootstrap(suite)
    made_from = inspect("image", name, '{{with .Config.Labels}}{{index . "gantry.from"}}{{end}}')
    if label_of("image", name) == str(ROOT) and made_from == raw:
        return name
    print(f"building {name} from {raw}", flush=True)
    certificates = _extra_certificates(raw)
    options = ["--label", OURS, "--label", f"gantry.from={raw}", "--build-arg", f"BASE_IMAGE={raw}"]
    stream(
        ["docker", "build", "--tag", name, *options, "--file", str(ROOT / "lab/base.Dockerfile"), str(certificates)],
        {"DOCKER_BUILDKIT": "0"},
    )
    return name


def host(suite: str) -> str:
    """Make the image of throwaway hosts of a Debian suite and return its name."""
    return _ours(f"gantry/host:{suite}", suite, ROOT / "lab/host.Dockerfile")


def registry() -> str:
    """Make the image of the container registry and return its name."""
    return _ours("gantry/registry:trixie", "trixie", ROOT / "lab/registry.Dockerfile")


def backup() -> str:
    """Make the image of the backup server and return its name."""
    return _ours("gantry/backup:trixie", "trixie", ROOT / "lab/backup.Dockerfile")


def app(environment: str) -> Iterator[str]:
    """Build the application as an environment runs it, in all versions; yield each image's name once it is there."""
    image = base("trixie", "python")
    dockerfile, suffix = KINDS[environment]
    for version in VERSIONS:
        tag = f"{APP_REPOSITORY}:{version}{suffix}"
        build(tag, ROOT / "app" / dockerfile, ROOT / "app", BASE_IMAGE=image, VERSION=version)
        yield tag


def _ours(name: str, suite: str, dockerfile: Path) -> str:
    """Build an image of the lab itself, unless it was made from this very Dockerfile and base before."""
    image = base(suite)
    made_from = hashlib.sha256(
        dockerfile.read_bytes() + (inspect("image", image, "{{.Id}}") or "").encode()
    ).hexdigest()
    stamp = STATE / "images" / name.replace("/", "-")
    if label_of("image", name) != str(ROOT) or not stamp.exists() or stamp.read_text() != made_from:
        build(name, dockerfile, ROOT / "lab", BASE_IMAGE=image)
        stamp.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        stamp.write_text(made_from)
    return name


def _bootstrap(suite: str) -> str:
    """Make a minimal Debian with Python from Debian's packages and return its image's name."""
    name = f"gantry/bootstrap:{suite}"
    if inspect("image", name, "{{.Id}}") is not None:
        return name
    if shutil.which("mmdebstrap") is None:
        stream([str(ROOT / "gantry"), "packages", "mmdebstrap"])
    print(f"bootstrapping {name} from Debian packages", flush=True)
    command = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "locale", "man")]
    command += ["--dpkgopt=force-unsafe-io", suite, "-"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as making:
        change = ["--change", f"LABEL {LABEL}={ROOT}", "--change", "CMD /bin/bash"]
        imported = subprocess.run(["docker", "import", *change, "-", f"{name}-new"], stdin=making.stdout, check=False)
    if making.returncode or imported.returncode:
        raise LabError(
            f"mmdebstrap could not make a Debian {suite}; its messages are above. Is a Debian mirror in reach?"
        )
    docker("tag", f"{name}-new", name)
    docker("image", "rm", f"{name}-new")
    return name


def _extra_certificates(image: str) -> Path:
    """Write the authorities that this machine trusts and the image does not (a company's proxy) into a folder."""
    folder = STATE / "certificates" / image.replace("/", "-").replace(":", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    machine = Path(os.environ.get("SSL_CERT_FILE", MACHINE_CERTIFICATES))
    if machine.exists():
        read = f"[ ! -e {MACHINE_CERTIFICATES} ] || cat {MACHINE_CERTIFICATES}"
        known = set(split_certificates(docker("run", "--rm", image, "sh", "-c", read) + "\n"))
        for certificate in split_certificates(machine.read_text()):
            if certificate not in known:
                number = hashlib.sha256(certificate.encode()).hexdigest()[:16]
                (folder / f"{number}.crt").write_text(certificate)
    return folder


def _build_network(image: str) -> str:
    """Return the network that builds use: the engine's own, or the machine's where containers cannot reach a mirror."""
    found = STATE / "build-network"
    if not found.exists():
        reach = (
            "mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null"
            " | sed -n 's|.*http://\\([^/ ]*\\)/.*|\\1|p' | head -n 1); timeout 10 bash -c \"</dev/tcp/$mirror/80\""
        )
        try:
            docker("run", "--rm", image, "sh", "-c", reach)
            network = "default"
        except LabError:
            network = "host"
        found.write_text(f"{network}\n")
    return found.read_text().strip()
