"""``python -m numbaconv info | warmup | cache``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .command import cache, info, warmup
from .errors import NumbaconvError

_COMMANDS = {
    "info": (info, "versions, processor, threads, cache, CUDA: what a bug report needs"),
    "warmup": (warmup, "compile kernels ahead, for a saved model or the common ones (as when a container is built)"),
    "cache": (cache, "where compiled kernels lie and how large they are; --clear deletes them"),
}
_EPILOG = "Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong arguments."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m numbaconv", description=__doc__, epilog=_EPILOG)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, help_text) in _COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=module.__doc__, epilog=_EPILOG)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; what it returns is the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.run(parsed)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing to flush
        return 1
    except NumbaconvError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"numbaconv: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
