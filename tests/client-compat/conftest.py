"""Fixtures: one server for the whole session, a client per version, and the programs' own checks as tests."""

import sys

import pytest

sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parent))

from harness import NEWEST, VERSIONS, Client, Server  # noqa: E402


@pytest.fixture(scope="session")
def server():
    server = Server().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def clients(server, tmp_path_factory):
    """Version to client, made on first use."""

    class Clients(dict):
        def __missing__(self, version):
            client = Client(version, server, tmp_path_factory.mktemp(f"home-{version}"))
            self[version] = client
            return client

    return Clients()


@pytest.fixture(params=VERSIONS)
def client(request, clients):
    return clients[request.param]


@pytest.fixture
def newest(clients):
    return clients[NEWEST]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the end of the server's log: the other half of the story."""
    report = (yield).get_result()
    server = item.funcargs.get("server") if hasattr(item, "funcargs") else None
    if server is None and hasattr(item, "funcargs"):
        for value in item.funcargs.values():
            server = getattr(value, "server", server)
    if report.when == "call" and report.failed and server is not None:
        report.sections.append(("server log, last lines", server.log_tail()))
