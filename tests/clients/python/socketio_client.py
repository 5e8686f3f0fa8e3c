"""python-socketio (PyPI): a bot's dashboard of the replaced server against the gateway."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import socketio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import tap  # noqa: E402
from tap import Checks, equal  # noqa: E402

GATEWAY = os.environ["HALTLINE_GATEWAY"]


class Client:
    def __init__(self):
        self.sio = socketio.AsyncClient(reconnection=False)
        self.seen = []
        self.changed = asyncio.Condition()
        for name in ["connected", "recent_events", "subscribed", "unsubscribed", "workflow_event", "state_response", "stats_update", "auth_response", "error", "emergency_state"]:
            self.sio.on(name, self.taker(name))

    def taker(self, name):
        async def take(data=None):
            async with self.changed:
                self.seen.append((name, data))
                self.changed.notify_all()

        return take

    def all(self, name):
        return [data for n, data in self.seen if n == name]

    async def wait(self, name, count=1, test=lambda data: True):
        async with asyncio.timeout(15), self.changed:
            while len([d for d in self.all(name) if test(d)]) < count:
                await self.changed.wait()
        return [d for d in self.all(name) if test(d)]


async def opened(transport):
    client = Client()
    await client.sio.connect(GATEWAY, transports=[transport])
    await client.wait("connected")
    return client


async def follows(transport):
    client = await opened(transport)
    await client.sio.emit("subscribe_workflow", {"workflow_id": "pysio"})
    await client.wait("subscribed")
    names = [n for n, _ in client.seen if n in ("recent_events", "subscribed")]
    equal(names, ["recent_events", "subscribed"], "order")
    recent = client.all("recent_events")[0]
    tap.complete(recent["events"][-8:])
    execution = await asyncio.to_thread(tap.run, "pysio")
    events = await client.wait("workflow_event", 8)
    tap.complete(events)
    equal({e["execution_id"] for e in events}, {execution}, "executions")
    await client.sio.emit("unsubscribe_workflow", {"workflowId": "pysio"})
    await client.wait("unsubscribed")
    await client.sio.disconnect()


async def asks():
    client = await opened("websocket")
    await client.sio.emit("request_state", {"type": "bot", "id": "bot-pysio"})
    state = (await client.wait("state_response"))[0]
    equal((state["type"], state["id"], state["state"]["latest"]["status"]), ("bot", "bot-pysio", "completed"), "state")
    await client.sio.emit("request_stats")
    await client.wait("stats_update")
    await client.sio.emit("authenticate", {})
    equal((await client.wait("auth_response"))[0]["success"], True, "where nobody needs a token")
    await client.sio.disconnect()


async def halts():
    client = await opened("websocket")
    await client.wait("emergency_state", 1, lambda f: f["state"] == "normal")
    put = [os.environ["HALTLINE_NATS_CLI"], "--server", os.environ["HALTLINE_NATS_URL"], "kv", "put", "haltline_control", "halt.global", "HALT"]
    await asyncio.to_thread(subprocess.run, put, check=True, stdout=subprocess.DEVNULL, timeout=30)
    try:
        await client.wait("emergency_state", 1, lambda f: f["state"] == "halt" and f["sure"])
    finally:
        status, _ = await asyncio.to_thread(tap.http, "PUT", "/v1/control/global", {"state": "normal", "reason": "over", "by": "pysio"})
    equal(status, 200, "resume by REST")
    await client.sio.disconnect()


async def main():
    checks = Checks()
    await asyncio.to_thread(tap.put, tap.chain("pysio"))
    await asyncio.to_thread(tap.run, "pysio")
    for transport in ["websocket", "polling"]:
        await checks.acheck(f"{transport}: recent events, subscribed, then events as they happen", lambda: follows(transport))
    await checks.acheck("state, stats and authentication", asks)
    await checks.acheck("a halt from the nats CLI arrives", halts)
    checks.end()


asyncio.run(main())
