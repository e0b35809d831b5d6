"""The child process that trains: started so that it never outlives this one, watched, and stopped on request.

It runs in a session of its own, so that a terminal's Ctrl-C reaches it once, from here.
"""

from __future__ import annotations

import ctypes
import math
import os
import select
import signal
import subprocess
from contextlib import contextmanager
from typing import IO, Any, Callable, Collection, Dict, Iterator, Mapping, Optional, Sequence

from prototxt_gen.core.errors import Error
from prototxt_gen.train.logs_live import LiveLog

STOP_NOTICE = "stopping: Caffe ends its iteration and writes a snapshot; once more to kill it"
NAN_NOTICE = (
    "the loss is no number since iteration {}: nothing is learned any more, and snapshots from here on are useless\n"
    "hint: stop, and start again with a smaller base_lr: --resume takes the last snapshot with finite weights"
)
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
# What a training in Python hears of when it is set up.
HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# echo(data): bytes of Caffe's log, as they come. notice(text): a line of our own.
Echo = Callable[[bytes], None]
Notice = Callable[[str], None]


def start(
    command: Sequence[str], environment: Mapping[str, str], lock: Optional[int], held_back: Collection[int] = ()
) -> Any:
    """Start the child. It holds ``lock`` too, the descriptor of a run folder's lock, and dies with this process.

    Signals that are ``held_back`` wait until the child asks for them.
    """
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
            preexec_fn=die_with_parent(held_back),
        )
    except OSError as error:
        hint = "prototxt-gen caffe info shows what is found"
        raise Error(f"cannot be run: {error.strerror}", command[0], hint) from None


def die_with_parent(held_back: Collection[int] = ()) -> Callable[[], None]:
    """Return what a child calls, before it becomes another program, to be killed when its parent dies.

    It then also holds back signals, for a program that is not ready for them at its start.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_BLOCK, held_back)

    return prepare


class Stops:
    """Counts the requests to stop and passes them on: the first as SIGINT, the second as SIGKILL."""

    def __init__(self) -> None:
        self.count = 0
        self.child: Optional[Any] = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Take over SIGINT, SIGTERM and, unless ignored as under nohup, SIGHUP."""
        handlers: Dict[int, Any] = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            handlers[signal.SIGHUP] = self._hang_up
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def attach(self, child: Any) -> None:
        """Name the process, and pass on what came before there was one."""
        self.child = child
        if self.count:
            self._send(signal.SIGINT)

    def _stop(self, number: int, frame: Any) -> None:
        self.count += 1
        if self.count == 1:
            self._send(signal.SIGINT)
        elif self.child is not None and self.child.poll() is None:
            # The whole session: with several GPUs each has a process of its own.
            os.killpg(self.child.pid, signal.SIGKILL)

    def _hang_up(self, number: int, frame: Any) -> None:
        self._send(signal.SIGHUP)

    def _send(self, number: int) -> None:
        if self.child is not None:
            self.child.send_signal(number)


class Tee:
    """Writes to the log file and to the user. Losing either, to a full disk or a closed terminal, stops no training."""

    def __init__(self, log_file: IO[bytes], echo: Echo, notice: Notice, verbose: bool) -> None:
        self.log_file: Optional[IO[bytes]] = log_file
        self.echo: Optional[Echo] = echo
        self.notice = notice
        self.verbose = verbose

    def write(self, data: bytes) -> None:
        if self.log_file is not None:
            try:
                self.log_file.write(data)
            except OSError as error:
                self.log_file = None
                self.tell(f"cannot write the log any further: {error.strerror}")
        if self.verbose:
            self._show(data)

    def watched(self, line: str) -> None:
        """Take a line of what has been written, without its line break, that one watches a training by."""
        if not self.verbose:
            self._show(f"{line}\n".encode())

    def _show(self, data: bytes) -> None:
        if self.echo is not None:
            try:
                self.echo(data)
            except OSError:
                self.echo = None

    def tell(self, text: str) -> None:
        if self.echo is not None:
            try:
                self.notice(text)
            except OSError:
                self.echo = None


class _LossWatch:
    """Tells once that the loss has become NaN or infinite: Caffe itself goes on as if nothing were."""

    def __init__(self) -> None:
        self.seen = 0
        self.told = False

    def look(self, log: LiveLog, tee: Tee) -> None:
        rows = log.history.train
        for row in rows[self.seen:]:
            if not self.told and not math.isfinite(row.loss):
                self.told = True
                tee.tell(NAN_NOTICE.format(row.iteration))
        self.seen = len(rows)


def follow(pipe: IO[bytes], log: LiveLog, tee: Tee, stops: Stops) -> None:
    """Pass on what Caffe writes until it closes its end."""
    rest, told, watch = b"", 0, _LossWatch()
    while True:
        if stops.count > told:
            told = stops.count
            tee.tell(STOP_NOTICE if told == 1 else "killing Caffe")
        # The time limit lets the notice out while Caffe is silent.
        if not select.select([pipe], [], [], 0.2)[0]:
            continue
        data = os.read(pipe.fileno(), 1 << 16)
        if not data:
            break
        tee.write(data)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            _pass_on(line, log, tee)
        watch.look(log, tee)
    if rest:
        _pass_on(rest, log, tee)


def _pass_on(data: bytes, log: LiveLog, tee: Tee) -> None:
    line = data.decode("utf-8", "replace")
    log.feed(line)
    if log.is_watched:
        tee.watched(line)
