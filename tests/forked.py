"""Many processes, each with numba imported and used already, and with nothing of numbaconv's cache: in a moment each.

A server, started once, forks a child for each piece of code: a fresh interpreter takes a second to import numba. A
child may become another user, who need not be able to read the interpreter's files. As a program, this is the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Done(NamedTuple):
    """What a child left: its exit code (negative: a signal), and what it printed."""

    code: int
    out: str
    err: str


class Server:
    """Forks children that run code."""

    def __init__(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG"))}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**kept, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, code, *, times=1, user=None, paths=(), **environment):
        """Runs code in `times` children at once; the list of what they left."""
        request = {"code": code, "times": times, "user": user, "paths": [str(p) for p in paths]}
        self._process.stdin.write(json.dumps({**request, "environment": environment}) + "\n")
        self._process.stdin.flush()
        return [Done(*done) for done in json.loads(self._process.stdout.readline())]

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=60)


def _become(user, paths, environment):
    from numba.core import config

    os.environ.update(environment)
    config.reload_config()
    sys.dont_write_bytecode = True
    sys.path[:0] = paths
    os.chdir("/")
    if user is not None:
        from numbaconv import kernel_cache

        kernel_cache._source_digest()  # of files that the user may not read
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)


def _child(request, out, err):
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    code = 0
    try:
        _become(request["user"], request["paths"], request["environment"])
        exec(compile(request["code"], "<code>", "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(request):
    children = []
    for _ in range(request["times"]):
        out, err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        pid = os.fork()
        if pid == 0:
            _child(request, out, err)
        children.append((pid, out, err))
    results = []
    for pid, out, err in children:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for file in (out, err):
            file.seek(0)
        results.append((code, out.read(), err.read()))
    return results


def _serve():
    import numba

    import numbaconv  # noqa: F401

    numba.njit(lambda x: x + 1)(1)  # numba imports and registers much at its first compilation
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve()
