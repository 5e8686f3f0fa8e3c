"""The nats CLI: everything that operators need without Haltline's own tools."""

import json
import os
import re
import subprocess
import tempfile

import tap
from tap import Checks, equal, true

NATS, URL, HALTLINE = os.environ["HALTLINE_NATS_CLI"], os.environ["HALTLINE_NATS_URL"], os.environ["HALTLINE_BIN"]


def command(*words, code=0):
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    if done.returncode != code:
        raise AssertionError(f"{' '.join(words[1:])}: exit code {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def nats(*words):
    return command(NATS, "--server", URL, *words)


def haltline(*words, code=0):
    return command(HALTLINE, *words, code=code)


class Part:
    def __init__(self, folder):
        self.file = os.path.join(folder, "cli.json")
        with open(self.file, "w") as f:
            # Nothing in it acts outside: it says itself that a halt ends it.
            json.dump({**tap.chain("cli"), "on_halt": "abort"}, f)
        self.id = None

    def submit(self):
        outcome = json.loads(haltline("run", self.file, "--json"))
        equal(outcome["status"], "completed", "status")
        self.id = outcome["execution_id"]

    def streams(self):
        table = nats("stream", "ls")
        for name in ("haltline_events", "haltline_tasks"):
            true(name in table, f"{name} is not in {table}")

    def buckets(self):
        table = nats("kv", "ls")
        for name in ("executions", "definitions", "control", "workers", "types", "checkpoints"):
            true(f"haltline_{name}" in table, f"haltline_{name} is not in {table}")

    def described(self):
        names = json.loads(nats("stream", "ls", "--all", "--json"))
        true(len(names) >= 8, f"only {names}")
        for name in names:
            info = json.loads(nats("stream", "info", name, "--json"))
            true(len(info["config"].get("description", "")) > 20, f"{name} has no description")

    def record(self):
        record = json.loads(nats("kv", "get", "haltline_executions", self.id, "--raw"))
        equal((record["execution_id"], record["status"], record["event_count"]), (self.id, "completed", 8), "record")
        equal(record["bot_id"], "bot-cli", "bot_id")

    def events(self):
        text = nats("sub", "--stream", "haltline_events", "--all", "--terminate-at-end", "--raw", f"haltline.events.*.*.{self.id}")
        tap.complete([json.loads(t) for t in text.splitlines() if t.startswith("{")])

    def last(self):
        text = nats("stream", "get", "haltline_events", "--last-for", f"haltline.events.*.*.{self.id}", "--json")
        true(self.id in text, text)

    def definition(self):
        found = json.loads(nats("kv", "get", "haltline_definitions", "cli.v.1", "--raw"))
        equal(len((found.get("definition") or found)["nodes"]), 3, "nodes")

    def halt(self):
        nats("kv", "put", "haltline_control", "halt.global", "HALT")
        # The very next submission, without waiting: the refusal must not need time to spread.
        error = json.loads(haltline("run", self.file, "--json", code=3))["error"]
        equal(error["code"], "EmergencyHalted", "code")
        tap.refused("cli")
        haltline("status", code=3)

    def resume(self):
        haltline("resume", "--reason", "the client test goes on")
        tap.run("cli")
        self.submit()

    def malformed(self):
        nats("kv", "put", "haltline_control", "halt.global", "nomral")
        haltline("run", self.file, code=3)
        haltline("resume", "--reason", "the client test goes on")
        self.submit()

    def deleted(self):
        nats("kv", "del", "haltline_control", "halt.global", "--force")
        haltline("run", self.file, code=3)
        haltline("resume", "--reason", "the client test goes on")
        self.submit()

    def history(self):
        text = nats("kv", "history", "haltline_control", "halt.global")
        true(len(re.findall(r"\b(PUT|DEL)\b", text)) >= 5, f"the flag's history is short: {text}")

    def quiet(self):
        """Whoever only looks must not fill the log."""
        state = lambda: json.loads(nats("stream", "info", "haltline_events", "--json"))["state"]["last_seq"]
        before = state()
        for path in ("/health", "/status", "/readyz", "/v1/workers", "/v1/executions"):
            tap.http("GET", path)
        haltline("status")
        equal(state(), before, "last sequence of the log after looking")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="haltline-cli-") as folder:
        part = Part(folder)
        for name, test in [
            ("haltline run completes", part.submit),
            ("stream ls shows the streams", part.streams),
            ("kv ls shows the buckets", part.buckets),
            ("every stream and bucket has a description", part.described),
            ("kv get reads the record", part.record),
            ("sub --stream reads the execution's 8 events in order", part.events),
            ("stream get --last-for finds its last event", part.last),
            ("kv get reads the definition", part.definition),
            ("kv put HALT: the next submission is refused, by REST (423) and command line (3)", part.halt),
            ("after resume the next submission is good", part.resume),
            ("a malformed value halts", part.malformed),
            ("a deleted key halts", part.deleted),
            ("kv history shows who did what to the flag", part.history),
            ("looking writes nothing into the log", part.quiet),
        ]:
            checks.check(name, test)
    checks.end()


if __name__ == "__main__":
    main()
