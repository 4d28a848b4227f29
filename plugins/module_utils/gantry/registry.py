"""Look up images in a container registry (OCI distribution API), with the standard library alone.

It runs on the hosts, before anything is installed there: whether *they* reach the registry is what counts.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPResponse

# Without the complete list a registry converts a manifest to an older type, and answers with the digest of that.
MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
DOCKER_HUB = "registry-1.docker.io"
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class RegistryError(Exception):
    """The registry cannot be asked, or does not have what was asked for; the message says what to do next."""


def parse_repository(image: str) -> tuple[str, str]:
    """Split an image name without tag into registry and repository.

    :param image: for example ``registry.example:5000/team/app``, ``team/app`` (Docker Hub) or ``debian``.
    :returns: the registry's ``host[:port]`` and the repository's path.
    """
    first, slash, rest = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return (DOCKER_HUB if first == "docker.io" else first), rest
    return DOCKER_HUB, image if slash else f"library/{image}"


def parse_challenge(header: str) -> tuple[str, dict[str, str]]:
    """Split a ``WWW-Authenticate`` header into its scheme (lower case) and its parameters."""
    scheme, _, rest = header.partition(" ")
    return scheme.lower(), dict(re.findall(r'(\w+)="([^"]*)"', rest))


@dataclass
class Registry:
    """One registry, as one account sees it.

    :ivar host: ``host[:port]``.
    :ivar username: account name, or ``None`` for anonymous access.
    :ivar password: its password or token.
    :ivar ca_certificate: PEM text of the CA to trust beside the system's own, or ``None``.
    :ivar timeout: seconds that one request may take.
    """

    host: str
    username: str | None = None
    password: str | None = None
    ca_certificate: str | None = None
    timeout: float = 10.0

    def digest(self, repository: str, tag: str) -> str:
        """Return the digest that *tag* stands for now.

        :raises RegistryError: when the registry cannot be reached, refuses the login, or has no such tag.
        """
        try:
            answer = self._request(f"/v2/{repository}/manifests/{tag}", repository, method="HEAD")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise RegistryError(self._no_such_tag(repository, tag)) from error
            raise RegistryError(self._refused(repository, error.code)) from error
        found = answer.headers.get("Docker-Content-Digest", "")
        if not DIGEST.fullmatch(found):
            raise RegistryError(
                f"registry {self.host} sent no usable digest for {repository}:{tag}; is it a container registry?"
            )
        return found

    def tags(self, repository: str) -> list[str]:
        """Return the repository's tags, as the registry orders them; empty when it has none or will not list them."""
        try:
            return json.load(self._request(f"/v2/{repository}/tags/list", repository)).get("tags") or []
        except (urllib.error.HTTPError, ValueError):
            return []

    def _no_such_tag(self, repository: str, tag: str) -> str:
        there = self.tags(repository)
        known = f"it has {', '.join(there[-10:])}" if there else "it has no tags that this login may see"
        return (
            f"registry {self.host} has no tag {tag!r} in {repository} ({known}); "
            f"push {self.host}/{repository}:{tag}, or choose another version with -e app_version=…"
        )

    def _refused(self, repository: str, code: int) -> str:
        if code in (401, 403):
            return (
                f"registry {self.host} refuses the login {self.username or '(none)'} for {repository} (HTTP {code}); "
                "check registry_username and the vault's vault_registry_password"
            )
        return f"registry {self.host} answered HTTP {code} for {repository}; look at the registry's log"

    def _request(self, path: str, repository: str, method: str = "GET") -> HTTPResponse:
        """Ask for *path*, logging in the way the registry demands.

        :raises urllib.error.HTTPError: for an answer of 400 or above that a login does not mend.
        :raises RegistryError: when no answer came at all.
        """
        headers = {"Accept": ", ".join(MANIFEST_TYPES)}
        try:
            return self._open(path, method, headers)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            scheme, challenge = parse_challenge(error.headers.get("WWW-Authenticate", ""))
        if scheme == "bearer":
            headers["Authorization"] = f"Bearer {self._token(challenge, repository)}"
        elif self.username is not None:
            headers["Authorization"] = self._basic()
        return self._open(path, method, headers)

    def _token(self, challenge: dict[str, str], repository: str) -> str:
        query = {"scope": challenge.get("scope", f"repository:{repository}:pull")}
        if "service" in challenge:
            query["service"] = challenge["service"]
        headers = {"Authorization": self._basic()} if self.username is not None else {}
        answer = json.load(self._open(f"{challenge['realm']}?{urllib.parse.urlencode(query)}", "GET", headers))
        return answer.get("token") or answer["access_token"]

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password or ''}".encode()).decode()

    def _open(self, address: str, method: str, headers: dict[str, str]) -> HTTPResponse:
        url = address if address.startswith("https://") else f"https://{self.host}{address}"
        request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310 - always https, see above
        context = ssl.create_default_context()
        if self.ca_certificate:
            context.load_verify_locations(cadata=self.ca_certificate)
        try:
            return urllib.request.urlopen(request, timeout=self.timeout, context=context)  # noqa: S310
        except urllib.error.HTTPError:
            raise
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            hint = (
                "give its CA in registry_ca_certificate"
                if isinstance(reason, ssl.SSLCertVerificationError)
                else "check its name, its port and that it runs"
            )
            raise RegistryError(f"registry {self.host} cannot be reached from this host: {reason}; {hint}") from error
