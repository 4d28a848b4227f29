#!/usr/bin/python
# Copyright: the Gantry authors
"""Ansible module: which routes need a certificate, and a signing request for each."""

from __future__ import annotations

DOCUMENTATION = r"""
module: route_certificates
short_description: Requests for the certificates that routes need
description:
  - Looks at the certificate of each route and says which are missing, end soon, name other domains, belong to another
    key or were signed by another CA.
  - For those it makes the route's private key, where there is none, and a signing request. The key never leaves the
    host.
options:
  path:
    description: The configuration folder; certificates are in C(certs/NAME.pem), private keys in C(keys/NAME.key).
    type: str
    default: /etc/haproxy/gantry
  routes:
    description: The routes, as M(haproxy_map) takes them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the route.
        type: str
        required: true
      domains:
        description: Host names and addresses that the certificate is for.
        type: list
        elements: str
        required: true
      prefix:
        description: Path prefix; a certificate does not depend on it.
        type: str
        required: true
      ports:
        description: Ports of the application; a certificate does not depend on them.
        type: list
        elements: int
        required: true
  ca_certificate:
    description: Certificate (PEM) of the CA that is to sign.
    type: str
    required: true
  renewal_days:
    description: A certificate with fewer days left is due.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
    description: Reports what is due, and makes no key and no request.
  diff_mode:
    support: none
author: the Gantry authors
"""

EXAMPLES = r"""
- name: Find which certificates are missing or end soon
  route_certificates:
    routes: "{{ reverse_proxy_routes }}"
    ca_certificate: "{{ reverse_proxy_ca_certificate }}"
  register: due
"""

RETURN = r"""
due:
  description: Why a certificate is needed, by route.
  returned: success
  type: dict
  sample: {shop-staging: 12 days left}
requests:
  description: Name of the route and its signing request (PEM); empty in check mode.
  returned: success
  type: list
  elements: dict
"""

import datetime
import ipaddress
import os
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.gantry import haproxy

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()


def alternative_name(domain: str) -> x509.GeneralName:
    """Return *domain* as a certificate names it: an address or a host name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(domain.strip("[]")))
    except ValueError:
        return x509.DNSName(domain.lower())


def public_bytes(key) -> bytes:
    """Return a public key in a form that can be compared."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the key of *authority* signed *certificate*."""
    key, algorithm = authority.public_key(), certificate.signature_hash_algorithm
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm:
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm:
            key.verify(signature, signed, ec.ECDSA(algorithm))
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except InvalidSignature:
        return False
    return certificate.issuer == authority.subject


def why_due(pem: bytes, key, domains: list[str], authority: x509.Certificate, renewal_days: int) -> str | None:
    """Return why a route needs another certificate than *pem*, or None."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return "not readable"
    if public_bytes(certificate.public_key()) != public_bytes(key.public_key()):
        return "for another private key"
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "without names"
    if set(names) != {alternative_name(domain) for domain in domains}:
        return "for other domains"
    if not is_signed_by(certificate, authority):
        return "signed by another CA"
    # Older releases of the library (Debian 12) know the end without a time zone only.
    ends = getattr(certificate, "not_valid_after_utc", None) or certificate.not_valid_after.replace(tzinfo=datetime.UTC)
    left = (ends - datetime.datetime.now(datetime.UTC)).days
    return f"{left} days left" if left < renewal_days else None


def signing_request(name: str, domains: list[str], key) -> str:
    """Return a signing request (PEM) for a server's certificate."""
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name[:64])]))
        .add_extension(x509.SubjectAlternativeName([alternative_name(domain) for domain in domains]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def read(path: str) -> bytes | None:
    """Return a file's content, or None when there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def make_key(path: str):
    """Make a private key and keep it in *path*, readable by root only."""
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    haproxy.write_atomically(path, text, 0o600)
    return key


def main() -> None:
    """Look at each route's certificate and ask for those that are due."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "default": os.path.dirname(haproxy.ROUTES_MAP)},
            "routes": {"type": "list", "elements": "dict", "required": True, "options": haproxy.ROUTE_OPTIONS},
            "ca_certificate": {"type": "str", "required": True},
            "renewal_days": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    routes = module.params["routes"]
    if IMPORT_ERROR:
        if not module.check_mode:
            module.fail_json(msg=missing_required_lib("cryptography"), exception=IMPORT_ERROR)
        module.exit_json(changed=True, due={route["name"]: "missing" for route in routes}, requests=[])
    try:
        authority = x509.load_pem_x509_certificate(module.params["ca_certificate"].encode())
    except ValueError as error:
        module.fail_json(msg=f"the CA's certificate is not a PEM certificate ({error}); make it again")
    due: dict[str, str] = {}
    requests = []
    for route in routes:
        name, domains = route["name"], route["domains"]
        key_file = os.path.join(module.params["path"], "keys", f"{name}.key")
        certificate = read(os.path.join(module.params["path"], "certs", f"{name}.pem"))
        try:
            stored = read(key_file)
            key = serialization.load_pem_private_key(stored, None) if stored else None
            if certificate is None or key is None:
                reason: str | None = "missing"
            else:
                reason = why_due(certificate, key, domains, authority, module.params["renewal_days"])
            if reason is None:
                continue
            due[name] = reason
            if not module.check_mode:
                requests.append({"name": name, "request": signing_request(name, domains, key or make_key(key_file))})
        except (ValueError, OSError) as error:
            module.fail_json(msg=f"{key_file}: no usable private key ({error}); remove the file and run again")
    module.exit_json(changed=bool(due), due=due, requests=requests)


if __name__ == "__main__":
    main()
