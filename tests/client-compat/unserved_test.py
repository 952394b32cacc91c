"""What is not served says so in the user's words: the feature that was wanted, not the name of a call."""

import re
import urllib.request

from coverage_test import SERVICE


def every_call_that_is_not_served_names_the_feature_that_wants_it(client):
    ended = client.python("unserved_calls.py", SERVICE)
    assert ended.code == 0, ended
    answers = [line.split(" ", 2) for line in ended.out.splitlines()]
    assert len(answers) > 20, ended
    for name, status, said in answers:
        assert status == "UNIMPLEMENTED", (name, status, said)
        assert "which Dorian does not serve yet" in said and name not in said, (name, said)


def _said(ended):
    return re.sub(r"[\s│]+", " ", ended.out + ended.err)


def a_shell_says_that_it_needs_sandboxes(newest):
    ended = newest.modal("shell", "-c", "true", within_s=60)
    assert ended.code != 0 and "`modal shell` and `modal.Sandbox` need sandboxes" in _said(ended), ended


def commands_that_tell_of_an_account_say_what_they_need(newest):
    for words, sentence in [
        (["token", "info"], "`modal token info` needs accounts of users, which Dorian does not serve yet"),
        (["dashboard"], "`modal dashboard` needs a dashboard, which Dorian does not serve yet"),
        (["billing", "report", "--for", "today"], "`modal billing` needs prices, which Dorian does not serve yet"),
    ]:
        ended = newest.modal(*words, within_s=60)
        assert ended.code != 0 and sentence in _said(ended), ended


FORWARD = """
import modal
app = modal.App("forwards")
@app.function(serialized=True)
def forward():
    try:
        with modal.forward(8000):
            print("forwarded")
    except Exception as raised:
        print("raised", raised)
with modal.enable_output(), app.run():
    forward.remote()
"""


def a_tunnel_from_a_container_is_refused_by_name(newest):
    ended = newest.python("-c", FORWARD)
    assert "`modal.forward` needs tunnels, which Dorian does not serve yet" in _said(ended), ended


PROXY = """
import modal
app = modal.App("behind-a-proxy")
@app.function(serialized=True, proxy=modal.Proxy.from_name("static-address"))
def work():
    pass
try:
    with app.run():
        print("it runs")
except modal.exception.NotFoundError as raised:
    print("not found:", raised)
"""


def a_proxy_is_not_found(newest):
    ended = newest.python("-c", PROXY)
    assert "not found: Proxy 'static-address' not found: `modal.Proxy` needs proxies" in _said(ended), ended


def the_printed_address_of_an_app_leads_to_a_page(newest):
    ended = newest.run("entries.py::shout", "--text", "x")
    address = re.search(r"View run at (http://\S+/apps/(ap-\w+))", ended.out)
    assert address, ended
    with urllib.request.urlopen(address.group(1), timeout=20) as answer:
        page = answer.read().decode()
    assert f"modal app logs {address.group(2)}" in page and "modal app list" in page, page
