"""What the Python parts share: checks as TAP lines, bounded waits, small HTTP."""

import json
import os
import sys
import time
import urllib.error
import urllib.request

# A run of three nodes in sequence: its start and end, and start and result of every node.
KINDS = ["execution_started"] + ["node_started", "node_completed"] * 3 + ["execution_completed"]


def chain(workflow_id, node_type="static"):
    """A workflow of three nodes that need nothing outside."""
    params = {"static": {"outputs": {"x": "1"}}, "sleep": {"duration": "300ms"}}[node_type]
    nodes = [{"id": f"n{i}", "type": node_type, "params": params} for i in (1, 2, 3)]
    for before, node in zip(nodes, nodes[1:]):
        node["depends_on"] = [before["id"]]
    return {"id": workflow_id, "version": "1", "bot_id": "bot-" + workflow_id, "nodes": nodes}


def acting(workflow_id):
    """A workflow that opens risk: an order, which a halt keeps from starting."""
    order = {
        "id": "buy",
        "type": "paper_order",
        "params": {"side": "buy", "quantity": "1", "symbol": "IBM"},
        "inputs": {"market": {"input": "market"}, "signal": {"value": True}},
    }
    return {"id": workflow_id, "version": "1", "bot_id": "bot-" + workflow_id, "nodes": [order]}


def line(text):
    print(text, flush=True)


class Checks:
    """Runs checks one by one; a failed one does not keep the others from running."""

    def __init__(self):
        self.failed = 0

    def check(self, name, test):
        try:
            test()
        except Exception as e:  # whatever went wrong is the finding
            self.note(name, f"{type(e).__name__}: {e}")
        else:
            self.note(name, None)

    async def acheck(self, name, test):
        try:
            await test()
        except Exception as e:
            self.note(name, f"{type(e).__name__}: {e}")
        else:
            self.note(name, None)

    def note(self, name, problem):
        if problem is None:
            line(f"ok - {name}")
        else:
            self.failed += 1
            line(f"not ok - {name} # {' '.join(str(problem).split())[:600]}")

    def end(self):
        # The driver counts a part without this line as failed: it broke off.
        line("end")
        sys.exit(1 if self.failed else 0)


def equal(found, wanted, what="value"):
    if found != wanted:
        raise AssertionError(f"{what}: {found!r} instead of {wanted!r}")


def true(value, what):
    if not value:
        raise AssertionError(what)


def until(test, what, seconds=10):
    """Waits until `test` gives something true, and gives that."""
    end = time.monotonic() + seconds
    while True:
        value = test()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def http(method, path, body=None):
    """Status and JSON of a request to the gateway."""
    request = urllib.request.Request(
        os.environ["HALTLINE_GATEWAY"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    # The gateway is on loopback: a proxy that the environment names must not see this.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def put(definition):
    status, body = http("PUT", f"/v1/workflows/{definition['id']}", definition)
    true(status in (200, 201), f"PUT of a workflow: {status} {body}")


def run(workflow_id):
    """Runs a stored workflow to its end; its execution id."""
    status, body = http("POST", "/v1/executions?wait=20s", {"workflow_id": workflow_id})
    equal((status, body.get("status")), (200, "completed"), "a run")
    return body["execution_id"]


def refused(workflow_id):
    """Checks that a submission of a workflow that acts is refused because of a halt; one that only computes is not."""
    put(acting(f"{workflow_id}-acts"))
    status, body = http("POST", "/v1/executions", {"workflow_id": f"{workflow_id}-acts", "input": {"market": "http://127.0.0.1:9"}})
    equal((status, body.get("code")), (423, "EmergencyHalted"), "a submission during a halt")
    return body


def complete(events):
    """Checks that these are all events of a run, in order."""
    equal([e["type"] for e in events], KINDS, "types")
    equal(len({e["id"] for e in events}), len(KINDS), "distinct ids")
    equal(events[-1]["event_count"], len(KINDS), "event_count")
