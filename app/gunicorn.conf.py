"""gunicorn's settings; each can be changed by the environment variable that it reads."""

import os
from pathlib import Path

from dblood.logs import configuration

bind = os.environ.get("BIND", "0.0.0.0:8000")
worker_class = "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = int(os.environ.get("WEB_THREADS", "8"))

# Loaded once and then forked: less memory, a faster start, and a generated SECRET_KEY is the same in all workers.
preload_app = True

# Longer than the proxy keeps an idle connection: the proxy is always the one that closes it, so it never writes a
# request into a connection that is being closed here.
keepalive = int(os.environ.get("KEEPALIVE_SECONDS", "75"))

# On SIGTERM no new connection is taken, and requests in flight get this long to finish.
graceful_timeout = int(os.environ.get("GRACEFUL_TIMEOUT_SECONDS", "30"))
# A worker that has not shown life for this long is replaced; a thread's long request does not count.
timeout = 30

# The heartbeat file must be in memory and writable, on a read-only root file system too.
worker_tmp_dir = next(path for path in ("/dev/shm", "/tmp") if Path(path).is_dir() and os.access(path, os.W_OK))
# Nobody manages a container's server through a socket in its home.
control_socket_disable = True

# Requests are logged by dblood.middleware, with their duration and id.
accesslog = None
logconfig_dict = configuration()
