# The lab's backup server: restic's REST server over TLS; each account reaches only its own repositories.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends apache2-utils restic-rest-server \
    && apt-get clean \
    && useradd --system --uid 10010 --user-group service \
    && install -d -o service -g service /srv/data /srv/private
USER service
VOLUME /srv/data
EXPOSE 8000
CMD ["restic-rest-server", "--path", "/srv/data", "--private-repos", "--htpasswd-file", "/srv/private/htpasswd", \
     "--tls", "--tls-cert", "/srv/private/tls.crt", "--tls-key", "/srv/private/tls.key"]
