# A public or bootstrapped Debian image that also trusts the certificate authorities of the machine it is built on.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY . /usr/local/share/ca-certificates/gantry/
RUN if command -v update-ca-certificates >/dev/null; then update-ca-certificates; fi
