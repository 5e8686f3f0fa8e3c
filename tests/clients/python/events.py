"""curl on the event stream, as PROTOCOL.md shows it: events, cursors, coming back, halts."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import tap  # noqa: E402
from tap import Checks, equal  # noqa: E402

GATEWAY = os.environ["HALTLINE_GATEWAY"]
CURL = shutil.which("curl")


class Stream:
    """curl -N on /v1/events; its messages as (name, id, data)."""

    def __init__(self, query, *flags):
        self.process = subprocess.Popen([CURL, "-sN", *flags, f"{GATEWAY}/v1/events?{query}"], stdout=subprocess.PIPE, text=True)
        self.messages = []
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        name, cursor, data = "", None, None
        for line in self.process.stdout:
            line = line.rstrip("\n")
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("id: "):
                cursor = line[4:]
            elif line.startswith("data: "):
                data = json.loads(line[6:])
            elif not line and data is not None:
                self.messages.append((name, cursor, data))
                name, cursor, data = "", None, None

    def wait(self, name, count=1, test=lambda data: True):
        end = time.monotonic() + 15
        while time.monotonic() < end:
            found = [m for m in self.messages if m[0] == name and test(m[2])]
            if len(found) >= count:
                return found
            time.sleep(0.02)
        raise AssertionError(f"not {count} of {name or 'events'} within 15 s: {self.messages[-3:]}")

    def close(self):
        self.process.kill()
        self.process.wait()


def follows():
    stream = Stream("workflow=cur*&type=*_started&type=*_completed")
    stream.wait("live")
    tap.run("curled")
    events = stream.wait("", 8)
    tap.complete([data for _, _, data in events])
    stream.close()
    # Where it was, by Last-Event-ID.
    again = Stream("workflow=curled", "-H", f"Last-Event-ID: {events[3][1]}")
    again.wait("live")
    # Events that were stored together come again together: those that were seen are dropped by id.
    seen = {d["id"] for _, _, d in events[:4]}
    fresh = [d["id"] for name, _, d in again.messages if name == "" and d["id"] not in seen]
    equal(fresh, [d["id"] for _, _, d in events[4:]], "what follows")
    equal(again.wait("subd")[0][2]["recovered"], True, "recovered")
    again.close()


def gaps():
    stream = Stream("workflow=curled&from=cursor:00000000.9.-&if_gap=snapshot")
    equal(stream.wait("gap")[0][2]["reason"], "epoch", "reason")
    equal(stream.wait("snap")[0][2]["items"][0]["workflow_id"], "curled", "state")
    stream.close()
    for query, field in [("nothing=1", "query"), ("from=last:9999", "from"), ("filter=%7B", "filter")]:
        answer = subprocess.run([CURL, "-s", f"{GATEWAY}/v1/events?{query}"], capture_output=True, text=True, timeout=20).stdout
        equal((json.loads(answer)["status"], json.loads(answer)["field"]), (400, field), query)
    answer = subprocess.run([CURL, "-s", f"{GATEWAY}/v1/events?from=cursor:00000000.9.-&if_gap=reject"], capture_output=True, text=True, timeout=20).stdout
    equal(json.loads(answer)["status"], 410, "a place that is gone")
    answer = subprocess.run([CURL, "-s", "-H", "Origin: https://elsewhere.example", f"{GATEWAY}/v1/events"], capture_output=True, text=True, timeout=20).stdout
    equal(json.loads(answer)["status"], 403, "a page of another origin")


def halts():
    stream = Stream("type=nothing")
    stream.wait("halt", 1, lambda f: f["state"] == "normal")
    put = [os.environ["HALTLINE_NATS_CLI"], "--server", os.environ["HALTLINE_NATS_URL"], "kv", "put", "haltline_control", "halt.global", "HALT"]
    subprocess.run(put, check=True, stdout=subprocess.DEVNULL, timeout=30)
    try:
        stream.wait("halt", 1, lambda f: f["state"] == "halt" and f["sure"])
    finally:
        status, _ = tap.http("PUT", "/v1/control/global", {"state": "normal", "reason": "over", "by": "curl"})
    equal(status, 200, "resume by REST")
    stream.close()


checks = Checks()
tap.put(tap.chain("curled"))
checks.check("events with their cursors; back by Last-Event-ID", follows)
checks.check("a place that is gone is told; what is wrong is refused", gaps)
checks.check("a halt from the nats CLI arrives", halts)
checks.end()
