"""The registry's side of a deploy, against a real HTTPS server on loopback."""

import base64
import datetime
import http.server
import ipaddress
import json
import ssl
import threading

import pytest
from ansible.module_utils.gantry.registry import Registry, RegistryError, parse_challenge, parse_repository
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("registry.example:5000/team/app", ("registry.example:5000", "team/app")),
        ("localhost/app", ("localhost", "app")),
        ("team/app", ("registry-1.docker.io", "team/app")),
        ("docker.io/team/app", ("registry-1.docker.io", "team/app")),
        ("debian", ("registry-1.docker.io", "library/debian")),
    ],
)
def test_repository_names(image, expected):
    assert parse_repository(image) == expected


def test_challenge():
    assert parse_challenge('Bearer realm="https://auth.example/token",service="r"') == (
        "bearer",
        {"realm": "https://auth.example/token", "service": "r"},
    )


class Handler(http.server.BaseHTTPRequestHandler):
    """A registry that has ``app:1.0`` for ``bob``; ``/v2/bearer/…`` asks for a token instead of a password."""

    server: http.server.HTTPServer

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        basic = "Basic " + base64.b64encode(b"bob:secret").decode()
        sent = self.headers.get("Authorization")
        if self.path.startswith("/token?"):
            return self.reply(200, {"token": "t0k"}) if sent == basic else self.reply(401)
        bearer = self.path.startswith("/v2/bearer/")
        if sent != ("Bearer t0k" if bearer else basic):
            realm = f"https://127.0.0.1:{self.server.server_port}/token"
            challenge = f'Bearer realm="{realm}",service="s"' if bearer else 'Basic realm="r"'
            return self.reply(401, headers={"WWW-Authenticate": challenge})
        if self.path.endswith("/tags/list"):
            return self.reply(200, {"tags": ["0.9", "1.0"]})
        if self.path.endswith("/manifests/1.0") and "application/vnd.oci.image.index.v1+json" in self.headers["Accept"]:
            return self.reply(200, headers={"Docker-Content-Digest": DIGEST})
        if self.path.endswith("/manifests/odd"):
            return self.reply(200)
        return self.reply(404)

    def reply(self, code, body=None, headers=None):
        text = json.dumps(body or {}).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)

    def log_message(self, *args):
        """Keep the test's output to the test."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serve it over TLS; yields host and CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    file.write_text(private + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{httpd.server_port}", pem
    httpd.shutdown()


@pytest.mark.parametrize("repository", ["app", "bearer"])
def test_tag_resolves_by_password_and_by_token(server, repository):
    host, ca = server
    assert Registry(host, "bob", "secret", ca).digest(repository, "1.0") == DIGEST


@pytest.mark.parametrize(
    ("tag", "password", "says"),
    [
        ("2.0", "secret", r"no tag '2\.0' in app \(it has 0\.9, 1\.0\); push .*app:2\.0"),
        ("1.0", "wrong", r"refuses the login bob .*vault_registry_password"),
        ("odd", "secret", r"no usable digest"),
    ],
)
def test_refusals_name_the_cause_and_the_next_step(server, tag, password, says):
    host, ca = server
    with pytest.raises(RegistryError, match=says) as error:
        Registry(host, "bob", password, ca).digest("app", tag)
    assert password not in str(error.value)


def test_unknown_ca_is_named(server):
    with pytest.raises(RegistryError, match="registry_ca_certificate"):
        Registry(server[0], "bob", "secret").digest("app", "1.0")


def test_registry_that_is_not_there(server):
    with pytest.raises(RegistryError, match="cannot be reached from this host"):
        Registry("127.0.0.1:9", "bob", "secret").digest("app", "1.0")
