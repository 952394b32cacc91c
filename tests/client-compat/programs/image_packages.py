"""Images: packages for Python and for Debian."""

import sys

import modal
from image_tools import (
    NOT_IN_THIS_CLIENT,
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

files = {f"flat/{name}": data for name, data in (FIRST | NEXT | SECOND | THIRD).items()}
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
