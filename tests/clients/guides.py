"""The guides: every block of code in gateway/guides is run as it stands there, in order, and prints what the guide says.

A block is `sh`, `python` or `ts`; a `text` block after it is its output, in which `...` stands for anything. TypeScript is
checked by its compiler, strictly, against the types that the gateway ships, and run by Node. Blocks of one guide share a folder.
Only the gateway's address is another one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tap import Checks

HERE = Path(__file__).resolve().parent
GUIDES = HERE.parent.parent / "gateway/guides"
MODULES = HERE / "node/node_modules"
# A block waits for an execution at most.
WITHIN = 60
OPTIONS = {
    "strict": True, "target": "es2022", "module": "nodenext", "moduleResolution": "nodenext", "lib": ["es2022", "dom"], "types": [],
    "skipLibCheck": True, "noEmitOnError": True,
}
# Node before 22 has no WebSocket of its own.
SOCKET = "import WebSocket from 'ws'; globalThis.WebSocket ??= WebSocket;\n"


def blocks(path):
    """Language, code and expected output of each block, with the line it begins at."""
    found, inside = [], None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = re.fullmatch(r"```(\w*)", line)
        if inside is None and fence:
            inside = (fence[1], number, [])
        elif inside is not None and line == "```":
            language, at, lines = inside
            inside = None
            if language == "text" and found:
                found[-1]["output"] = "\n".join(lines)
            elif language != "text":
                found.append({"language": language, "line": at, "code": "\n".join(lines) + "\n", "output": None})
        elif inside is not None:
            inside[2].append(line)
    if inside is not None:
        raise AssertionError(f"{path.name}:{inside[1]}: a block without end")
    return found


def moved(code):
    """With the address of this gateway."""
    gateway = os.environ["HALTLINE_GATEWAY"].removeprefix("http://")
    return code.replace("127.0.0.1:8001", gateway)


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WITHIN)
    if done.returncode != 0:
        raise AssertionError(f"exit code {done.returncode}: {done.stdout[-800:]} {done.stderr[-800:]}")
    return done.stdout


def play(block, folder):
    name = f"block{block['line']}"
    match block["language"]:
        case "sh":
            return run(["sh", "-e", "-c", moved(block["code"])], folder)
        case "python":
            (folder / f"{name}.py").write_text(moved(block["code"]))
            return run([sys.executable, f"{name}.py"], folder)
        case "ts":
            (folder / f"{name}.ts").write_text(moved(block["code"]))
            (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "files": [f"{name}.ts"]}))
            run(["node", str(MODULES / "typescript/bin/tsc"), "-p", "."], folder)
            return run(["node", "--import", "./socket.mjs", f"{name}.js"], folder)
        case other:
            raise AssertionError(f"a block of `{other}`: nobody runs it")


def says(output, wanted):
    """Whether the output is what the guide says; spaces at ends of lines do not count."""
    tidy = lambda text: "\n".join(line.rstrip() for line in text.strip().splitlines())
    pattern = ".*".join(map(re.escape, tidy(wanted).split("...")))
    if not re.fullmatch(pattern, tidy(output), re.DOTALL):
        raise AssertionError(f"printed {tidy(output)!r}, the guide says {tidy(wanted)!r}")


def one(block, folder):
    output = play(block, folder)
    if block["output"] is not None:
        says(output, block["output"])


checks = Checks()
for guide in sorted(GUIDES.glob("*.md")):
    with tempfile.TemporaryDirectory(prefix="haltline-guide-") as name:
        folder = Path(name)
        os.symlink(MODULES, folder / "node_modules")
        (folder / "package.json").write_text('{"type": "module"}')
        (folder / "socket.mjs").write_text(SOCKET)
        for block in blocks(guide):
            checks.check(f"{guide.name}:{block['line']} {block['language']}", lambda: one(block, folder))
if not shutil.which("node"):
    checks.note("node", "is missing")
checks.end()
