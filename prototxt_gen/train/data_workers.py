"""Work spread over processes of this program, with results in the order of the tasks, whatever the number of workers.

A worker is a fresh Python that reads tasks from a socket and writes results to it. It ends when the socket does: no
worker outlives the process that started it, however that ended. (The pools of the standard library are not used: after
a kill of their owner their workers wait for ever, and they import the user's main module once more.)
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, Callable, Dict, Iterable, Iterator, List

from prototxt_gen.core.errors import Error

WORKER = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from prototxt_gen.train.data_workers import serve; serve(int(sys.argv[1]))"
)
# One in work and one waiting: the worker goes on while this process writes. Tasks are small: two fit into a socket.
TASKS_AHEAD = 2
# Results kept while one before them is missing, for each worker.
RESULTS_AHEAD = 8


class _Worker:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-c", WORKER, str(theirs.fileno()), json.dumps([str(one) for one in sys.path])]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                            pass_fds=[theirs.fileno()])
        self.connection = Connection(ours.detach())
        self.tasks: List[int] = []
        self.send(function)

    def send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError:
            self._fail()

    def receive(self) -> Any:
        """Return the result of the first of its tasks. Raises what the task raised, and Error when the worker ended."""
        try:
            ok, result = self.connection.recv()
        except (EOFError, OSError):
            self._fail()
        if not ok:
            raise result
        return result

    def _fail(self) -> None:
        code = self.process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = "SIGKILL often means that memory ran out: use fewer with --workers N"
        raise Error(f"a process that decodes images ended with {how}", hint=hint if code < 0 else "")


def all_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(function: Callable[[Any], Any], tasks: Iterable[Any], workers: int) -> Iterator[Any]:
    """Yield ``function(task)`` for each task in turn, computed by so many processes; 1 means this one.

    Function and tasks travel as pickles. Raises Error when a worker is killed.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    with _started(function, workers) as pool:
        left = iter(tasks)
        results: Dict[int, Any] = {}
        wanted = handed = 0
        while True:
            for worker in (one for _ in range(TASKS_AHEAD) for one in pool):
                if len(worker.tasks) < TASKS_AHEAD and handed < wanted + RESULTS_AHEAD * workers:
                    for task in itertools.islice(left, 1):
                        worker.send(task)
                        worker.tasks.append(handed)
                        handed += 1
            if wanted == handed:
                return
            busy = {worker.connection: worker for worker in pool if worker.tasks}
            for connection in wait(list(busy)):
                worker = busy[connection]
                results[worker.tasks[0]] = worker.receive()
                worker.tasks.pop(0)
            while wanted in results:
                yield results.pop(wanted)
                wanted += 1


@contextmanager
def _started(function: Callable[[Any], Any], workers: int) -> Iterator[List[_Worker]]:
    pool: List[_Worker] = []
    try:
        # Ctrl-C reaches all processes of a terminal; the workers are to end with this one, quietly.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            for _ in range(workers):
                pool.append(_Worker(function))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield pool
    finally:
        for worker in pool:
            worker.connection.close()
            worker.process.terminate()
        for worker in pool:
            worker.process.wait()


def serve(descriptor: int) -> None:
    """Work on what comes through a socket until it ends."""
    connection = Connection(descriptor)
    try:
        function = connection.recv()
        while True:
            task = connection.recv()
            try:
                answer = (True, function(task))
            except (Error, MemoryError) as error:
                answer = (False, error)
            connection.send(answer)
    except (EOFError, OSError):
        return
