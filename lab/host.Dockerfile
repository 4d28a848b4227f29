# A throwaway host, as bare as Debian's cloud image: systemd, sshd, python3 and the user `debian` with sudo.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}

# Container images leave out what a host has: services that start when installed, and apt's cache.
RUN rm -f /usr/sbin/policy-rc.d /etc/apt/apt.conf.d/docker-* \
    && echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/lab \
    && echo 'APT::Keep-Downloaded-Packages "true";' >/etc/apt/apt.conf.d/00lab \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates dbus iproute2 openssh-server python3 python3-apt sudo systemd systemd-sysv \
    && apt-get clean

# What the roles install is not installed, only at hand, so that the first provisioning need not wait for a mirror.
RUN packages="apparmor cron curl docker.io haproxy iptables nftables openssl python3-cryptography python3-docker \
        restic sqlite3 tzdata unattended-upgrades" \
    && if apt-cache show docker-cli >/dev/null 2>&1; then packages="$packages docker-cli"; fi \
    && apt-get install -y --no-install-recommends --download-only $packages

# Each host makes its own identity at first boot. Nothing may reach for the hardware or the consoles of the machine.
RUN rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id \
    && : >/etc/machine-id \
    && mkdir -p /etc/systemd/system/ssh.service.d \
    && printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n' \
        >/etc/systemd/system/ssh.service.d/host-keys.conf \
    && printf 'PermitRootLogin no\nPasswordAuthentication no\n' >/etc/ssh/sshd_config.d/lab.conf \
    && systemctl enable ssh.service \
    && systemctl set-default multi-user.target \
    && systemctl mask apt-daily.timer apt-daily-upgrade.timer console-getty.service getty.target \
        systemd-modules-load.service systemd-remount-fs.service systemd-udevd.service

RUN useradd --create-home --shell /bin/bash debian \
    && echo 'debian ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/debian \
    && chmod 0440 /etc/sudoers.d/debian \
    && install -d -m 0700 -o debian -g debian /home/debian/.ssh

VOLUME /var/lib/docker
STOPSIGNAL SIGRTMIN+3
CMD ["/lib/systemd/systemd"]
