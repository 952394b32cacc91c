"""The JavaScript SDK, which shares the wire but not the code of the Python client: each check of
`programs/from_javascript.cjs`."""

import re
import shutil
import time

import pytest
from harness import PROGRAMS, STATE, Running

SDK = STATE / "js" / "node_modules"
APP = f"from-javascript-{time.time():.0f}"
CHECKS = re.findall(r"^  async (\w+)\(\) {$", (PROGRAMS / "from_javascript.cjs").read_text(), re.M)


@pytest.fixture(scope="module")
def ended(clients):
    if not shutil.which("node"):
        pytest.fail("`node` is missing: the Debian package `nodejs` has it, and `scripts/setup.sh js` installs it")
    if not (SDK / "modal").exists():
        pytest.fail(f"no JavaScript SDK in {SDK}: `scripts/setup.sh js` installs it with npm (the Debian package `npm`)")
    newest = clients["1.6.4"]
    deployed = newest.modal("deploy", "from_javascript.py", APP_NAME=APP)
    assert deployed.code == 0, deployed
    command = ["node", "from_javascript.cjs", APP]
    yield Running(command, newest.environment(NODE_PATH=SDK), PROGRAMS).end(240)
    newest.modal("app", "stop", newest.running_app(APP)["app_id"], "-y")


@pytest.mark.parametrize("check", CHECKS)
def javascript(ended, check):
    assert f"CHECK PASS {check}\n" in ended.out, ended
