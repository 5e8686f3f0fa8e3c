#!/usr/bin/env python3
"""Checks what the workspace depends on: licences, sources, bans and known advisories.

Not cargo-audit, whose build was not done after six minutes on two busy cores; the advisory database is
the same. It is fetched by git; where that is not possible the check says so and goes on, because the
other checks need nothing from outside. Vulnerabilities fail wherever they are; a crate that is only
unmaintained fails if we depend on it directly, else it is told.

  HALTLINE_ADVISORY_DB   a checkout of the database to use instead of fetching one
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "https://github.com/rustsec/advisory-db.git"

# Licences that ask for no more than that notices are kept.
ALLOWED = {
    "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "ISC", "MIT", "MIT-0", "Unicode-3.0", "Unlicense", "Zlib",
    # Data, not code: the list of certificate authorities.
    "CDLA-Permissive-2.0",
}
BANNED = {
    "openssl-sys": "TLS is rustls: no system library to patch or to miss",
    "native-tls": "TLS is rustls",
    "aws-lc-sys": "the one crypto provider is ring; a second one doubles the binary and the build",
}
# Two versions of these would mean two runtimes, two TLS stacks or types that do not fit together.
SINGLE = {"async-nats", "axum", "bytes", "http", "hyper", "rustls", "serde", "serde_json", "tokio", "tracing"}

problems = []


def fail(text):
    problems.append(text)
    print(f"FAIL {text}")


def metadata():
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def allowed(expression):
    """Whether an SPDX expression can be satisfied by what is allowed."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    at = 0

    def word():
        return tokens[at] if at < len(tokens) else None

    def either():
        nonlocal at
        good = both()
        while word() == "OR":
            at += 1
            good = both() or good
        return good

    def both():
        nonlocal at
        good = one()
        while word() == "AND":
            at += 1
            good = one() and good
        return good

    def one():
        nonlocal at
        if word() == "(":
            at += 1
            good = either()
            at += 1
            return good
        name = tokens[at]
        at += 1
        if word() == "WITH":
            name = f"{name} WITH {tokens[at + 1]}"
            at += 2
        return name in ALLOWED

    good = either()
    return good and at == len(tokens)


def check_packages(packages):
    versions = {}
    for p in packages:
        name = f"{p['name']} {p['version']}"
        versions.setdefault(p["name"], set()).add(p["version"])
        if p["name"] in BANNED:
            fail(f"{name} is banned: {BANNED[p['name']]}")
        if p["source"] is None:
            if not Path(p["manifest_path"]).is_relative_to(ROOT):
                fail(f"{name} comes from outside the repository: {p['manifest_path']}")
            continue
        if not p["source"].startswith("registry+"):
            fail(f"{name} comes from {p['source']}: only released versions are used")
        if not p["license"]:
            fail(f"{name} names no licence")
        elif not allowed(p["license"]):
            fail(f"{name} has the licence {p['license']}, which is not on the list")
    doubles = {n: v for n, v in versions.items() if len(v) > 1}
    for name in sorted(doubles):
        if name in SINGLE:
            fail(f"{name} is there in versions {', '.join(sorted(doubles[name]))}")
    print(f"{len(packages)} packages; several versions of: {', '.join(sorted(doubles)) or 'none'}")


def key(version):
    """Sorts versions; a pre-release comes before its release."""
    core, _, pre = version.split("+")[0].partition("-")
    numbers = [int(n) for n in core.split(".")] + [0, 0]
    parts = tuple((0, int(x), "") if x.isdigit() else (1, 0, x) for x in pre.split("."))
    return (*numbers[:3], not pre, parts)


def fits(version, requirement):
    v = key(version)
    for part in requirement.split(","):
        op, wanted = re.fullmatch(r"\s*(>=|<=|>|<|=|\^|~)?\s*(\S+)\s*", part).groups()
        w = key(wanted)
        if op in (None, "^", "~"):
            given = wanted.split("-")[0].split(".")
            if op == "~":
                top = (w[0], w[1] + 1, 0) if len(given) > 1 else (w[0] + 1, 0, 0)
            elif w[0] or len(given) == 1:
                top = (w[0] + 1, 0, 0)
            elif w[1] or len(given) == 2:
                top = (0, w[1] + 1, 0)
            else:
                top = (0, 0, w[2] + 1)
            good = w <= v and v[:3] < top
        else:
            good = {">=": v >= w, "<=": v <= w, ">": v > w, "<": v < w, "=": v == w}[op]
        if not good:
            return False
    return True


def database(folder):
    named = os.environ.get("HALTLINE_ADVISORY_DB")
    if named:
        return Path(named)
    clone = ["git", "clone", "--quiet", "--depth", "1", DATABASE, folder]
    try:
        done = subprocess.run(clone, capture_output=True, text=True, timeout=90, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
    except (OSError, subprocess.TimeoutExpired) as e:
        print(f"skipped: no advisory database ({type(e).__name__})")
        return None
    if done.returncode:
        print(f"skipped: no advisory database ({done.stderr.strip().splitlines()[-1:]})")
        return None
    return Path(folder)


def check_advisories(packages, folder):
    direct = {d["name"] for p in packages if p["source"] is None for d in p["dependencies"]}
    ignored = set(tomllib.loads((ROOT / ".cargo/audit.toml").read_text())["advisories"]["ignore"])
    met, looked = set(), 0
    for p in packages:
        if p["source"] is None:
            continue
        for file in sorted((folder / "crates" / p["name"]).glob("RUSTSEC-*.md")):
            looked += 1
            advisory = tomllib.loads(file.read_text().split("```toml")[1].split("```")[0])
            about, versions = advisory["advisory"], advisory.get("versions", {})
            safe = versions.get("patched", []) + versions.get("unaffected", [])
            if about.get("withdrawn") or any(fits(p["version"], r) for r in safe):
                continue
            kind = about.get("informational", "vulnerability")
            text = f"{about['id']} ({kind}): {p['name']} {p['version']}"
            if about["id"] in ignored:
                met.add(about["id"])
                print(f"known, see .cargo/audit.toml: {text}")
            elif kind in ("unmaintained", "notice") and p["name"] not in direct:
                # Not ours to change, and no flaw: told, so that whoever uses it can be looked at.
                print(f"note: {text}")
            else:
                fail(text)
    for stale in sorted(ignored - met):
        fail(f"{stale} is ignored in .cargo/audit.toml but nothing is affected by it: remove it")
    print(f"{looked} advisories about our packages looked at")


def main():
    packages = metadata()["packages"]
    check_packages(packages)
    with tempfile.TemporaryDirectory(prefix="haltline-advisories-") as folder:
        found = database(os.path.join(folder, "db"))
        if found:
            check_advisories(packages, found)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
