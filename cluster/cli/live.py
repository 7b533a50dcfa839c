"""A picture of the cluster that is drawn again until Ctrl-C. IO (a terminal)."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from cluster.cli.output import Output

EVERY_S = 2.0
_HOME_AND_CLEAR = "\033[H\033[2J"


def add_watch(parser: argparse.ArgumentParser, every_s: float = EVERY_S) -> None:
    text = f"draw it again every {every_s:g} s until Ctrl-C"
    parser.add_argument("-w", "--watch", action="store_true", help=text)
    parser.set_defaults(every_s=every_s)


async def show(out: Output, draw: Callable[[], Awaitable[tuple[str, int]]], args: argparse.Namespace) -> int:
    """Print what `draw` gives, once or, with --watch, again and again; the exit code it gave last.

    On a terminal each picture takes the place of the one before; elsewhere they follow each other.
    """
    with out.waiting("asking the cluster"):
        text, code = await draw()
    if not args.watch:
        out.result(text)
        return code
    terminal = out.out.isatty()
    try:
        while True:
            out.result(_HOME_AND_CLEAR + text if terminal else text + "\n")
            await asyncio.sleep(args.every_s)
            text, code = await draw()
    except asyncio.CancelledError:  # Ctrl-C is how it ends
        return code
