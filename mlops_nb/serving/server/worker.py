"""The Gunicorn worker: no client can hold a thread, and no request can hold one for long.

Only the main loop reads from clients, and it never blocks. A thread gets a request when it is whole. The rest of a
response that a client does not read at once is sent by the main loop. So slow clients cost memory only, and that has a
limit. The main loop also limits the threads: it responds with 503 to a request that has waited for a thread, or has had
one, for too long.

Waking a thread and hearing from it costs more than many a model. So the main loop itself handles what the application
says runs inline, without Gunicorn's response where the application has a fast one. Because it is busy meanwhile, a new
connection goes to a worker with few. A worker without a model accepts none while another has
one.

The module is longer than 300 lines because it is one state machine: each method moves a connection from one state to
the next (accepted, received, dispatched, responded, lingering, closed) and shares the tables of `__init__`.
"""

import math
import os
import resource
import select
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from selectors import EVENT_READ, EVENT_WRITE

from gunicorn import SERVER
from gunicorn.util import http_date
from gunicorn.workers.gthread import TConn, ThreadWorker

from mlops_nb.serving.http.claim import ClaimExpiredError, ResponseClaim
from mlops_nb.serving.http.early_response import EarlyResponse, RequestHead, parse_request_head
from mlops_nb.serving.http.periodic import log_exception
from mlops_nb.serving.http.request_id import make_id, trace_id_of
from mlops_nb.serving.server.connections import BALANCE_SHARE, ConnectionCounter, IdleConnections
from mlops_nb.serving.server.request_buffer import MAX_READ_BYTES, RequestBuffer
from mlops_nb.serving.server.request_parser import Request, RequestParser
from mlops_nb.serving.server.sockets import BufferedSocket, CallQueue
from mlops_nb.settings import Settings

CHECK_SECONDS = 0.1  # between two checks of the deadlines
YIELD_SECONDS = 0.005  # in which a worker with fewer connections may accept a new one
MAX_YIELDS = 4  # times that, where it has many fewer
ACCEPT_BACKOFF_SECONDS = 1.0  # in which other workers accept what this one cannot
MIN_BYTES_PER_SECOND = 64 * 2**10  # at which a client, in either direction, has more time than the limit
SMALL_REQUEST_BYTES = 64 * 2**10  # up to which a request is always held in memory
LINGER_SECONDS = 2.0  # that a connection stays open after its last response, from what the client sends last
MAX_LINGER_SECONDS = 30.0  # the same, whatever the client sends
SPARE_FILES = 1000  # that a worker opens beside its connections
VITAL_THREADS = 2  # for probes and metrics
SHARING_THREADS = 32  # for small requests, where they share calls of the model: most of them wait

# requests with threads of their own, because they must be answered when nothing else is
_VITAL_PATHS = ("/health/", "/ping", "/v2/health/", "/metrics")
_VITAL_REQUESTS = tuple(f"{method} {path}".encode() for method in ("GET", "HEAD") for path in _VITAL_PATHS)


class BoundedThreadWorker(ThreadWorker):
    """Gunicorn's threaded worker, with limits on the time and memory of clients and requests."""

    alive: bool
    booted: bool  # whether the main loop has begun
    max_requests: int
    sockets: list[socket.socket]
    tpool: ThreadPoolExecutor
    vital_pool: ThreadPoolExecutor
    sharing_pool: ThreadPoolExecutor

    def __init__(self, *args, **kwargs):
        self.connections = ConnectionCounter()
        super().__init__(*args, **kwargs)
        self.settings = Settings.read()
        self.method_queue = CallQueue()
        self.keepalived_conns = IdleConnections()
        self.claims: dict[ResponseClaim, TConn] = {}  # requests that have a thread, or wait for one
        self.waits: dict[TConn, tuple[float, Callable]] = {}  # in the poller: deadline, and what to do then
        self.large: dict[TConn, int] = {}  # bytes of large requests in progress, and of responses not read
        self.stuck: set[ResponseClaim] = set()  # of requests that timed out and whose threads still run
        self._next_check = self._next_notice = 0.0
        # Gunicorn would end the worker after so many requests, before another is ready
        self._retire_after, self.max_requests = self.max_requests, sys.maxsize
        self._accept_again_at = 0.0  # until when new connections are left to other workers
        self._yield = 0, -math.inf  # connections of the others, and until when the next is left to them

    @property
    def nr_conns(self) -> int:
        """The number of connections, as Gunicorn counts them."""
        return self.connections.count

    @nr_conns.setter
    def nr_conns(self, n: int):
        self.connections.count = n

    @property
    def max_keepalived(self) -> int:
        """The number of idle connections up to which responses keep theirs: none after `max_requests`."""
        return 0 if self.nr >= self._retire_after else self._max_keepalived

    @max_keepalived.setter
    def max_keepalived(self, n: int):
        self._max_keepalived = n

    @classmethod
    def check_config(cls, cfg, log):
        """Exit where the configuration asks for TLS."""
        super().check_config(cfg, log)
        if cfg.is_ssl:
            sys.exit("Error: the service speaks HTTP; put a proxy with TLS in front of it.")

    def init_process(self):
        """Prepare the forked process and run its main loop."""
        # Gunicorn reads dozens of settings in each request, and each read is a call
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        self.vital_pool = ThreadPoolExecutor(VITAL_THREADS)
        self.sharing_pool = ThreadPoolExecutor(SHARING_THREADS)
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.worker_connections + SPARE_FILES  # a connection is a file
        if 0 <= files < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most < 0 else min(wanted, most), most))
        super().init_process()

    def handle_exit(self, sig, frame):
        """End after the requests in progress; at once while no worker has a model yet and no client waits."""
        if not self.booted and not (self.connections.is_any_ready() or _is_waiting(self.sockets)):
            for listener in self.sockets:
                listener.close()  # before the process ends, which takes long enough for clients to connect
            os._exit(0)  # `sys.exit` would run in the middle of an import, and leave an ONNX session open
        super().handle_exit(sig, frame)

    # accepted: a client connects

    def accept(self, listener: socket.socket):
        """Accept what has connected, or leave it to a worker with fewer; if that does not come, accept a part of it.

        All at a time: between two calls of this the main loop runs the requests of every connection. What is left to
        others keeps the listener readable, so this is called again at once: a pause would make both workers wait.
        """
        now = time.monotonic()
        if self.alive and not self._serves():
            self._pause_accepting(now + CHECK_SECONDS)
            return
        beyond = 0  # connections to accept all the same
        while self.nr_conns < self.worker_connections and _is_waiting([listener]):
            if not beyond and self.alive and (surplus := self.connections.surplus()) > 0:
                if self._yields(surplus, now):
                    os.sched_yield()
                    return
                beyond = max(1, self.nr_conns // BALANCE_SHARE)
            beyond = max(0, beyond - 1)
            if not self._accept_one(listener):
                self._pause_accepting(now + ACCEPT_BACKOFF_SECONDS)
                return

    def _yields(self, surplus: int, now: float) -> bool:
        """Whether to leave a connection to the others; not for long while none of them accepts any."""
        others = self.connections.others()
        seen, until = self._yield
        if others == seen and until <= now <= until + CHECK_SECONDS:
            self._yield = others, -math.inf
            return False
        if others != seen or until < now:
            self._yield = others, now + YIELD_SECONDS * min(surplus, MAX_YIELDS)
        return True

    def _serves(self) -> bool:
        """Whether this worker has a model, or no other has one, nor the service that this one will replace."""
        return self._update_state() or not (self.connections.is_any_ready() or _is_replacing())

    def _update_state(self) -> bool:
        """Tell the others and the master that there is a model, or that another worker is wanted; True with a model."""
        # another application may have no such property
        if self.alive and not self.connections.is_ready and getattr(self.wsgi, "has_model", True):
            self.connections.ready()
        if self.nr >= self._retire_after and self.connections.is_ready:
            self.connections.retire()
        return self.connections.is_ready

    def _accept_one(self, listener: socket.socket) -> bool:
        """Accept a connection if there is one; False when this process can have no more of them."""
        try:
            super().accept(listener)
        except OSError as e:  # no file is left for it, or no memory
            self.log.error("A connection cannot be accepted: %s", e.strerror)
            return False
        return True

    def _pause_accepting(self, until: float):
        self._accept_again_at = until
        self.set_accept_enabled(False)

    # received: a request arrives

    def on_client_socket_readable(self, conn: TConn, _socket):
        """Read from an idle connection; it stays in the poller, unless it has to wait for something else."""
        self.enqueue_req(conn)

    def enqueue_req(self, conn: TConn, is_buffered: bool = False):
        """Read what has arrived of a request, or is buffered already; dispatch the request when it is whole."""
        now = time.monotonic()
        try:
            if not conn.initialized:
                conn.sock = BufferedSocket(conn.sock)
                conn.init()
                conn.parser = RequestParser(self.cfg, RequestBuffer(conn.sock, self.settings.max_body_mb))
            buffer = conn.parser.buffer
            if buffer.is_whole() if is_buffered else buffer.fill(now):
                # not inline where requests are pipelined: many of them would keep the other clients waiting
                self._dispatch(conn, now, may_run_inline=not is_buffered)
            else:
                self._await_more(conn, now)
        except EarlyResponse as response:
            self._refuse(conn, response, now)
        except OSError:  # the client has left
            self._drop(conn)

    def _await_more(self, conn: TConn, now: float):
        """Wait for the rest of a request."""
        buffer = conn.parser.buffer
        size = len(buffer.data)
        if not size:
            seconds = self.settings.arrival_seconds if self.alive else LINGER_SECONDS
            self._wait(conn, EVENT_READ, self.enqueue_req, self._drop_idle, now + seconds)
            return
        if size > SMALL_REQUEST_BYTES:
            self._reserve(conn, size)
        if buffer.expects_continue:
            buffer.expects_continue = False
            conn.sock.send_continue()
        deadline = buffer.since + self.settings.arrival_seconds + size / MIN_BYTES_PER_SECOND
        self._wait(conn, EVENT_READ, self.enqueue_req, self._refuse_unfinished, deadline)

    def _reserve(self, conn: TConn, size: int):
        """Reserve memory for a large request; raise `EarlyResponse` when the others leave none."""
        if not self._hold(conn, size):
            raise EarlyResponse(503, "Too many large requests at a time. Try again.", "overloaded", retry=True)

    def _hold(self, conn: TConn, size: int) -> bool:
        """Count bytes held for a client; False when it is too much, after dropping clients that read too slowly."""
        self.large[conn] = size
        for other in [one for one in self.large if one in self.waits and one.sock.unsent_bytes]:
            if self._has_memory():
                break
            self._wake(other, self._drop)
        return self._has_memory()

    def _has_memory(self) -> bool:
        return sum(self.large.values()) <= self.settings.max_body_mb * 2**20 * self.cfg.threads

    def _refuse_unfinished(self, conn: TConn):
        seconds = self.settings.arrival_seconds
        error = f"The request was not complete after {seconds:g} s (MLOPS_ARRIVAL_SECONDS). Send it faster."
        self._refuse(conn, EarlyResponse(408, error), conn.parser.buffer.since)

    # dispatched: a request is handled inline or in a thread

    def _dispatch(self, conn: TConn, now: float, may_run_inline: bool):
        """Handle a whole request inline if the application says so, else queue it for a thread."""
        data = conn.parser.buffer.data
        if len(data) > SMALL_REQUEST_BYTES:
            self._reserve(conn, len(data))
        conn.sock.claim = claim = ResponseClaim(now)
        # looked up in the class: a middleware that delegates unknown attributes must see every request
        if may_run_inline and hasattr(type(self.wsgi), "runs_inline") and self.wsgi.runs_inline(data):
            self._finish_response(conn, self._handle_inline(conn))
            return
        self._leave_idle(conn)
        self.claims[claim] = conn
        self._submit(conn, claim)

    def _handle_inline(self, conn: TConn) -> bool:
        """Handle a request in the main loop; True when the connection may be used again."""
        request = conn.parser.peek()
        keep = not request.should_close()
        if self._respond_fast(conn, request, keep):
            return keep
        self._leave_idle(conn)
        return self.handle(conn)

    def _respond_fast(self, conn: TConn, request: Request, keep: bool) -> bool:
        """Respond without Gunicorn's response; False where the worker ends the connection or the application has none."""
        others = len(self.keepalived_conns) - (conn in self.keepalived_conns)
        if not self.alive or self.nr + 1 >= self._retire_after or others >= self.max_keepalived:
            return False
        try:
            response = self.wsgi.fast_response(request.cgi())
        except Exception:  # whatever it is: the usual way meets it again, and responds to it
            response = None
        if response is None:
            request.body.seek(0)
            return False
        next(conn.parser)
        self.nr += 1
        headers, content = response
        conn.sock.sendall(_render_ok(headers, content, keep))
        conn.sock.flush()
        return True

    def _submit(self, conn: TConn, claim: ResponseClaim):
        claim.pool = self._pool_of(conn.parser.buffer.data)
        claim.future = claim.pool.submit(self.handle, conn)
        claim.future.add_done_callback(partial(self._return_to_loop, conn, claim))

    def _pool_of(self, request: bytes) -> ThreadPoolExecutor:
        """Return the threads of a whole request."""
        if request.startswith(_VITAL_REQUESTS):
            return self.vital_pool
        # another application may have no such property
        is_shared = len(request) <= SMALL_REQUEST_BYTES and getattr(self.wsgi, "shares_calls", False)
        return self.sharing_pool if is_shared else self.tpool

    def handle(self, conn: TConn) -> bool:
        """Handle a request, in a thread unless it runs inline; True when the connection may be used again."""
        client = conn.sock
        claim = client.claim
        claim.started_at = time.monotonic()
        try:
            try:
                conn.parser.peek()
                keep = super().handle(conn)
            except EarlyResponse as response:
                self._respond_early(client, response, parse_request_head(conn.parser.buffer.data))
                keep = False
            claim.claim()
            client.flush()
            return keep
        except (ClaimExpiredError, OSError):
            return False

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:  # noqa: ARG002 (Gunicorn's signature)
        """Whether the connection may be used again; a body that nobody read is in memory, and goes with its request."""
        return keepalive

    def handle_error(self, req: Request | None, client: BufferedSocket, addr, exc: Exception):  # noqa: ARG002 (Gunicorn's signature)
        """Respond to a failure of the application."""
        log_exception(exc)
        response = EarlyResponse(500, "The service failed on this request; its log says why.", "internal_error")
        head = RequestHead(None, "", "") if req is None else RequestHead(None, req.method, req.path)
        self._respond_early(client, response, head)

    def _respond_early(self, client: BufferedSocket, response: EarlyResponse, head: RequestHead):
        """Send a response of the worker itself from a thread, unless the main loop has responded: only one is counted."""
        if client.claim is not None:
            client.claim.claim()
            client.sendall(self._render(response, head, client.claim.queued_at))

    def _return_to_loop(self, conn: TConn, claim: ResponseClaim, future: Future):
        """Give a connection back to the main loop when its call ended or was cancelled; in either thread."""
        self.stuck.discard(claim)
        if not self.method_queue.closed:
            self.method_queue.defer(self._finish_call, conn, claim, future)

    # responded: the main loop has the connection again

    def _finish_call(self, conn: TConn, claim: ResponseClaim, future: Future):
        if claim not in self.claims:
            return  # it timed out, and has its response
        if future.cancelled():
            self._submit(conn, claim)  # its pool was replaced
            return
        del self.claims[claim]
        self._finish_response(conn, future.exception() is None and future.result())

    def _finish_response(self, conn: TConn, keep: bool):
        """Send the rest of a response that the client has not read, then go on with its connection."""
        self.large.pop(conn, None)
        if conn.sock.unsent_bytes:
            self._hold(conn, conn.sock.unsent_bytes)
            self._send(conn, partial(self._next_request, conn, keep))
        else:
            self._next_request(conn, keep)

    def _next_request(self, conn: TConn, keep: bool):
        """Go on after a response: with the next request, or with the end of the connection."""
        if not keep:
            self._linger(conn)
        elif conn.parser.buffer.next_request(time.monotonic()):
            self.enqueue_req(conn, is_buffered=True)
        elif conn in self.keepalived_conns and self.alive:
            conn.set_timeout()
            self.keepalived_conns.renew(conn)
        else:
            self._leave_idle(conn)
            self._keep_idle(conn)

    def _keep_idle(self, conn: TConn):
        """Wait for the next request of a connection."""
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + LINGER_SECONDS)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _send(self, conn: TConn, then: Callable):
        """Send the rest of a response as the client reads it."""
        try:
            is_whole = conn.sock.flush()
        except OSError:
            self._drop(conn)
            return
        if is_whole:
            self.large.pop(conn, None)
            conn.sock.sent_bytes, conn.sock.waiting_since = 0, 0.0
            then()
            return
        conn.sock.waiting_since = conn.sock.waiting_since or time.monotonic()
        seconds = self.settings.arrival_seconds + conn.sock.sent_bytes / MIN_BYTES_PER_SECOND
        self._wait(conn, EVENT_WRITE, partial(self._send, then=then), self._drop, conn.sock.waiting_since + seconds)

    def _refuse(self, conn: TConn, response: EarlyResponse, since: float, environ: dict | None = None):
        """Respond in place of a thread, and end the connection."""
        self._leave_idle(conn)
        if environ:
            words = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            head = RequestHead(environ["serving.id"], *words, trace_id_of(environ))
        else:
            head = parse_request_head(conn.parser.buffer.data)
        conn.sock = BufferedSocket(conn.sock)  # a thread that has the old one writes nowhere
        conn.sock.sendall(self._render(response, head, since))
        conn.parser.buffer = None
        self.large.pop(conn, None)
        self._send(conn, partial(self._linger, conn))

    def _render(self, response: EarlyResponse, head: RequestHead, since: float) -> bytes:
        """Return the bytes of an early response to a request, and have it counted and logged."""
        request_id = head.request_id or make_id()
        content, size = response.render(head.path, request_id)
        record = getattr(self.wsgi, "record_refused", None)  # another application may have none
        if record is not None:
            seconds = time.monotonic() - since
            record(head._replace(request_id=request_id), str(int(response.status)), seconds, size)
        return content

    def _leave_idle(self, conn: TConn):
        """Take a connection out of the poller and from those that are idle, if it is one of them."""
        if conn in self.keepalived_conns:
            self.keepalived_conns.remove(conn)
            self.poller.unregister(conn.sock)

    # lingering and closed: the end of a connection

    def _linger(self, conn: TConn):
        """Close when the client does, or soon: if closed before all was read, the client might lose its response."""
        conn.latest = time.monotonic() + MAX_LINGER_SECONDS
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
        else:
            self._wait(conn, EVENT_READ, self._discard, self._drop, time.monotonic() + LINGER_SECONDS)

    def _discard(self, conn: TConn):
        try:
            received = conn.sock.recv(MAX_READ_BYTES)
        except OSError:
            received = b""
        if received:
            deadline = min(time.monotonic() + LINGER_SECONDS, conn.latest)
            self._wait(conn, EVENT_READ, self._discard, self._drop, deadline)
        else:
            self._drop(conn)

    def _drop_idle(self, conn: TConn):
        """Close a connection that sent no request."""
        self._drop(conn)

    def _drop(self, conn: TConn):
        self._leave_idle(conn)
        self.nr_conns -= 1
        self.large.pop(conn, None)
        conn.close()

    # deadlines

    def _wait(self, conn: TConn, event: int, on_event: Callable, on_timeout: Callable, deadline: float):
        """Leave a connection to the poller."""
        self._leave_idle(conn)
        self.waits[conn] = deadline, on_timeout
        self.poller.register(conn.sock, event, partial(self._wake, conn, on_event))

    def _wake(self, conn: TConn, act: Callable, _socket=None):
        del self.waits[conn]
        self.poller.unregister(conn.sock)
        act(conn)

    def wait_for_and_dispatch_events(self, timeout: float):
        """Wait for events, though not past the next check of the deadlines, and handle them."""
        if not self._accepting and time.monotonic() < self._accept_again_at + CHECK_SECONDS:
            timeout = YIELD_SECONDS  # then it accepts again
        is_checked = self.claims or self.waits or not self.connections.is_ready
        super().wait_for_and_dispatch_events(min(timeout, CHECK_SECONDS) if is_checked else timeout)

    def murder_pending(self):
        """Check the deadlines of clients and requests; Gunicorn calls this after every event."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        self._update_state()
        # with no room for another connection, clients get less time
        haste = max(0, self.settings.arrival_seconds - 1) if self.nr_conns >= self.worker_connections else 0
        for conn, (deadline, on_timeout) in list(self.waits.items()):
            if deadline - haste <= now:
                self._wake(conn, on_timeout)
        for claim, conn in list(self.claims.items()):
            self._check_timeout(claim, conn, now)

    def _check_timeout(self, claim: ResponseClaim, conn: TConn, now: float):
        """Respond to a request that has waited for a thread, or has had one, for too long."""
        limit = self.settings.request_seconds
        if claim.started_at is None:
            is_late = now - claim.queued_at > self.settings.queue_seconds and claim.pool is not self.vital_pool
            if is_late and claim.future.cancel():
                del self.claims[claim]
                error = "The service has more requests than it can handle. Try again."
                self._refuse(conn, EarlyResponse(503, error, "overloaded", retry=True), claim.queued_at)
        elif now - claim.started_at > limit and claim.expire():
            self._abandon_thread(claim)
            error = f"This request took longer than {limit:g} s, the limit (MLOPS_REQUEST_SECONDS). Send fewer rows."
            self._refuse(conn, EarlyResponse(503, error, "timeout"), claim.queued_at, claim.environ)
        elif now - claim.started_at > 2 * limit:  # its response has begun, and does not end
            self._abandon_thread(claim)
            self._drop(conn)

    def _abandon_thread(self, claim: ResponseClaim):
        """Go on without the thread of a request; when all threads are stuck, let another worker take over."""
        del self.claims[claim]
        self.stuck.add(claim)
        if claim.pool is self.vital_pool:
            self.vital_pool = ThreadPoolExecutor(VITAL_THREADS)
        elif claim.pool is self.sharing_pool:
            self.sharing_pool = ThreadPoolExecutor(SHARING_THREADS)
        elif claim.pool is self.tpool:
            self.tpool = self.get_thread_pool()
        claim.pool.shutdown(wait=False, cancel_futures=True)  # `_finish_call` submits to the new pool what waited
        if claim.future.done():  # just now
            self.stuck.discard(claim)
        if len(self.stuck) >= self.cfg.threads and self.alive:
            self.log.error("%d requests do not end; another worker takes over.", len(self.stuck))
            self.alive = False

    # the end of the worker

    def notify(self):
        """Show the master that the worker lives, which is a system call: not after every event."""
        now = time.monotonic()
        if now >= self._next_notice:
            self._next_notice = now + CHECK_SECONDS
            super().notify()

    def is_parent_alive(self) -> bool:
        """Whether there is a master; a worker without one stops as after SIGTERM, because nobody would send it."""
        if not super().is_parent_alive():
            self.alive = False
        return self.alive

    def set_accept_enabled(self, enabled: bool):
        """Enable or disable accepting; at the end, accept what has connected before the listeners are closed."""
        if enabled and time.monotonic() < self._accept_again_at:
            return
        super().set_accept_enabled(enabled)
        if not (enabled or self.alive):
            serves = self._serves()
            self.connections.end()
            listeners, self.sockets = self.sockets, []  # once: SIGTERM may come while this is called
            for listener in listeners:
                self._drain(listener) if serves else listener.close()
            soon = time.monotonic() + LINGER_SECONDS
            for conn, (deadline, on_timeout) in self.waits.items():
                if on_timeout == self._drop_idle:
                    self.waits[conn] = min(deadline, soon), on_timeout

    def _drain(self, listener: socket.socket):
        """Accept all that have connected, and close the listener."""
        while _is_waiting([listener]) and self._accept_one(listener):
            pass
        listener.close()

    def is_busy(self) -> bool:
        """Whether threads still run, for which Python would wait before the process ends."""
        return bool(self.claims or self.stuck)


def _is_waiting(listeners: list[socket.socket]) -> bool:
    """Whether a client has connected that no worker has accepted; the last to close the listener would reset it."""
    backlog = select.poll()
    for listener in listeners:
        backlog.register(listener, select.POLLIN)
    return bool(backlog.poll(0))


def _is_replacing() -> bool:
    """Whether the master that started this one (SIGUSR2) still runs."""
    if (master := os.environ.get("GUNICORN_PID")) is None:
        return False
    try:
        os.kill(int(master), 0)
    except OSError:
        return False
    return True


def _render_ok(headers: list[tuple[str, str]], content: bytes, keep: bool) -> bytes:
    """Return a response with status 200 as Gunicorn would send it; `keep` the connection, or end it."""
    connection = f"Connection: {'keep-alive' if keep else 'close'}"
    own = ["HTTP/1.1 200 OK", f"Server: {SERVER}", f"Date: {_date(int(time.time()))}", connection]
    return "\r\n".join([*own, *map(": ".join, headers), "\r\n"]).encode("latin-1") + content


_date = lru_cache(1)(http_date)  # one second's date serves all its responses
