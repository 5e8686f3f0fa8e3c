#!/usr/bin/env python3
"""Runs clients that nobody here wrote against a real Haltline: the nats CLI, nats-py, nats.go, ws,
websockets, Socket.IO's own clients, curl and a browser; and the code in the guides.

Starts `haltline dev` on free ports, runs one part after another and ends what it started. Prints TAP
lines and, last, `N passed, N failed`. A tool that is missing is a failure: a client test that did not
run has proved nothing.

  HALTLINE_BIN             the haltline binary (default: the dev build, else the release build)
  HALTLINE_NATS_CLI        the nats CLI (default: `nats` on the PATH)
  HALTLINE_CHROMIUM        the browser (default: chromium on the PATH)
  HALTLINE_SCREENSHOTS     folder for pictures of the page (default: none are taken)

Arguments name the parts to run; without any, all run.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tap import line

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# `dev` may have to fetch nats-server first.
READY = 240
# The browser looks at a dozen views in both themes and two sizes.
PART = 420


def binary():
    named = os.environ.get("HALTLINE_BIN")
    for path in [named] if named else [ROOT / "target/debug/haltline", ROOT / "target/release/haltline"]:
        if os.access(path, os.X_OK):
            return str(Path(path).resolve())
    sys.exit("no haltline binary: run `cargo build -p haltline-cli`, or name one by HALTLINE_BIN")


def tool(variable, *names):
    named = os.environ.get(variable)
    if named:
        return named if os.access(named, os.X_OK) else None
    return next((found for found in map(shutil.which, names) if found), None)


def end(process, grace=15):
    """Ends a process that was started here and whatever it started: it leads a group of its own."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


class Dev:
    """`haltline dev` on free ports."""

    def __init__(self, haltline, folder):
        self.log = open(folder / "dev.log", "w+")
        # Settings of whoever runs this must not lead to another installation.
        env = {k: v for k, v in os.environ.items() if not k.startswith("HALTLINE_") or k in ("HALTLINE_NATS_SERVER", "HALTLINE_CACHE")}
        config = folder / "haltline.toml"
        config.write_text("[gateway]\nsocketio = true\n")
        command = [haltline, "dev", "--json", "--config", str(config), "--port", "0", "--nats-port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=env, start_new_session=True)
        self.ready = None

    def wait(self):
        def read():
            for text in self.process.stdout:
                if self.ready is None and text.startswith("{"):
                    self.ready = json.loads(text)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        end_at = time.monotonic() + READY
        while self.ready is None:
            if self.process.poll() is not None or time.monotonic() > end_at:
                self.log.seek(0)
                sys.exit("haltline dev did not become ready:\n" + self.log.read()[-4000:])
            time.sleep(0.05)
        return self.ready


class Tally:
    """Counts TAP lines."""

    def __init__(self):
        self.passed = self.failed = 0

    def take(self, part, text):
        if text.startswith("ok - "):
            self.passed += 1
            line(f"ok {self.passed + self.failed} - {part}: {text[5:]}")
        elif text.startswith("not ok - "):
            self.failed += 1
            line(f"not ok {self.passed + self.failed} - {part}: {text[9:]}")
        else:
            line(f"# {part}: {text}")

    def fail(self, part, why):
        self.take(part, f"not ok - {why}")


def play(tally, part, command, env):
    """Runs one part; it must say `end`, or it broke off."""
    if command[0] is None:
        return tally.fail(part, "a tool is missing # install it; a part that does not run has not passed")
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=HERE, start_new_session=True)
    except OSError as e:
        return tally.fail(part, f"cannot be started # {e}")
    timer = threading.Timer(PART, end, [process, 0])
    timer.start()
    ended, counted = False, tally.passed + tally.failed
    for text in process.stdout:
        text = text.rstrip()
        if text == "end":
            ended = True
        elif text:
            tally.take(part, text)
    code = process.wait()
    timer.cancel()
    end(process, 0)
    if not ended:
        tally.fail(part, f"broke off with exit code {code}")
    elif tally.passed + tally.failed == counted:
        tally.fail(part, "checked nothing")


def main():
    haltline, nats = binary(), tool("HALTLINE_NATS_CLI", "nats")
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="haltline-clients-") as folder:
        folder = Path(folder)
        dev = Dev(haltline, folder)
        try:
            at = dev.wait()
            env = {k: v for k, v in os.environ.items() if not k.startswith("HALTLINE_") or k == "HALTLINE_SCREENSHOTS"}
            env.update(
                HALTLINE_BIN=haltline,
                HALTLINE_NATS_URL=at["nats"],
                HALTLINE_GATEWAY=at["gateway"],
                HALTLINE_WS=at["ws"],
                HALTLINE_NATS_CLI=nats or "",
                HALTLINE_CHROMIUM=tool("HALTLINE_CHROMIUM", "chromium", "chromium-browser", "google-chrome") or "",
                # A context that someone selected for the nats CLI would override the address.
                NATS_CONTEXT="",
                XDG_CONFIG_HOME=str(folder),
                PYTHONUNBUFFERED="1",
                NO_PROXY="127.0.0.1,localhost",
                no_proxy="127.0.0.1,localhost",
            )
            node, go = shutil.which("node"), shutil.which("go")
            parts = {
                "nats CLI": [nats and sys.executable, str(HERE / "nats_cli.py")],
                "nats-py": [sys.executable, str(HERE / "python/nats_py.py")],
                "websockets": [nats and sys.executable, str(HERE / "python/ws_client.py")],
                "node": [nats and node, str(HERE / "node/socket.mjs")],
                "haltline.js": [nats and node, str(HERE / "node/client.mjs")],
                "socket.io-client": [nats and node, str(HERE / "node/socketio.mjs")],
                "python-socketio": [nats and sys.executable, str(HERE / "python/socketio_client.py")],
                "curl": [nats and shutil.which("curl") and sys.executable, str(HERE / "python/events.py")],
                "dashboard": [node, str(HERE / "node/dashboard.mjs")],
                "guides": [node and sys.executable, str(HERE / "guides.py")],
                "nats.go": [go, "run", "-C", str(HERE / "go"), "."],
                "browser": [nats and env["HALTLINE_CHROMIUM"] and node or None, str(HERE / "node/browser.mjs")],
                # Last: it starts and ends what it likes.
                "contract": [sys.executable, str(HERE / "python/contract.py")],
            }
            chosen = sys.argv[1:] or list(parts)
            for part in chosen:
                began = time.monotonic()
                play(tally, part, parts[part], env)
                line(f"# {part}: {time.monotonic() - began:.1f} s")
            if dev.process.poll() is not None:
                tally.fail("dev", "haltline dev ended by itself")
            if tally.failed:
                dev.log.seek(0)
                for text in dev.log.read().splitlines()[-20:]:
                    line(f"# dev: {text}")
        finally:
            end(dev.process)
    line(f"1..{tally.passed + tally.failed}")
    line(f"{tally.passed} passed, {tally.failed} failed")
    sys.exit(1 if tally.failed or not tally.passed else 0)


if __name__ == "__main__":
    main()
