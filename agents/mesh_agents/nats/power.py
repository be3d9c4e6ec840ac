"""What is left of acknowledged messages when the machine of a nats-server loses power.

JetStream acknowledges what it has written, and calls fsync every ``sync_interval``: two minutes,
unless its configuration says otherwise; ``always`` is before it acknowledges. A client cannot ask
for that: the account's information does not have it, and ``$SYS.REQ.SERVER.PING.JSZ`` answers the
system account alone. The server's monitoring endpoint tells it, if we are told where that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http.client import HTTPException
from urllib.request import urlopen

import msgspec

from mesh.ports import Check

__all__ = ["check_power_loss"]

_ADVICE = "jetstream { sync_interval: always } in its configuration"
_SECOND = 1_000_000_000


class _Config(msgspec.Struct):
    sync_interval: int = 120 * _SECOND
    sync_always: bool = False


class _JetStream(msgspec.Struct):
    config: _Config | None = None


_jsz = msgspec.json.Decoder(_JetStream).decode


async def check_power_loss(
    subject: str, monitors: Sequence[str], replicas: int, timeout: float
) -> list[Check]:
    """A finding for each monitoring endpoint, or one that none is known. ``replicas`` is how many
    servers have each job, ``timeout`` the seconds for an answer."""
    if not monitors:
        unknown = (
            "what is lost then cannot be asked by a client: by default what was acknowledged in "
            f"the last 2 minutes, nothing with {_ADVICE}{_kept_by(replicas)}. To have it checked "
            "here, add ?monitor=http://HOST:8222 to the agent's URL; by hand: curl HOST:8222/jsz"
        )
        return [Check(subject, True, unknown)]
    calls = (asyncio.to_thread(_ask, url, timeout) for url in monitors)
    answers = await asyncio.gather(*calls)
    return [
        _finding(f"{subject}, {url}" if len(monitors) > 1 else subject, url, answer, replicas)
        for url, answer in zip(monitors, answers, strict=True)
    ]


def _ask(url: str, timeout: float) -> _Config | str:
    """The configuration of its JetStream, or why that is not known."""
    try:
        with urlopen(f"{url.rstrip('/')}/jsz", timeout=timeout) as answer:
            config = _jsz(answer.read()).config
    except (OSError, HTTPException, ValueError, msgspec.MsgspecError) as error:
        return str(error) or type(error).__name__
    return config or "its JetStream is not enabled"


def _finding(subject: str, url: str, answer: _Config | str, replicas: int) -> Check:
    if isinstance(answer, str):
        advice = "correct monitor=... in the agent's URL, or let the server listen: http_port: 8222"
        return Check(subject, False, f"{url} does not say what is lost then: {answer}", advice)
    if answer.sync_always:
        return Check(
            subject, True, "sync_interval is always: nothing that was acknowledged is lost"
        )
    seconds = answer.sync_interval / _SECOND
    lost = f"sync_interval is {seconds:g} s: what was acknowledged since may be lost"
    if replicas > 1:
        return Check(subject, True, lost + _kept_by(replicas))
    return Check(subject, False, lost, f"{_ADVICE}, and restart it")


def _kept_by(replicas: int) -> str:
    if replicas < 2:
        return ""
    most = replicas // 2 + 1
    return (
        f"; {most} of {replicas} servers have each job before it is acknowledged, so that it takes "
        f"{most} that lose power together"
    )
