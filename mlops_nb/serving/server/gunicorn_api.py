"""The names of Gunicorn that this package relies on: most are not its public API, so its versions are bounded.

A contract test compares these tables with the installed Gunicorn and with the code of this package. For a new major
version, read Gunicorn's changes for each name, then change `SUPPORTED_MAJOR`.
"""

import re

import gunicorn

from mlops_nb.errors import SettingsError

SUPPORTED_MAJOR = 27

# what the modules of this package import
IMPORTS = {
    "gunicorn": {"SERVER", "__version__"},
    "gunicorn.arbiter": {"Arbiter"},
    "gunicorn.config": {"Config"},
    "gunicorn.errors": {"HaltServer"},
    "gunicorn.util": {"http_date", "split_request_uri", "unquote_to_wsgi_str"},
    "gunicorn.workers.gthread": {"PollableMethodQueue", "TConn", "ThreadWorker"},
}

# methods that are overridden or called, with the names of their parameters
SIGNATURES = {
    "gunicorn.arbiter:Arbiter": {
        # overridden
        "reload": ("self",),
        "reexec": ("self",),
        "reap_workers": ("self",),
        "manage_workers": ("self",),
        # called
        "spawn_worker": ("self",),
        "kill_worker": ("self", "pid", "sig"),
    },
    "gunicorn.workers.gthread:ThreadWorker": {
        # overridden
        "check_config": ("cfg", "log"),
        "init_process": ("self",),
        "handle_exit": ("self", "sig", "frame"),
        "accept": ("self", "listener"),
        "on_client_socket_readable": ("self", "conn", "client"),
        "enqueue_req": ("self", "conn"),
        "handle": ("self", "conn"),
        "_keepalive_after": ("self", "conn", "keepalive"),
        "handle_error": ("self", "req", "client", "addr", "exc"),
        "wait_for_and_dispatch_events": ("self", "timeout"),
        "murder_pending": ("self",),
        "is_parent_alive": ("self",),
        "notify": ("self",),
        "set_accept_enabled": ("self", "enabled"),
        # called
        "get_thread_pool": ("self",),
    },
    "gunicorn.workers.gthread:TConn": {
        "__init__": ("self", "cfg", "sock", "client", "server"),
        "init": ("self",),
        "close": ("self", "graceful"),
    },
    "gunicorn.workers.gthread:PollableMethodQueue": {
        "close": ("self",),  # overridden
        "defer": ("self", "callback", "args"),
    },
    "gunicorn.config:Setting": {"get": ("self",)},
    "gunicorn.util:http_date": {"__call__": ("timestamp",)},
    "gunicorn.util:split_request_uri": {"__call__": ("uri",)},
    "gunicorn.util:unquote_to_wsgi_str": {"__call__": ("string",)},
}

# attributes that are made in an `__init__`, or read by a method that is overridden
ATTRIBUTES = {
    "gunicorn.arbiter:Arbiter": {"START_CTX", "num_workers", "worker_age"},
    "gunicorn.workers.gthread:ThreadWorker": {
        "alive",
        "booted",
        "cfg",
        "keepalived_conns",
        "log",
        "max_keepalived",
        "max_requests",
        "method_queue",
        "nr",
        "nr_conns",
        "poller",
        "sockets",
        "tpool",
        "worker_connections",
        "wsgi",
        "_accepting",
    },
    "gunicorn.workers.gthread:TConn": {"initialized", "parser", "sock"},
}

# what a project's gunicorn.conf.py gets, and what the worker reads of the configuration
SETTINGS = {
    "bind",
    "workers",
    "worker_class",
    "threads",
    "keepalive",
    "timeout",
    "graceful_timeout",
    "sendfile",
    "secure_scheme_headers",
    "forwarder_headers",
    "forwarded_allow_ips",
    "preload_app",
    "loglevel",
    "on_starting",
    "when_ready",
    "post_worker_init",
    "child_exit",
    "worker_exit",
    "on_exit",
}


def require_gunicorn(version: str | None = None):
    """Raise `SettingsError` for a version of Gunicorn, by default the installed one, that the worker does not run on."""
    version = version or gunicorn.__version__
    if (major := re.match(r"\d+", version)) is None or int(major[0]) != SUPPORTED_MAJOR:
        raise SettingsError(
            f"Gunicorn {version} is installed; the service runs on {SUPPORTED_MAJOR}. "
            f'Install another one: pip install "gunicorn>={SUPPORTED_MAJOR},<{SUPPORTED_MAJOR + 1}"'
        )
