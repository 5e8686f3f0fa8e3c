"""nats-py: a program that knows NATS and nothing of Haltline but its names."""

import asyncio
import json
import os
import sys
from pathlib import Path

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import tap  # noqa: E402
from tap import Checks, equal, true  # noqa: E402


class Part:
    def __init__(self, js):
        self.js = js
        self.id = None

    async def streams(self):
        infos = await self.js.streams_info()
        names = {i.config.name for i in infos}
        true({"haltline_events", "haltline_tasks", "KV_haltline_executions", "KV_haltline_control"} <= names, f"only {names}")
        true(all(i.config.description for i in infos), "a stream has no description")

    async def record(self):
        await asyncio.to_thread(tap.put, tap.chain("natspy"))
        self.id = await asyncio.to_thread(tap.run, "natspy")
        bucket = await self.js.key_value("haltline_executions")
        record = json.loads((await bucket.get(self.id)).value)
        equal((record["status"], record["nodes_completed"], record["event_count"]), ("completed", 3, 8), "record")

    async def events(self):
        config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
        sub = await self.js.subscribe(f"haltline.events.*.*.{self.id}", stream="haltline_events", ordered_consumer=True, config=config)
        messages, events, last = [], [], []
        while len(events) < len(tap.KINDS):
            messages.append(await sub.next_msg(timeout=10))
            # Events that were told in the same instant share a message, a line each.
            told = [json.loads(line) for line in messages[-1].data.splitlines()]
            events += told
            # An end that is told with others does not name their message.
            last.append(told[-2] if len(told) > 1 and "event_count" in told[-1] else told[-1])
        await sub.unsubscribe()
        tap.complete(events)
        # A message has the id of its last event but the end. A result that ends its task says so there: it may repeat an
        # event that only told it.
        wanted = [e["id"] + ("/end" if "task_events" in e else "") for e in last]
        equal([m.headers["Nats-Msg-Id"] for m in messages], wanted, "message ids")

    async def halt(self):
        bucket = await self.js.key_value("haltline_control")
        value = {"state": "halt", "reason": "nats-py says so", "by": "nats-py"}
        revision = await bucket.put("halt.global", json.dumps(value).encode())
        problem = await asyncio.to_thread(tap.refused, "natspy")
        equal((problem["reason"], problem["by"], problem["revision"]), ("nats-py says so", "nats-py", revision), "the refusal")

    async def resume(self):
        bucket = await self.js.key_value("haltline_control")
        before = (await bucket.get("halt.global")).revision
        value = {"state": "normal", "reason": "over", "by": "nats-py", "replaces": before}
        await bucket.update("halt.global", json.dumps(value).encode(), last=before)
        await asyncio.to_thread(tap.run, "natspy")


async def main():
    checks = Checks()
    client = await nats.connect(os.environ["HALTLINE_NATS_URL"])
    part = Part(client.jetstream())
    for name, test in [
        ("lists streams and buckets, all described", part.streams),
        ("reads a record", part.record),
        ("reads 8 events in order with an ordered consumer", part.events),
        ("sets a halt with a reason; the next submission is refused with it", part.halt),
        ("sets normal; the next submission is good", part.resume),
    ]:
        await checks.acheck(name, test)
    await client.close()
    checks.end()


asyncio.run(main())
