"""Fixtures: one server for the whole session, a client per version, and the programs' own checks as tests."""

import pytest
from harness import MATRIX, NEWEST, VERSIONS, Client, Server


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


@pytest.fixture(autouse=True)
def the_server_log_of_a_failure(request):
    """A failure shows what the server wrote during the test: the other half of the story."""
    server = request.getfixturevalue("server") if "server" in request.fixturenames else None
    request.node.server_log = (server, server.log.stat().st_size) if server else None


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    server, start = getattr(item, "server_log", None) or (None, 0)
    if report.when == "call" and report.failed and server is not None:
        with server.log.open(errors="replace") as log:
            log.seek(start)
            report.sections.append(("server log", log.read()[-4000:]))


def _version_of(item):
    """The one client version that a test runs with, or `None`."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters.get("version") or parameters.get("client")


def _is_chosen(version, marker):
    if version in (None, NEWEST):
        return True
    return marker is not None and (version == VERSIONS[-1] or not marker.kwargs.get("oldest_only"))


def pytest_collection_modifyitems(config, items):
    """Every promise runs with the newest client. Older ones run what `older_clients` marks: what they do differently, and
    a program for each area. `DORIAN_TEST_MATRIX=all` runs everything with each."""
    if MATRIX == "all":
        return
    chosen, left = [], []
    for item in items:
        (chosen if _is_chosen(_version_of(item), item.get_closest_marker("older_clients")) else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = chosen


def pytest_pycollect_makeitem(collector, name, obj):
    """Only functions that the file itself defines are tests; what it imports is not."""
    if callable(obj) and getattr(obj, "__module__", None) != collector.module.__name__:
        return []
    return None
