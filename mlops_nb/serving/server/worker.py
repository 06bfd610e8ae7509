"""The Gunicorn worker: no client can hold a thread, and no request can hold one for long.

The main loop alone reads from clients, and it never waits for one. A thread gets a request when all of it is there,
and what a client does not take of its answer at once is sent on by the main loop, so slow clients cost memory only, of
which there is a limit. The main loop also watches the threads: it answers 503 for a request that has waited for one for
too long, or has had one for too long.

To wake a thread and to hear from it costs more than many a model. So what the application calls quick, the main loop
answers itself, and where the head of the request is known it spares itself Gunicorn's parser and response, too. And
because it is busy then, a new connection goes to the worker with the fewest.
"""

import resource
import select
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from io import BytesIO
from selectors import EVENT_READ, EVENT_WRITE

from gunicorn import SERVER
from gunicorn.http import errors
from gunicorn.util import http_date
from gunicorn.workers.gthread import TConn, ThreadWorker

from mlops_nb.settings import Settings
from mlops_nb.serving.server.request_buffer import VISIT, RequestBuffer
from mlops_nb.serving.http.periodic import log_exception
from mlops_nb.serving.server.connections import ConnectionCounter
from mlops_nb.serving.server.head_cache import HeadCache
from mlops_nb.serving.server.sockets import CallQueue, BufferedSocket
from mlops_nb.serving.http.request_id import make_id
from mlops_nb.serving.http.early_response import EarlyResponse, parse_request_head
from mlops_nb.serving.http.claim import ClaimExpiredError, ResponseClaim

LOOK = 0.1  # Seconds between two looks at who waits
COURTESY = 0.005  # Seconds in which a worker with fewer connections may take a new one
SHORT = 1.0  # Seconds in which other workers take what this one cannot
SLOWEST = 64 * 2**10  # Bytes a second that excuse a client from the time limit, in either direction
SMALL = 64 * 2**10  # Bytes of a request that always have room
LINGER, LONGEST_LINGER = 2.0, 30.0  # Seconds that a connection stays open, for what a client goes on sending

# What must answer when nothing else does: never refused for lack of a thread, because it has its own
_VITAL = ("/health/", "/ping", "/v2/health/", "/metrics")
_VITAL = tuple(f"{method} {path}".encode() for method in ("GET", "HEAD") for path in _VITAL)

_STATUS = {errors.LimitRequestLine: 414, errors.LimitRequestHeaders: 431, errors.UnsupportedTransferCoding: 501}
_STATUS |= {errors.ExpectationFailed: 417, errors.InvalidSchemeHeaders: 403, errors.ForbiddenProxyRequest: 403}
_OURS = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName, errors.ConfigurationProblem)

_KEPT = Future()  # What Gunicorn asks whether a connection may be used again
_KEPT.set_result(True)


class BoundedThreadWorker(ThreadWorker):
    """Gunicorn's threaded worker, with limits."""

    def __init__(self, *args, **kwargs):
        self.connections = ConnectionCounter()
        super().__init__(*args, **kwargs)
        self.settings = Settings.read()
        self.method_queue = CallQueue()
        self.heads = HeadCache()
        self.vital_pool: ThreadPoolExecutor | None = None
        self.turns: dict[ResponseClaim, TConn] = {}  # Requests that have a thread, or wait for one
        self.waits: dict[TConn, tuple[float, Callable]] = {}  # In the poller: until when, and what to do then
        self.large: dict[TConn, int] = {}  # Bytes of large requests that are not answered, and of answers not taken
        self.stuck: set[ResponseClaim] = set()  # Turns that were given up, and whose threads are not back
        self._next_look = 0.0
        self._others_until = 0.0  # Until when a new connection is left to others

    @property
    def nr_conns(self) -> int:
        """The number of connections, as Gunicorn counts them."""
        return self.connections.count

    @nr_conns.setter
    def nr_conns(self, n: int):
        self.connections.count = n

    @classmethod
    def check_config(cls, cfg, log):
        super().check_config(cfg, log)
        if cfg.is_ssl:
            sys.exit("Error: the service speaks HTTP; put a proxy with TLS in front of it.")

    def init_process(self):
        # Gunicorn asks for dozens of settings a request, each through a function
        vars(self.cfg).update({name: setting.get() for name, setting in self.cfg.settings.items()})
        self.vital_pool = ThreadPoolExecutor(2)
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.worker_connections + 1000  # a connection is a file
        if 0 <= files < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most < 0 else min(wanted, most), most))
        super().init_process()

    # A client connects

    def accept(self, listener: socket.socket):
        """Take a connection, or leave it to a worker that has fewer; if that does not come, take all for a while."""
        now = time.monotonic()
        if self.alive and now > self._others_until + COURTESY and not self.connections.is_least():
            self._leave_to_others(now + COURTESY)
        elif not self._take(listener):
            self._leave_to_others(now + SHORT)

    def _take(self, listener: socket.socket) -> bool:
        """Take a connection if there is one; False when this process can have no more of them."""
        try:
            super().accept(listener)
        except OSError as e:  # no file is left for it, or no memory
            self.log.error("A connection cannot be taken: %s", e.strerror)
            return False
        return True

    def _leave_to_others(self, until: float):
        self._others_until = until
        self.set_accept_enabled(False)

    # A request arrives

    def enqueue_req(self, conn: TConn, with_last: bool = False):
        """Take what has come of a request, or came with the last one; it gets a thread when that is all."""
        now = time.monotonic()
        try:
            if not conn.initialized:
                conn.sock = BufferedSocket(conn.sock)
                conn.init()
                conn.parser.unreader = RequestBuffer(conn.sock, self.settings.max_body_mb)
            arrival = conn.parser.unreader
            if arrival.is_whole() if with_last else arrival.fill(now):
                self._ask(conn, now, may_be_quick=not with_last)  # or many of them would keep the others waiting
            else:
                self._await_more(conn, now)
        except EarlyResponse as refusal:
            self._refuse(conn, refusal, now)
        except OSError:  # the client has left
            self._drop(conn)

    def _ask(self, conn: TConn, now: float, may_be_quick: bool):
        """Answer a whole request if that is quick, or give it to a thread, or to the queue for one."""
        data = conn.parser.unreader.data
        if len(data) > SMALL:
            self._make_room(conn, len(data))
        conn.sock.turn = turn = ResponseClaim(now)
        # looked up in the class: a middleware that hands on what it does not know must see every request
        if may_be_quick and hasattr(type(self.wsgi), "runs_inline") and self.wsgi.runs_inline(data):
            self._end(conn, self._answer_here(conn))
            return
        self.turns[turn] = conn
        self._submit(conn, turn)

    def _answer_here(self, conn: TConn) -> bool:
        """Answer a quick request; may the connection be used again?"""
        arrival = conn.parser.unreader
        head, body = arrival.head, arrival.body
        if body is not None and self._answer_known(conn, head, body):
            return True
        keep = self.handle(conn)
        if keep and body is not None:
            self.heads.meet(head, conn.sock.turn.environ, len(body))
        return keep

    def _answer_known(self, conn: TConn, head: bytes, body: bytes) -> bool:
        """Answer a request without Gunicorn's parser and response, if it had the same head and nothing is unusual."""
        environ = self.heads.get(head)
        ends = not self.alive or self.nr + 1 >= self.max_requests or len(self.keepalived_conns) >= self.max_keepalived
        if environ is None or ends:
            return False
        environ["wsgi.input"] = BytesIO(body)
        try:
            answer = self.wsgi.answer_usual(environ)
        except Exception:  # whatever it is: the long way meets it again, and answers it
            return False
        if answer is None:
            return False
        self.nr += 1
        conn.parser.unreader.take()
        conn.sock.sendall(_whole(*answer))
        conn.sock.flush()
        return True

    def _submit(self, conn: TConn, turn: ResponseClaim):
        vital = conn.parser.unreader.data.startswith(_VITAL)
        turn.pool = self.vital_pool if vital else self.tpool
        turn.future = turn.pool.submit(self.handle, conn)
        turn.future.add_done_callback(partial(self._done, conn, turn))

    def _await_more(self, conn: TConn, now: float):
        """Wait for the rest of a request."""
        arrival = conn.parser.unreader
        size = len(arrival.data)
        if not size:
            seconds = self.settings.arrival_seconds if self.alive else LINGER
            self._wait(conn, EVENT_READ, self.enqueue_req, self._drop_idle, now + seconds)
            return
        if size > SMALL:
            self._make_room(conn, size)
        if arrival.expects:
            arrival.expects = False
            conn.sock.say_continue()
        until = arrival.since + self.settings.arrival_seconds + size / SLOWEST
        self._wait(conn, EVENT_READ, self.enqueue_req, self._refuse_unfinished, until)

    def _make_room(self, conn: TConn, size: int):
        """Hold the bytes of a large request, if they are not too many with those of the others."""
        if not self._hold(conn, size):
            raise EarlyResponse(503, "Too many large requests at a time. Try again.", "overloaded", retry=True)

    def _hold(self, conn: TConn, size: int) -> bool:
        """Hold bytes for a client: is there room? Who has longest not taken all of an answer goes first."""
        self.large[conn] = size
        for other in [one for one in self.large if one in self.waits and one.sock.unsent]:
            if self._has_room():
                break
            self._wake(other, self._drop)
        return self._has_room()

    def _has_room(self) -> bool:
        return sum(self.large.values()) <= self.settings.max_body_mb * 2**20 * self.cfg.threads

    def _refuse_unfinished(self, conn: TConn):
        seconds = self.settings.arrival_seconds
        error = f"The request was not all there after {seconds:g} s (MLOPS_ARRIVAL_SECONDS). Send it faster."
        self._refuse(conn, EarlyResponse(408, error), conn.parser.unreader.since)

    # A thread has it

    def handle(self, conn: TConn):
        """Answer a request. In a thread, unless it is quick."""
        client = conn.sock
        turn = client.turn
        turn.began = time.monotonic()
        try:
            keep = super().handle(conn)
            turn.claim()
            client.flush()
            return keep
        except (ClaimExpiredError, OSError):
            return False

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        """May the connection be used again? What the application did not read of the body is here, nobody waits."""
        return bool(keepalive and conn.parser.finish_body())

    def handle_error(self, req, client: BufferedSocket, addr, exc: Exception):
        """Answer for the parser, or for an application that failed. In a thread."""
        if isinstance(exc, errors.ParseException) and not isinstance(exc, _OURS):
            refusal = EarlyResponse(_STATUS.get(type(exc), 400), f"The request is not HTTP as it should be: {exc}.")
        else:
            log_exception(exc)
            refusal = EarlyResponse(500, "The service failed on this request; its log says why.", "internal_error")
        if client.turn is not None:
            client.turn.claim()
            asked = ("", "", None) if req is None else (req.method, req.path, None)
            client.sendall(self._answer(refusal, asked, client.turn.queued))

    def _done(self, conn: TConn, turn: ResponseClaim, future: Future):
        """The thread is back, or the request never had one. In either."""
        self.stuck.discard(turn)
        if not self.method_queue.closed:
            self.method_queue.defer(self._finish, conn, turn, future)

    # The main loop has it back

    def _finish(self, conn: TConn, turn: ResponseClaim, future: Future):
        if turn not in self.turns:
            return  # it was answered here
        if future.cancelled():
            self._submit(conn, turn)  # its pool was replaced
            return
        del self.turns[turn]
        self._end(conn, future.exception() is None and future.result())

    def _end(self, conn: TConn, keep: bool):
        """A request has its answer, and the client perhaps not all of it."""
        self.large.pop(conn, None)
        if conn.sock.unsent:
            self._hold(conn, conn.sock.unsent)
            self._send(conn, partial(self._go_on, conn, keep))
        else:
            self._go_on(conn, keep)

    def _go_on(self, conn: TConn, keep: bool):
        """After an answer: the next request, or the end."""
        if not keep:
            self._leave(conn)
        elif conn.parser.unreader.start_over(time.monotonic()):
            self.enqueue_req(conn, with_last=True)
        else:
            self.finish_request(conn, _KEPT)

    def _send(self, conn: TConn, then: Callable):
        """Send the rest of an answer as the client takes it."""
        try:
            whole = conn.sock.flush()
        except OSError:
            self._drop(conn)
            return
        if whole:
            self.large.pop(conn, None)
            conn.sock.sent, conn.sock.since = 0, 0.0
            then()
            return
        conn.sock.since = conn.sock.since or time.monotonic()
        until = conn.sock.since + self.settings.arrival_seconds + conn.sock.sent / SLOWEST
        self._wait(conn, EVENT_WRITE, partial(self._send, then=then), self._drop, until)

    def _refuse(self, conn: TConn, refusal: EarlyResponse, since: float, environ: dict | None = None):
        """Answer in place of a thread, and end the connection."""
        if environ:
            asked = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["serving.id"]
        else:
            asked = parse_request_head(conn.parser.unreader.data)
        conn.sock = BufferedSocket(conn.sock)  # a thread that has the old one writes nowhere
        conn.sock.sendall(self._answer(refusal, asked, since))
        conn.parser.unreader = None
        self.large.pop(conn, None)
        self._send(conn, partial(self._leave, conn))

    def _answer(self, refusal: EarlyResponse, asked: tuple[str, str, str | None], since: float) -> bytes:
        """What a refusal sends; it is counted and logged as any other answer."""
        method, path, request_id = asked
        request_id = request_id or make_id()
        answer, size = refusal.answer(path, request_id)
        note = getattr(self.wsgi, "note_refused", None)  # another application may have none
        if note is not None:
            note(request_id, method, path, str(int(refusal.status)), time.monotonic() - since, size)
        return answer

    def _leave(self, conn: TConn):
        """Close when the client does, or soon: if closed with something unread, the client might not see its answer."""
        conn.latest = time.monotonic() + LONGEST_LINGER
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
        else:
            self._wait(conn, EVENT_READ, self._discard, self._drop, time.monotonic() + LINGER)

    def _discard(self, conn: TConn):
        try:
            more = conn.sock.recv(VISIT)
        except OSError:
            more = b""
        if more:
            until = min(time.monotonic() + LINGER, conn.latest)
            self._wait(conn, EVENT_READ, self._discard, self._drop, until)
        else:
            self._drop(conn)

    def _drop_idle(self, conn: TConn):
        """Close what never sent anything."""
        self._drop(conn)

    def _drop(self, conn: TConn):
        self.nr_conns -= 1
        self.large.pop(conn, None)
        conn.close()

    # It looks who waits

    def _wait(self, conn: TConn, event: int, ready: Callable, overdue: Callable, until: float):
        """Leave a connection to the poller."""
        self.waits[conn] = until, overdue
        self.poller.register(conn.sock, event, partial(self._wake, conn, ready))

    def _wake(self, conn: TConn, act: Callable, _socket=None):
        del self.waits[conn]
        self.poller.unregister(conn.sock)
        act(conn)

    def wait_for_and_dispatch_events(self, timeout: float):
        if not self._accepting and time.monotonic() < self._others_until + LOOK:
            timeout = COURTESY  # and then at the door again
        super().wait_for_and_dispatch_events(min(timeout, LOOK) if self.turns or self.waits else timeout)

    def murder_pending(self):
        """Look whose time is up; called after every event."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK
        # with no room for another connection, those that wait get less time
        haste = max(0, self.settings.arrival_seconds - 1) if self.nr_conns >= self.worker_connections else 0
        for conn, (until, overdue) in list(self.waits.items()):
            if until - haste <= now:
                self._wake(conn, overdue)
        for turn, conn in list(self.turns.items()):
            self._look_at(turn, conn, now)

    def _look_at(self, turn: ResponseClaim, conn: TConn, now: float):
        most = self.settings.request_seconds
        if turn.began is None:
            waited = now - turn.queued > self.settings.queue_seconds and turn.pool is not self.vital_pool
            if waited and turn.future.cancel():
                del self.turns[turn]
                error = "The service has more requests than it can answer. Try again."
                self._refuse(conn, EarlyResponse(503, error, "overloaded", retry=True), turn.queued)
        elif now - turn.began > most and turn.expire():
            self._let_go(turn)
            error = f"This request took longer than {most:g} s, the limit (MLOPS_REQUEST_SECONDS). Send fewer rows."
            self._refuse(conn, EarlyResponse(503, error, "timeout"), turn.queued, turn.environ)
        elif now - turn.began > 2 * most:  # its answer began, and does not end
            self._let_go(turn)
            self._drop(conn)

    def _let_go(self, turn: ResponseClaim):
        """Go on without the thread that a request has."""
        del self.turns[turn]
        self.stuck.add(turn)
        if turn.pool is self.vital_pool:
            self.vital_pool = ThreadPoolExecutor(2)
        elif turn.pool is self.tpool:
            self.tpool = self.get_thread_pool()
        turn.pool.shutdown(wait=False, cancel_futures=True)  # `_finish` gives what waited there to the new one
        if turn.future.done():  # just now
            self.stuck.discard(turn)
        if len(self.stuck) >= self.cfg.threads and self.alive:
            self.log.error("%d requests do not end; another worker takes over.", len(self.stuck))
            self.alive = False

    # It ends

    def is_parent_alive(self) -> bool:
        """Is there a master? A worker without one ends as if it had been told to: nobody would do that."""
        if not super().is_parent_alive():
            self.alive = False
        return self.alive

    def set_accept_enabled(self, enabled: bool):
        """Stay away while a connection is left to others; at the end, take who is at the door before it is closed."""
        if enabled and time.monotonic() < self._others_until:
            return
        super().set_accept_enabled(enabled)
        if not (enabled or self.alive):
            listeners, self.sockets = self.sockets, []  # once: the signal to end may come while this is called
            for listener in listeners:
                queue = select.poll()
                queue.register(listener, select.POLLIN)
                while queue.poll(0) and self._take(listener):
                    pass
                listener.close()
            soon = time.monotonic() + LINGER
            for conn, (until, overdue) in self.waits.items():
                if overdue == self._drop_idle:
                    self.waits[conn] = min(until, soon), overdue

    def is_busy(self) -> bool:
        """Do threads go on, for which Python would wait before the process ends?"""
        return bool(self.turns or self.stuck)


def _whole(headers: list[tuple[str, str]], content: bytes) -> bytes:
    """An answer with status 200, as Gunicorn would send it."""
    own = ["HTTP/1.1 200 OK", f"Server: {SERVER}", f"Date: {_date(int(time.time()))}", "Connection: keep-alive"]
    return "\r\n".join([*own, *map(": ".join, headers), "\r\n"]).encode("latin-1") + content


_date = lru_cache(1)(http_date)  # Of a second
