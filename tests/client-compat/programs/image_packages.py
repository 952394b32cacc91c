"""Images: packages for Python and for Debian."""

import hashlib
import sys

import modal
from image_tools import (
    NOT_IN_THIS_CLIENT,
    VERSION,
    index,
    installed,
    local_folder,
    look,
    refusal,
    wheel,
    with_folder,
)

app = modal.App("image-packages")

FIRST = wheel("dorian-check-first", "1.0", ["dorian-check-second; extra == 'more'"])
NEXT = wheel("dorian-check-first", "2.0rc1")
SECOND = wheel("dorian-check-second", "1.5", ["dorian-check-third"])
THIRD = wheel("dorian-check-third", "3.0")
NAMES = ("dorian-check-first", "dorian-check-second", "dorian-check-third")

POETRY = {kind: wheel(f"dorian-check-{kind}", "1.0") for kind in ("main", "test", "docs")}
POETRY_NAMES = tuple(f"dorian-check-{kind}" for kind in POETRY)

files = {f"flat/{name}": data for name, data in (FIRST | NEXT | SECOND | THIRD).items()}
files |= {f"flat/{name}": data for packed in POETRY.values() for name, data in packed.items()}
files |= {f"index/{name}": data for name, data in index(FIRST | NEXT).items()}
files |= {f"other/{name}": data for name, data in index(SECOND | THIRD).items()}
base = with_folder(modal.Image.debian_slim(), local_folder(files), "/packages")

FLAT, INDEX, OTHER = "/packages/flat", "file:///packages/index", "file:///packages/other"
ONLY_FLAT = {"find_links": FLAT, "extra_options": "--no-index"}


def versions(image):
    return tuple(look(image, found=installed(*NAMES))["found"].values())


def check_pip_install_takes_pins_and_extras():
    image = base.pip_install("dorian-check-first[more]==1.0", ["dorian-check-third>2"], **ONLY_FLAT)
    assert versions(image) == ("1.0", "1.5", "3.0")


def check_pip_install_reads_the_named_indexes():
    image = base.pip_install("dorian-check-first[more]", index_url=INDEX, extra_index_url=OTHER)
    assert versions(image) == ("1.0", "1.5", "3.0")


def check_pip_install_takes_options_and_releases_to_come():
    image = base.pip_install("dorian-check-first", "dorian-check-second", find_links=FLAT, pre=True,
                             extra_options="--no-index --no-deps")  # fmt: skip
    assert versions(image) == ("2.0rc1", "1.5", None)


def check_pip_install_of_what_is_nowhere_is_refused_by_its_name():
    said = refusal(base.pip_install("dorian-check-nowhere", **ONLY_FLAT))
    assert "dorian-check-nowhere" in said, said


def check_pip_install_from_requirements_reads_the_file():
    text = "# what is needed\ndorian-check-first==1.0\ndorian-check-third ; python_version > '3'\n"
    file = local_folder({"needed.txt": text}) / "needed.txt"
    found = versions(base.pip_install_from_requirements(str(file), FLAT, extra_options="--no-index"))
    assert found == ("1.0", None, "3.0"), found
    found = versions(base.pip_install_from_requirements(str(file), index_url=INDEX, extra_index_url=OTHER, pre=True))
    assert found == ("1.0", None, "3.0"), found


def check_pip_install_from_pyproject_reads_the_chosen_groups():
    text = """
[project]
name = "a-project"
version = "0.1"
dependencies = ["dorian-check-first"]
[project.optional-dependencies]
more = ["dorian-check-third==3.0"]
never = ["dorian-check-nowhere"]
"""
    file = str(local_folder({"pyproject.toml": text}) / "pyproject.toml")
    assert versions(base.pip_install_from_pyproject(file, **ONLY_FLAT)) == ("1.0", None, None)
    assert versions(base.pip_install_from_pyproject(file, ["more"], **ONLY_FLAT)) == ("1.0", None, "3.0")
    image = base.pip_install_from_pyproject(file, ["more"], index_url=INDEX, extra_index_url=OTHER, pre=True)
    assert versions(image) == ("2.0rc1", None, "3.0")


def check_uv_pip_install_takes_what_pip_install_takes():
    if not hasattr(base, "uv_pip_install"):
        return NOT_IN_THIS_CLIENT
    image = base.uv_pip_install("dorian-check-first[more]==1.0", find_links=FLAT, extra_options="--no-index")
    assert versions(image) == ("1.0", "1.5", "3.0")
    image = base.uv_pip_install("dorian-check-first", index_url=INDEX, extra_index_url=OTHER, pre=True)
    assert versions(image) == ("2.0rc1", None, None)
    files = local_folder({"one/needed.txt": "dorian-check-first==1.0\n", "two/needed.txt": "dorian-check-third\n"})
    paths = [str(files / "one" / "needed.txt"), str(files / "two" / "needed.txt")]
    image = base.uv_pip_install(requirements=paths, find_links=FLAT, extra_options="--no-index", uv_version="0.8.0")
    assert versions(image) == ("1.0", None, "3.0")


def check_uv_sync_installs_the_project():
    if not hasattr(base, "uv_sync"):
        return NOT_IN_THIS_CLIENT
    text = """
[project]
name = "a-project"
version = "0.1"
requires-python = ">=3.11"
dependencies = ["dorian-check-first"]
[project.optional-dependencies]
more = ["dorian-check-second"]
[dependency-groups]
tests = ["dorian-check-third"]
[tool.uv]
find-links = ["/packages/flat"]
"""
    folder = local_folder({"pyproject.toml": text})
    found = look(base.uv_sync(str(folder), extra_options="--no-index"), packages=installed(*NAMES), path="sys.prefix")
    assert tuple(found["packages"].values()) == ("1.0", None, None) and found["path"] == "/.uv/.venv", found
    chosen = base.uv_sync(str(folder), groups=["tests"], extras=["more"], extra_options="--no-index")
    assert versions(chosen) == ("1.0", "1.5", "3.0")


UV_LOCK = """\
version = 1
requires-python = ">=3.11"

[[package]]
name = "a-project"
version = "0.1"
source = {{ virtual = "." }}
dependencies = [{{ name = "dorian-check-first" }}]

[[package]]
name = "dorian-check-first"
version = "1.0"
source = {{ registry = "/packages/flat" }}
wheels = [{{ path = "{file}", hash = "sha256:{digest}" }}]
"""


def check_uv_sync_follows_a_lockfile_while_it_is_frozen():
    if not hasattr(base, "uv_sync"):
        return NOT_IN_THIS_CLIENT
    # The project allows a newer release than the lockfile has.
    project = "[project]\nname = 'a-project'\nversion = '0.1'\nrequires-python = '>=3.11'\n"
    project += "dependencies = ['dorian-check-first>0']\n[tool.uv]\nfind-links = ['/packages/flat']\nprerelease = 'allow'\n"
    ((file, data),) = FIRST.items()
    lock = UV_LOCK.format(file=file, digest=hashlib.sha256(data).hexdigest())
    folder = str(local_folder({"pyproject.toml": project, "uv.lock": lock}))
    assert versions(base.uv_sync(folder, extra_options="--no-index"))[0] == "1.0"
    image = base.uv_sync(folder, frozen=False, extra_options="--no-index --upgrade", uv_version="0.8.0")
    assert versions(image)[0] == "2.0rc1"
    assert "0.8.0" in look(image, said="shell('/.uv/uv --version')")["said"]


POETRY_PROJECT = """\
[tool.poetry]
name = "a-project"
version = "0.1.0"
description = ""
authors = []

[tool.poetry.dependencies]
python = ">=3.11"
dorian-check-main = {path = "../../packages/flat/dorian_check_main-1.0-py3-none-any.whl"}

[tool.poetry.group.tests.dependencies]
dorian-check-test = {path = "../../packages/flat/dorian_check_test-1.0-py3-none-any.whl"}

[tool.poetry.group.docs]
optional = true

[tool.poetry.group.docs.dependencies]
dorian-check-docs = {path = "../../packages/flat/dorian_check_docs-1.0-py3-none-any.whl"}
"""
LOCKED = """
[[package]]
name = "dorian-check-{kind}"
version = "1.0"
description = ""
optional = false
python-versions = "*"
files = [
    {{file = "{file}", hash = "sha256:{digest}"}},
]

[package.source]
type = "file"
url = "../../packages/flat/{file}"
"""
# As `poetry lock` wrote it; the digest is that of the project above.
LOCK_END = """
[metadata]
lock-version = "2.0"
python-versions = ">=3.11"
content-hash = "1419229709122714cc7f55d519b24836e312bceb77f6242dccb4320bd41d906e"
"""


def poetry_lock(changed=""):
    """The project's lockfile; `changed` is what a file's digest is given instead of its own."""
    packages = [
        LOCKED.format(kind=kind, file=file, digest=changed or hashlib.sha256(data).hexdigest())
        for kind, packed in POETRY.items()
        for file, data in packed.items()
    ]
    return "".join(packages) + LOCK_END


def poetry_image(files, **options):
    folder = local_folder({"pyproject.toml": POETRY_PROJECT, **files})
    return base.poetry_install_from_file(str(folder / "pyproject.toml"), **options)


def poetry_installed(files, **options):
    """Which of the groups `main`, `tests` and `docs` are there."""
    compiled = "os.path.exists(__import__('importlib.util').util.find_spec('dorian_check_main').cached)"
    found = look(poetry_image(files, **options), packages=installed(*POETRY_NAMES), compiled=compiled)
    assert found["compiled"], "poetry made no bytecode"
    return [name.split("-")[-1] for name, version in found["packages"].items() if version == "1.0"]


def check_poetry_install_from_file_follows_the_lockfile_and_groups():
    lock = {"poetry.lock": poetry_lock()}
    assert poetry_installed(lock) == ["main", "test"]
    assert poetry_installed(lock, with_=["docs"], without=["tests"]) == ["main", "docs"]
    elsewhere = str(local_folder({"other.lock": poetry_lock()}) / "other.lock")
    assert poetry_installed({}, poetry_lockfile=elsewhere, only=["main"]) == ["main"]
    said = refusal(poetry_image({"poetry.lock": poetry_lock(changed="0" * 64)}))
    assert "hash" in said.lower(), said


def check_poetry_install_from_file_works_without_a_lockfile():
    assert poetry_installed({}, ignore_lockfile=True) == ["main", "test"]
    said = refusal(poetry_image({}))
    assert "poetry.lock" in said and "ignore_lockfile" in said, said


def check_poetry_install_from_file_takes_a_release_of_poetry():
    if VERSION < (1, 1):
        return NOT_IN_THIS_CLIENT
    image = poetry_image({"poetry.lock": poetry_lock()}, poetry_version="1.8.5")
    assert "1.8.5" in look(image, said="shell('poetry --version')")["said"]


def check_the_old_installer_is_refused_by_poetry_itself():
    # Releases of poetry below 1.7 had it; no client asks for one of them.
    said = refusal(poetry_image({"poetry.lock": poetry_lock()}, old_installer=True))
    assert "experimental.new-installer does not exist" in said, said


def check_apt_install_installs_programs():
    image = base.apt_install("jq", ["tree"])
    found = look(image, jq="shell('jq -n 1+1')", tree="shell('tree --version')")
    assert found["jq"] == "2" and found["tree"].startswith("tree v"), found
    said = refusal(base.apt_install("dorian-check-nowhere"))
    assert "dorian-check-nowhere" in said, said


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
