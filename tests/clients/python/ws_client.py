"""websockets (Python): the event protocol as another library speaks it."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from websockets.asyncio.client import connect

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import tap  # noqa: E402
from tap import Checks, equal  # noqa: E402


class Socket:
    def __init__(self, ws):
        self.ws = ws

    async def send(self, **frame):
        await self.ws.send(json.dumps(frame))

    async def next(self, kind, test=lambda f: True):
        """The next frame of that kind; others are passed over."""
        async with asyncio.timeout(15):
            while True:
                frame = json.loads(await self.ws.recv())
                if frame["t"] == kind and test(frame):
                    return frame


def opened():
    return connect(os.environ["HALTLINE_WS"], subprotocols=["haltline.v1.json"], proxy=None)


async def greeted(ws):
    socket = Socket(ws)
    await socket.send(t="hello", v=1, client={"name": "websockets"})
    return socket, await socket.next("welcome")


async def greets():
    async with opened() as ws:
        equal(ws.subprotocol, "haltline.v1.json", "subprotocol")
        _, welcome = await greeted(ws)
        equal(welcome["halt"]["state"], "normal", "flag")


async def replays():
    await asyncio.to_thread(tap.put, tap.chain("pyws"))
    execution = await asyncio.to_thread(tap.run, "pyws")
    async with opened() as ws:
        socket, _ = await greeted(ws)
        await socket.send(t="sub", rid=1, id="s", filter={"execution": [execution]}, **{"from": {"seq": 1}})
        equal((await socket.next("subd"))["rid"], 1, "rid")
        frames = [await socket.next("ev") for _ in tap.KINDS]
        equal([f["s"]["s"] for f in frames], list(range(1, 9)), "counters")
        tap.complete([f["d"] for f in frames])
        await socket.next("live")


async def unsubscribes():
    async with opened() as ws:
        socket, _ = await greeted(ws)
        await socket.send(t="sub", rid=1, id="s", filter={"workflow": ["pyws"]})
        await socket.next("live")
        await socket.send(t="unsub", rid=2, id="s")
        equal((await socket.next("unsubd"))["rid"], 2, "rid")
        # A second one goes on behind it: had the first stayed, its events would come before.
        await socket.send(t="sub", rid=3, id="t", filter={"workflow": ["pyws"]})
        await socket.next("live")
        await asyncio.to_thread(tap.run, "pyws")
        first = await socket.next("ev")
        equal(first["s"], {"t": 1}, "subscriptions of an event")


async def halts():
    async with opened() as ws:
        socket, welcome = await greeted(ws)
        put = [os.environ["HALTLINE_NATS_CLI"], "--server", os.environ["HALTLINE_NATS_URL"], "kv", "put", "haltline_control", "halt.global", "HALT"]
        await asyncio.to_thread(subprocess.run, put, check=True, stdout=subprocess.DEVNULL, timeout=30)
        try:
            frame = await socket.next("halt", lambda f: f["rev"] > welcome["halt"]["rev"])
            equal((frame["state"], frame["sure"]), ("halt", True), "frame")
            await asyncio.to_thread(tap.refused, "pyws")
        finally:
            status, _ = await asyncio.to_thread(tap.http, "PUT", "/v1/control/global", {"state": "normal", "reason": "over", "by": "websockets"})
        equal(status, 200, "resume by REST")
        after = await socket.next("halt", lambda f: f["rev"] > frame["rev"])
        equal((after["state"], after["by"]), ("normal", "websockets"), "frame")


async def main():
    checks = Checks()
    await checks.acheck("hello and welcome", greets)
    await checks.acheck("replays a run: 8 events in order, counters without holes", replays)
    await checks.acheck("unsub ends a subscription", unsubscribes)
    await checks.acheck("a halt from the nats CLI arrives, and the end of it", halts)
    checks.end()


asyncio.run(main())
