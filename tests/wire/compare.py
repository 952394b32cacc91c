"""What is wrong with a wire that we declare, given the wires of the clients that shall speak it.

Pure: wires as `describe.py` writes them go in, a list of differences comes out.

The rules, for each message, field, enum value and method that we declare:
- it exists in at least one client version, or it is our invention;
- where a version has it, number, name, type and repetition agree: these decide the bytes on the wire;
- where a version uses its number for another name, or its name for another number, the two conflict;
- `optional` and `oneof` do not change the bytes but what "absent" means; versions moved fields in and out of both,
  so ours has to agree with the newest version that has the field.
A version that lacks a thing is no difference: we serve the union of all versions.

A difference may be allowed, by its subject, with a reason (`allowed.py`). An allowance that nothing needs is itself a
difference, so that the list cannot rot.
"""

from dataclasses import dataclass, field


@dataclass
class Report:
    differences: list = field(default_factory=list)
    allowed: list = field(default_factory=list)
    # version -> kind of thing -> how many of the declared things it has, and agrees on
    counts: dict = field(default_factory=dict)
    declared: dict = field(default_factory=dict)


class Comparison:
    def __init__(self, ours, clients, allowed):
        self.ours, self.clients, self.allowances = ours, clients, allowed
        self.used = set()
        self.report = Report(counts={version: {} for version in clients})

    def differ(self, subject, text):
        if subject in self.allowances:
            self.used.add(subject)
            self.report.allowed.append(f"{subject}: {text} (allowed: {self.allowances[subject]})")
        else:
            self.report.differences.append(f"{subject}: {text}")

    def declare(self, kind):
        self.report.declared[kind] = self.report.declared.get(kind, 0) + 1

    def count(self, version, kind):
        self.report.counts[version][kind] = self.report.counts[version].get(kind, 0) + 1

    def run(self):
        for name, fields in self.ours["messages"].items():
            self.one(name, "messages", "message", lambda wire, name=name: wire["messages"].get(name))
            for field_name, ours in fields.items():
                self.field(name, field_name, ours)
        for name, values in self.ours["enums"].items():
            self.one(name, "enums", "enum", lambda wire, name=name: wire["enums"].get(name))
            for value_name, number in values.items():
                self.enum_value(name, value_name, number)
        for name, ours in self.ours["methods"].items():
            self.method(name, ours)
        for subject in sorted(set(self.allowances) - self.used):
            self.report.differences.append(f"{subject}: is allowed to differ in `allowed.py`, but does not")
        return self.report

    def one(self, subject, kind, noun, find):
        """The versions that have `subject`, newest first; none of them is a difference."""
        self.declare(kind)
        having = []
        for version, wire in self.clients.items():
            theirs = find(wire)
            if theirs is not None:
                having.append((version, theirs))
                self.count(version, kind)
        if not having:
            self.differ(subject, f"no client version has this {noun}")
        return having

    def field(self, message, name, ours):
        subject = f"{message}.{name}"
        self.declare("fields")
        newest = None
        for version, wire in self.clients.items():
            fields = wire["messages"].get(message, {})
            theirs = fields.get(name)
            holder = next((n for n, f in fields.items() if f["number"] == ours["number"]), None)
            if holder is not None and holder != name:
                self.differ(subject, f"number {ours['number']} is `{holder}` in {version}")
            if theirs is None:
                continue
            newest = newest or (version, theirs)
            if self.agrees(subject, version, ours, theirs):
                self.count(version, "fields")
        if newest is None:
            self.differ(subject, f"no client version has this field (declared with number {ours['number']})")
        else:
            self.presence(subject, ours, *newest)

    def agrees(self, subject, version, ours, theirs):
        """Whether all that decides the bytes is equal."""
        wrong = [key for key in ("number", "type", "repeated") if ours[key] != theirs[key]]
        for key in wrong:
            self.differ(subject, f"{key} is {ours[key]} here and {theirs[key]} in {version}")
        return not wrong

    def presence(self, subject, ours, version, theirs):
        for key in ("optional", "oneof"):
            if ours[key] != theirs[key]:
                self.differ(subject, f"{key} is {ours[key]} here and {theirs[key]} in {version}")

    def enum_value(self, enum, name, number):
        subject = f"{enum}.{name}"
        having = self.one(subject, "enum values", "enum value", lambda wire: wire["enums"].get(enum, {}).get(name))
        for version, theirs in having:
            if theirs != number:
                self.differ(subject, f"is {number} here and {theirs} in {version}")
        for version, wire in self.clients.items():
            values = wire["enums"].get(enum, {})
            others = [n for n, v in values.items() if v == number]
            # Two names of one number are aliases, when the version has ours among them.
            if others and name not in others:
                self.differ(subject, f"{number} is `{others[0]}` in {version}")

    def method(self, name, ours):
        for version, theirs in self.one(name, "methods", "method", lambda wire: wire["methods"].get(name)):
            for key in ours:
                if ours[key] != theirs[key]:
                    self.differ(name, f"{key.replace('_', ' ')} is {ours[key]} here and {theirs[key]} in {version}")


def compare(ours, clients, allowed):
    """`clients` maps a version to its wire, newest version first."""
    return Comparison(ours, clients, allowed).run()
