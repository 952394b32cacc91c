"""Compares our `.proto` files with the descriptors inside the installed clients: `make wire-check`.

    python3 wire_check.py [--proto DIR] [--clients DIR] [VERSION ...]

Prints how much of what we declare each version has, then each difference, and fails when there is one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from allowed import ALLOWED
from compare import compare

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
VERSIONS = ["1.6.4", "1.0.5", "0.73.173", "0.63.99"]
KINDS = ["messages", "fields", "enums", "enum values", "methods"]


def describe(clients, version, *arguments):
    interpreter = clients / version / "bin" / "python"
    if not interpreter.exists():
        sys.exit(f"wire-check: no client in `{interpreter.parent.parent}`: run `scripts/setup.sh clients {version}`")
    done = subprocess.run([interpreter, HERE / "describe.py", *arguments], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def compile_protos(folder, into):
    """A descriptor set of all our files; only names and numbers matter, so comments stay out."""
    files = sorted(folder.rglob("*.proto"))
    if not files:
        sys.exit(f"wire-check: no `.proto` files below `{folder}`")
    command = ["protoc", f"--proto_path={folder}", f"--descriptor_set_out={into}", "--include_imports", *files]
    if subprocess.run(command).returncode:
        sys.exit("wire-check: protoc refused our files")


def table(report):
    """One row per kind: how many we declare, and how many of these each version has and agrees on."""
    versions = list(report.counts)
    rows = [["", "declared", *versions]]
    for kind in KINDS:
        counts = [str(report.counts[version].get(kind, 0)) for version in versions]
        rows.append([kind, str(report.declared.get(kind, 0)), *counts])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]) for row in rows]
    return "\n".join(lines)


def check(proto, clients, versions, allowed):
    with tempfile.NamedTemporaryFile(suffix=".pb") as compiled:
        compile_protos(proto, compiled.name)
        ours = describe(clients, versions[0], "set", compiled.name)
    return compare(ours, {version: describe(clients, version, "client") for version in versions}, allowed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proto", type=Path, default=REPOSITORY / "crates" / "client-protocol" / "proto")
    parser.add_argument("--clients", type=Path, default=REPOSITORY / ".dorian" / "clients")
    parser.add_argument("versions", nargs="*", default=VERSIONS, help="newest first")
    options = parser.parse_args()

    report = check(options.proto, options.clients, options.versions, ALLOWED)
    print(table(report))
    for line in report.allowed:
        print(f"allowed: {line}")
    for line in report.differences:
        print(f"difference: {line}", file=sys.stderr)
    verdict = "no difference" if not report.differences else f"{len(report.differences)} differences"
    print(f"wire-check: {verdict} from clients {', '.join(options.versions)}")
    return 1 if report.differences else 0


if __name__ == "__main__":
    sys.exit(main())
