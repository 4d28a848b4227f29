# The lab's container registry: Debian's docker-registry over TLS, with accounts.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends apache2-utils docker-registry \
    && apt-get clean \
    && useradd --system --uid 10010 --user-group service \
    && install -d -o service -g service /srv/data /srv/private
USER service
COPY registry.yml /etc/docker/registry/config.yml
VOLUME /srv/data
EXPOSE 5000
CMD ["docker-registry", "serve", "/etc/docker/registry/config.yml"]
