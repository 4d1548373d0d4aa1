"""edgellm serve: one model for any number of serial lines, sockets and terminals."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence

from edgellm import plugins
from edgellm.channel import Channel, Service
from edgellm.commands import host
from edgellm.commands import options as shared
from edgellm.errors import EdgeError, PluginError, UsageError
from edgellm.history import abandoned
from edgellm.history.session_store import Limits, SessionStore
from edgellm.runner import PATIENCE_S, Watch
from edgellm.runtime import Model

EPILOG = """\
examples:
  edgellm serve --channel tcp://127.0.0.1:7070
  edgellm serve model.gguf --channel serial:///dev/ttyACM0?baud=115200 --channel unix:///tmp/llm
  edgellm serve model.gguf -np 8 -c 1024 --channel tcp://[::1]:7070 --channel console:

A question is a line, the answer streams back and ends with a newline. Devices that speak the
framed link have sessions that outlive the line and the process. Ctrl-C or SIGTERM ends.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    shared.add_model(parser)
    shared.add_running(parser)
    shared.add_adapters(parser)
    parser.add_argument(
        "--channel", action="append", required=True, metavar="URL", help="where to answer; repeat"
    )
    parser.add_argument(
        "-np",
        "--parallel",
        type=shared.positive,
        default=4,
        metavar="N",
        help="conversations that are kept in memory and answered at once (default: 4)",
    )
    parser.add_argument(
        "--fallback",
        metavar="NAME|none",
        help="the device that takes over when the model's fails, and goes on with the answers; "
        "none: they get an error (default: cpu, where the model's own file is at hand)",
    )
    parser.add_argument(
        "--hang-after",
        type=shared.seconds,
        default=PATIENCE_S,
        metavar="N",
        help="seconds without an end of a step, and no less than 20 times what the slowest took, "
        f"that a device counts as failed after; 0: never (default: {PATIENCE_S:g})",
    )
    shared.add_history(parser)
    shared.add_conversation(parser)
    shared.add_sampling(parser)


def main(options: argparse.Namespace) -> int:
    channels = [channel(url) for url in options.channel]
    store = history(options)  # before the long work
    model = host.load(options, slots=options.parallel)
    watch = Watch(model.chosen.backend, host.fallback(model, options), options.hang_after)
    asyncio.run(serve(model, options, channels, store, watch))
    return 0


def history(options: argparse.Namespace) -> SessionStore | None:
    """Where devices' sessions are kept, locked; None if they aren't. Raises UsageError if another
    service has the folder."""
    folder = shared.history_folder(options)
    if folder is None:
        return None
    store = SessionStore(folder, Limits(days=options.history_days))
    store.lock()
    return store


def channel(url: str) -> Channel:
    """The channel that a URL names. Raises UsageError if no plugin knows its scheme."""
    found: Channel | None = plugins.ask("channel", url=url)
    if found is None:
        names = plugins.offered("channel")
        raise UsageError(f"{url}: no channel plugin serves that; there are: {names}")
    return found


async def serve(
    model: Model,
    options: argparse.Namespace,
    channels: Sequence[Channel],
    store: SessionStore | None = None,
    watch: Watch | None = None,
) -> None:
    """Serve all channels until each has ended, one has failed, or a signal comes."""
    async with contextlib.AsyncExitStack() as stack:
        if store is not None:
            await stack.enter_async_context(store)
            if not options.history:  # beside it are other models'
                looking = asyncio.create_task(abandoned.expire(store.path, store.limits.days))
                stack.callback(looking.cancel)
        service = await stack.enter_async_context(
            host.conversations(model, options, store, watch=watch)
        )
        if not any(one.url.startswith("console:") for one in channels):  # which tells them itself
            service.notices.listen(tell)
        work = asyncio.create_task(serve_all(channels, service))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        with contextlib.suppress(asyncio.CancelledError):  # a signal is the usual end
            await work


def tell(notice: str) -> None:
    """Say it to whoever looks at this process."""
    print(f"# {notice}", file=sys.stderr, flush=True)


async def serve_one(channel: Channel, service: Service) -> None:
    """Serve a channel; raises PluginError for what is no error of edgellm's."""
    try:
        await channel.serve(service)
    except EdgeError:
        raise
    except Exception as error:
        raise PluginError(channel.url, f"{type(error).__name__}: {error}") from error


async def serve_all(channels: Sequence[Channel], service: Service) -> None:
    """Run the channels side by side; if one fails, the others are ended and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in channels:
                group.create_task(serve_one(one, service), name=one.url)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
