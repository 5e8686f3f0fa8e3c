#!/usr/bin/env python3
"""Reads the metrics of a running installation with Prometheus' own tool: format, names, help texts.

  HALTLINE_BIN   the haltline command
  PROMTOOL       promtool
"""

import json
import os
import signal
import subprocess
import sys
import urllib.request

# Everything in one process: its metrics are those of all services.
command = [os.environ["HALTLINE_BIN"], "dev", "--port", "0", "--nats-port", "0", "--json"]
dev = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
try:
    line = dev.stdout.readline()
    if not line:
        sys.exit("haltline dev did not start")
    text = urllib.request.urlopen(json.loads(line)["gateway"] + "/metrics", timeout=20).read()
finally:
    dev.send_signal(signal.SIGTERM)
    dev.wait(timeout=60)
series = sum(1 for line in text.splitlines() if not line.startswith(b"#"))
if b"haltline_fleet_up 1\n" not in text:
    sys.exit("the gateway could not ask about the installation:\n" + text.decode())
checked = subprocess.run([os.environ["PROMTOOL"], "check", "metrics"], input=text)
print(f"{series} series")
sys.exit(checked.returncode)
