"""Images: secrets and variables that only a build sees, each in a method that takes them.

A method is seen to have had its secret by what the secret makes its program do: where pip and uv find packages, what apt
runs, which repository git may read.
"""

import inspect
import sys

import modal
from image_tools import NOT_IN_THIS_CLIENT, VERSION, installed, local_folder, look, refusal, wheel, with_folder

app = modal.App("image-secrets")

PACKAGE = wheel("dorian-check-hidden", "1.0")
APT_SETTINGS = 'APT::Update::Post-Invoke {"echo $HUSH > /said-by-apt";};\n'
files = {f"flat/{name}": data for name, data in PACKAGE.items()} | {"apt.conf": APT_SETTINGS}
base = with_folder(modal.Image.debian_slim(), local_folder(files), "/packages")

FOUND_BY_PIP = {"PIP_FIND_LINKS": "/packages/flat", "PIP_NO_INDEX": "1"}
FOUND_BY_UV = {"UV_FIND_LINKS": "/packages/flat", "UV_NO_INDEX": "1"}


def ways(method, variables):
    """The keywords by which a method takes variables: as a secret, and where the client can, as they are."""
    found = [{"secrets": [modal.Secret.from_dict(variables)]}]
    if "env" in inspect.signature(method).parameters:
        found.append({"env": variables})
    return found


def assert_installed_and_forgotten(image, variable):
    found = look(image, packages=installed("dorian-check-hidden"), variable=f"os.environ.get({variable!r})")
    assert found == {"packages": {"dorian-check-hidden": "1.0"}, "variable": None}, found


def check_pip_methods_see_secrets():
    project = "[project]\nname = 'a'\nversion = '1'\ndependencies = ['dorian-check-hidden']\n"
    folder = local_folder({"needed.txt": "dorian-check-hidden\n", "pyproject.toml": project})
    calls = [
        (base.pip_install, "dorian-check-hidden"),
        (base.pip_install_from_requirements, str(folder / "needed.txt")),
        (base.pip_install_from_pyproject, str(folder / "pyproject.toml")),
    ]
    for method, argument in calls:
        for keywords in ways(method, FOUND_BY_PIP):
            assert_installed_and_forgotten(method(argument, **keywords), "PIP_NO_INDEX")


def check_uv_methods_see_secrets():
    if not hasattr(base, "uv_sync"):
        return NOT_IN_THIS_CLIENT
    project = "[project]\nname = 'a'\nversion = '1'\nrequires-python = '>=3.11'\ndependencies = ['dorian-check-hidden']\n"
    folder = local_folder({"pyproject.toml": project})
    for method, argument in [(base.uv_pip_install, "dorian-check-hidden"), (base.uv_sync, str(folder))]:
        for keywords in ways(method, FOUND_BY_UV):
            assert_installed_and_forgotten(method(argument, **keywords), "UV_NO_INDEX")


def check_poetry_sees_secrets():
    project = '[tool.poetry]\nname = "a"\nversion = "1.0"\ndescription = ""\nauthors = []\n'
    path = str(local_folder({"pyproject.toml": project}) / "pyproject.toml")
    method = base.poetry_install_from_file
    for keywords in ways(method, {"PIP_NO_INDEX": "1"}):
        said = refusal(method(path, ignore_lockfile=True, **keywords))
        assert "No matching distribution found for poetry" in said, said


def check_apt_install_sees_secrets():
    for number, keywords in enumerate(ways(base.apt_install, {"APT_CONFIG": "/packages/apt.conf", "HUSH": "hush"})):
        image = base.run_commands(f"echo {number}").apt_install("tree", **keywords)
        found = look(image, said="open('/said-by-apt').read().strip()", variable="os.environ.get('HUSH')")
        assert found == {"said": "hush", "variable": None}, found


def check_micromamba_install_sees_secrets():
    # What stands in for the program; the images that have it cannot be had here.
    script = local_folder({"micromamba": '#!/bin/sh\necho "$HUSH" > /said\n'})
    has_it = with_folder(base, script, "/usr/local/sbin").run_commands("chmod +x /usr/local/sbin/micromamba")
    for number, keywords in enumerate(ways(base.micromamba_install, {"HUSH": "hush"})):
        image = has_it.micromamba_install(f"package-{number}", **keywords)
        found = look(image, said="open('/said').read().strip()", variable="os.environ.get('HUSH')")
        assert found == {"said": "hush", "variable": None}, found


def check_commands_see_secrets():
    for keywords in ways(base.run_commands, {"HUSH": 'a "b" $HOME'}):
        image = base.run_commands('printf "%s" "$HUSH" > /said', **keywords)
        found = look(image, said="open('/said').read()", variable="os.environ.get('HUSH')")
        assert found == {"said": 'a "b" $HOME', "variable": None}, found
    for keywords in ways(base.dockerfile_commands, {"HUSH": "hush"}):
        image = base.dockerfile_commands('RUN test "$HUSH" = hush && echo heard > /said', **keywords)
        assert look(image, said="open('/said').read().strip()")["said"] == "heard"


def check_from_dockerfile_sees_secrets():
    text = 'FROM python:3.11-slim\nRUN test "$HUSH" = hush && echo heard > /said\n'
    path = local_folder({"Dockerfile": text}) / "Dockerfile"
    for keywords in ways(modal.Image.from_dockerfile, {"HUSH": "hush"}):
        image = modal.Image.from_dockerfile(path, **keywords)
        found = look(image, said="open('/said').read().strip()", variable="os.environ.get('HUSH')")
        assert found == {"said": "heard", "variable": None}, found


def check_a_failed_step_does_not_show_its_secrets():
    image = base.run_commands("test -n $HUSH && exit 44", secrets=[modal.Secret.from_dict({"HUSH": "not-to-be-told"})])
    said = refusal(image)
    assert "44" in said and "not-to-be-told" not in said, said


# A package that builds itself, so that nothing has to be fetched for it.
BACKEND = f"""
import os
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name, data = {next(iter(PACKAGE.items()))!r}
    open(os.path.join(wheel_directory, name), "wb").write(data)
    return name
"""
SOURCE = {
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": BACKEND,
}
COMMIT = "git init -q -b main && git add -A && git -c user.name=a -c user.email=a@b commit -q -m first && git tag v1"


def check_pip_install_private_repos_use_their_tokens():
    # What would be asked of the two hosts is answered from a folder, and only if the right token is in the address.
    answers = [
        f'git config --system --add url."file:///source".insteadOf "https://someone:{token}@{host}/team/private"'
        for host, token in [("github.com", "the-one-token"), ("gitlab.com", "the-other-token")]
    ]
    with_repository = with_folder(modal.Image.debian_slim().apt_install("git"), local_folder(SOURCE), "/source")
    with_repository = with_repository.run_commands(f"cd /source && {COMMIT}", *answers)
    tokens = {"GITHUB_TOKEN": "the-one-token", "GITLAB_TOKEN": "the-other-token"}
    indexes = {"find_links": "/nowhere", "index_url": "file:///nowhere", "extra_index_url": "file:///nowhere", "pre": True}
    for repository in ("github.com/team/private@v1", "gitlab.com/team/private@main"):
        image = with_repository.pip_install_private_repos(
            repository, git_user="someone", secrets=[modal.Secret.from_dict(tokens)], **indexes
        )
        assert_installed_and_forgotten(image, "GITHUB_TOKEN")
    for name, repository in [("GITHUB_TOKEN", "github.com/team/private"), ("GITLAB_TOKEN", "gitlab.com/team/private")]:
        image = with_repository.pip_install_private_repos(
            repository, git_user="someone", secrets=[modal.Secret.from_dict({"ANOTHER": "token"})]
        )
        said = refusal(image)
        assert name in said, said
    if VERSION >= (1, 1):
        image = with_repository.pip_install_private_repos(
            "github.com/team/private", git_user="someone", secrets=[modal.Secret.from_dict({})], env=tokens,
            extra_options="--no-index --no-deps",
        )  # fmt: skip
        assert_installed_and_forgotten(image, "GITHUB_TOKEN")


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
