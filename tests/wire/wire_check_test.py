"""`make wire-check` must fail when something that we declare is wrong: shown on copies of our real files, each with
one thing changed, and on small made-up wires. Needs only the standard library; run by `make wire-check`."""

import re
import shutil
import tempfile
import unittest
from pathlib import Path

from allowed import ALLOWED
from compare import compare
from wire_check import REPOSITORY, VERSIONS, check

PROTO = REPOSITORY / "crates" / "client-protocol" / "proto"
CLIENTS = REPOSITORY / ".dorian" / "clients"


def field(number, type="string", repeated=False, optional=False, oneof=None):
    return {"number": number, "type": type, "repeated": repeated, "optional": optional, "oneof": oneof}


def wire(**fields):
    return {"messages": {"m.M": fields}, "enums": {}, "methods": {}}


class Rules(unittest.TestCase):
    def differences(self, ours, clients, allowed=None):
        return compare(ours, clients, allowed or {}).differences

    def test_equal_wires_do_not_differ(self):
        self.assertEqual(self.differences(wire(a=field(1)), {"2": wire(a=field(1))}), [])

    def test_a_version_may_lack_what_another_has(self):
        self.assertEqual(self.differences(wire(a=field(1)), {"2": wire(), "1": wire(a=field(1))}), [])

    def test_a_field_that_no_version_has_is_a_difference(self):
        self.assertIn("no client version has this field", self.differences(wire(a=field(1)), {"2": wire()})[0])

    def test_a_wrong_type_is_a_difference(self):
        found = self.differences(wire(a=field(1, "bytes")), {"2": wire(a=field(1))})
        self.assertEqual(found, ["m.M.a: type is bytes here and string in 2"])

    def test_a_number_with_another_name_in_an_old_version_is_a_difference(self):
        found = self.differences(wire(a=field(1)), {"2": wire(a=field(1)), "1": wire(b=field(1))})
        self.assertEqual(found, ["m.M.a: number 1 is `b` in 1"])

    def test_presence_has_to_agree_with_the_newest_version(self):
        old, new = wire(a=field(1)), wire(a=field(1, optional=True))
        self.assertEqual(self.differences(new, {"2": new, "1": old}), [])
        self.assertEqual(len(self.differences(old, {"2": new, "1": old})), 1)

    def test_a_wrong_enum_value_is_a_difference(self):
        ours, theirs = wire(), wire()
        ours["enums"]["m.E"], theirs["enums"]["m.E"] = {"X": 1}, {"X": 2, "Y": 1}
        self.assertEqual(len(self.differences(ours, {"2": theirs})), 2)

    def test_a_method_with_another_reply_is_a_difference(self):
        ours, theirs = wire(), wire()
        method = {"request": "m.M", "request_streams": False, "reply": "m.M", "reply_streams": False}
        ours["methods"]["m.S/F"], theirs["methods"]["m.S/F"] = method, {**method, "reply_streams": True}
        self.assertEqual(self.differences(ours, {"2": theirs}), ["m.S/F: reply streams is False here and True in 2"])

    def test_an_allowance_silences_its_subject_and_an_unused_one_is_a_difference(self):
        ours, theirs = wire(a=field(1, "bytes")), {"2": wire(a=field(1))}
        self.assertEqual(self.differences(ours, theirs, {"m.M.a": "because"}), [])
        self.assertEqual(len(self.differences(wire(), {"2": wire()}, {"m.M.a": "because"})), 1)


class OurFiles(unittest.TestCase):
    """Each test changes one thing in a copy of what we really ship."""

    def changed(self, file, pattern, replacement):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "proto"
            shutil.copytree(PROTO, copy)
            text = (copy / file).read_text()
            new, times = re.subn(pattern, replacement, text, count=1, flags=re.S)
            self.assertEqual(times, 1, f"`{pattern}` is no longer in {file}: choose another thing to break")
            (copy / file).write_text(new)
            return check(copy, CLIENTS, VERSIONS, ALLOWED).differences

    def test_a_wrong_field_number_fails(self):
        found = self.changed("apps.proto", r"(message AppCreateRequest \{.*?string description = )\d+", r"\g<1>99")
        self.assertTrue(any("AppCreateRequest.description: number is 99 here and" in line for line in found), found)

    def test_a_wrong_field_type_fails(self):
        found = self.changed("apps.proto", r"(message AppCreateRequest \{.*?)string (description =)", r"\1bytes \2")
        self.assertTrue(any("AppCreateRequest.description: type is bytes" in line for line in found), found)

    def test_a_method_that_no_client_knows_fails(self):
        found = self.changed("service.proto", r"rpc AppCreate\b", "rpc AppInvent")
        self.assertTrue(
            any("ModalClient/AppInvent: no client version has this method" in line for line in found), found
        )


if __name__ == "__main__":
    unittest.main()
