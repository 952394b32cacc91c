"""Images: commands, Dockerfiles, what a container starts with, and how images follow from one another."""

import inspect
import sys

import modal
import modal.mount
from image_tools import NOT_IN_THIS_CLIENT, VERSION, local_folder, look, made, refusal, with_folder

app = modal.App("image-commands")
base = modal.Image.debian_slim()
OPTIONS_OF_FILES = inspect.signature(modal.Image.from_dockerfile).parameters

NEW_EACH_TIME = "cat /proc/sys/kernel/random/uuid > /built"
BUILT = "open('/built').read()"


def check_run_commands_run_in_order():
    image = base.run_commands("echo one > /said", ["echo two >> /said", "echo $0 >> /said && pwd >> /said"])
    assert look(image, said="open('/said').read()")["said"] == "one\ntwo\n/bin/sh\n/\n"


def check_env_reaches_builds_and_containers_unchanged():
    values = {"PLAIN": "plain", "QUOTED": 'it\'s "so"', "DOLLAR": "a $HOME b", "SPACED": "  two  spaces ", "EMPTY": "",
              "SLASH": "a\\b", "LETTERS": "äß😀"}  # fmt: skip
    image = base.env(values).run_commands('printf "%s|%s" "$QUOTED" "$LETTERS" > /said')
    found = look(image, values=f"[os.environ[name] for name in {list(values)!r}]", said="open('/said').read()")
    assert found["values"] == [*values.values()], found
    assert found["said"] == 'it\'s "so"|äß😀', found


def check_workdir_is_where_builds_and_containers_are():
    image = base.workdir("/some where/deep").run_commands("pwd > here")
    found = look(image, here="open('/some where/deep/here').read().strip()", now="os.getcwd()")
    assert found == {"here": "/some where/deep", "now": "/some where/deep"}, found


def check_shell_is_what_runs_commands():
    image = base.shell(["/bin/bash", "-o", "pipefail", "-c"]).run_commands("words=(one two); echo ${words[1]} > /said")
    assert look(image, said="open('/said').read().strip()")["said"] == "two"
    said = refusal(base.shell(["/bin/bash", "-o", "pipefail", "-c"]).run_commands("exit 43 | true"))
    assert "43" in said, said


def check_entrypoint_starts_the_container():
    script = '#!/bin/sh\nexport FROM_THE_ENTRYPOINT="$1 $2"\nshift 2\nexec "$@"\n'
    image = with_folder(base, local_folder({"start": script}), "/entry").run_commands("chmod +x /entry/start")
    image = image.entrypoint(["/entry/start", "one word", "two"])
    assert look(image, said="os.environ.get('FROM_THE_ENTRYPOINT')")["said"] == "one word two"
    # As programs do whose base brings an entry point of its own.
    assert look(image.entrypoint([]), said="os.environ.get('FROM_THE_ENTRYPOINT')")["said"] is None


def check_cmd_is_not_run_by_functions():
    if not hasattr(base, "cmd"):
        return NOT_IN_THIS_CLIENT
    assert look(base.cmd(["false", "never run"]), still="1 + 1")["still"] == 2


def check_dockerfile_commands_take_files_and_several_lines():
    file = local_folder({"sent.txt": "sent"}) / "sent.txt"
    image = base.dockerfile_commands(
        "ARG WORD=one\nENV WORDS=${WORD}-two",
        ["# a comment", "COPY /placed.txt /there/", "RUN echo $WORDS > /there/words && \\", "  echo more >> /there/words"],
        context_files={"/placed.txt": str(file)},
    )
    found = look(image, sent="open('/there/placed.txt').read()", words="open('/there/words').read()",
                 variable="os.environ['WORDS']")  # fmt: skip
    assert found == {"sent": "sent", "words": "one-two\nmore\n", "variable": "one-two"}, found


def check_dockerfile_commands_copy_from_the_context():
    if VERSION < (0, 70):
        return NOT_IN_THIS_CLIENT
    folder = local_folder({"a.txt": "a", "b.txt": "b", "b.log": "never", "sub/c.txt": "c", ".dockerignore": "*.log\nb.*\n"})
    listed = "sorted(os.listdir('/there'))"
    image = base.dockerfile_commands("COPY *.txt /there/", context_dir=folder)
    assert look(image, listed=listed)["listed"] == ["a.txt"], "`.dockerignore` was not honoured"
    image = base.dockerfile_commands("COPY . /there/", context_dir=str(folder), ignore=["**/*.txt", "!sub/c.txt"])
    found = look(image, listed=listed, sub="os.listdir('/there/sub')")
    assert found == {"listed": [".dockerignore", "b.log", "sub"], "sub": ["c.txt"]}, found


def check_dockerfile_commands_take_build_arguments():
    if VERSION < (1, 1):
        return NOT_IN_THIS_CLIENT
    image = base.dockerfile_commands("ARG WORD=one", "RUN echo $WORD > /said", build_args={"WORD": "given"})
    assert look(image, said="open('/said').read().strip()")["said"] == "given"


DOCKERFILE = """\
# syntax=docker/dockerfile:1
FROM python:3.11-slim
ARG WORD=one
LABEL a="b"
COPY sub/ \\
     /there/sub/
WORKDIR /there
ENV WORD=$WORD
"""


def check_from_dockerfile_builds_the_file():
    files = {"Dockerfile": DOCKERFILE, "sub/kept.txt": "kept", "sub/left.log": "never", ".dockerignore": "**/*.log"}
    folder = local_folder(files)
    path = str(folder / "Dockerfile")
    there = {"sub": "os.listdir('/there/sub')", "word": "os.environ['WORD']", "here": "os.getcwd()"}  # fmt: skip
    expected = {"sub": ["kept.txt"], "word": "one", "here": "/there"}
    if "context_mount" in OPTIONS_OF_FILES:
        mount = modal.mount.Mount.from_local_dir(folder / "sub", remote_path="/sub", condition=lambda p: "log" not in p)
        found = look(modal.Image.from_dockerfile(path, context_mount=mount), **there)
        assert found == expected, found
    if "context_dir" not in OPTIONS_OF_FILES:
        return
    found = look(modal.Image.from_dockerfile(path, context_dir=folder), **there)
    assert found == expected, found
    chosen = {"ignore": ["**/*.txt"]}
    if VERSION >= (1, 1):
        chosen["build_args"] = {"WORD": "given"}
    found = look(modal.Image.from_dockerfile(path, context_dir=str(folder), **chosen), **there)
    assert found["sub"] == ["left.log"] and found["word"] == ("given" if VERSION >= (1, 1) else "one"), found


def check_a_wrong_line_of_a_dockerfile_is_shown():
    path = local_folder({"Dockerfile": "FROM python:3.11-slim\nRUNN true\n"}) / "Dockerfile"
    said = refusal(modal.Image.from_dockerfile(path))
    assert "line 2" in said and "2 | RUNN true" in said, said
    assert said.count("unknown instruction") == 1, said


def check_from_dockerfile_adds_a_python():
    path = local_folder({"Dockerfile": "FROM debian:bookworm-slim\nRUN echo up > /up\n"}) / "Dockerfile"
    image = modal.Image.from_dockerfile(path, add_python="3.11")
    found = look(image, up="open('/up').read().strip()", version="sys.version_info[:2]",
                 debians="os.path.exists('/usr/bin/python3')")  # fmt: skip
    assert found == {"up": "up", "version": (3, 11), "debians": False}, found


def check_from_registry_takes_known_names_and_setup_commands():
    image = modal.Image.from_registry("python:3.11-slim", setup_dockerfile_commands=["RUN echo set > /up", "ENV UP=yes"])
    found = look(image, up="open('/up').read().strip()", variable="os.environ['UP']", version="sys.version_info[:2]")
    assert found == {"up": "set", "variable": "yes", "version": (3, 11)}, found


def check_debian_slim_has_the_chosen_python():
    image = modal.Image.debian_slim("3.11")
    found = look(image, version="sys.version_info[:2]", compiler="shell('gcc -dumpversion')", release="shell('id -un')")
    assert found["version"] == (3, 11) and found["compiler"].isdigit() and found["release"] == "root", found


def check_a_python_that_cannot_be_had_is_one_clear_sentence():
    said = refusal(modal.Image.debian_slim(python_version="3.12"))
    assert "python:3.12" in said and "mirror" in said, said


def check_micromamba_without_its_base_is_one_clear_sentence():
    image = modal.Image.micromamba(python_version="3.11").micromamba_install("xtensor", channels=["conda-forge"])
    said = refusal(image)
    assert "mambaorg/micromamba" in said and "mirror" in said, said


def check_micromamba_install_passes_packages_channels_and_a_file():
    # What stands in for the program says how it was called; the images that have the program cannot be had here.
    script = '#!/bin/sh\necho "$@" >> /called\n[ -f /spec.yml ] && cat /spec.yml >> /called\nexit 0\n'
    has_it = with_folder(base, local_folder({"micromamba": script}), "/usr/local/sbin")
    has_it = has_it.run_commands("chmod +x /usr/local/sbin/micromamba")
    spec = str(local_folder({"spec.yml": "name: base\n"}) / "spec.yml")
    image = has_it.micromamba_install("xtensor", "six<2", channels=["conda-forge", "other"])
    image = image.micromamba_install(spec_file=spec)
    called = look(image, called="open('/called').read()")["called"].splitlines()
    assert called[0] == "install xtensor six<2 -c conda-forge -c other --yes", called
    assert called[1] == "install -f /spec.yml -n base --yes" and called[2] == "name: base", called
    said = refusal(base.micromamba_install("xtensor"))
    assert "micromamba: not found" in said, said


def check_conda_without_its_installer_names_what_failed():
    if not hasattr(modal.Image, "conda"):
        return NOT_IN_THIS_CLIENT
    said = refusal(modal.Image.conda("3.11"))
    assert "miniconda" in said, said
    spec = str(local_folder({"environment.yml": "name: base\n"}) / "environment.yml")
    for image in (base.conda_install("six", channels=["c"]), base.conda_update_from_environment(spec)):
        said = refusal(image)
        assert "conda: not found" in said, said


def check_what_a_client_has_dropped_says_so():
    if not hasattr(modal.Image, "run_inside"):
        return NOT_IN_THIS_CLIENT
    try:
        base.run_inside()
        raise AssertionError("`run_inside` works: it has to be tested as the other methods are")
    except Exception as raised:
        assert "imports" in str(raised), raised


def check_a_registry_of_a_cloud_that_is_away_is_named():
    tag = "000000000000.dkr.ecr.eu-north-1.amazonaws.com/team/image:1"
    assert tag.split("/")[0] in refusal(modal.Image.from_aws_ecr(tag))
    tag = "europe-docker.pkg.dev/project/folder/image:1"
    assert tag.split("/")[0] in refusal(modal.Image.from_gcp_artifact_registry(tag))


def check_from_scratch_is_built_again_when_forced():
    if not hasattr(modal.Image, "from_scratch"):
        return NOT_IN_THIS_CLIENT
    kept = made(modal.Image.from_scratch())
    assert made(modal.Image.from_scratch(force_build=True)) != kept


def check_from_scratch_has_only_what_is_copied():
    if not hasattr(modal.Image, "from_scratch"):
        return NOT_IN_THIS_CLIENT
    image = modal.Image.from_scratch().dockerfile_commands("COPY --from=python:3.11-slim / /", "RUN echo up > /said")
    found = look(image.env({"PATH": "/usr/local/bin:/usr/bin:/bin"}), said="open('/said').read().strip()")
    assert found["said"] == "up", found
    said = refusal(modal.Image.from_scratch().run_commands("true"))
    assert "/bin/sh" in said, said


def check_from_id_is_the_same_image():
    if not hasattr(modal.Image, "from_id"):
        return NOT_IN_THIS_CLIENT
    image = base.run_commands(NEW_EACH_TIME)
    built = look(image, built=BUILT)
    same = modal.Image.from_id(image.object_id)
    assert look(same, built=BUILT) == built
    assert look(same.run_commands("true"), built=BUILT) == built
    said = refusal(modal.Image.from_id("im-0000000000000000000000"))
    assert "im-0000000000000000000000" in said, said


def check_build_makes_an_image_before_it_is_used():
    if not hasattr(base, "build"):
        return NOT_IN_THIS_CLIENT
    image = base.run_commands("echo built by itself", NEW_EACH_TIME)
    with modal.App("image-builds").run() as running:
        image.build(running)
    assert image.object_id.startswith("im-")
    built = look(modal.Image.from_id(image.object_id), built=BUILT)
    assert look(image, built=BUILT) == built
    assert base.run_commands("echo built by itself", NEW_EACH_TIME).build().object_id == image.object_id
    image.hydrate()
    try:
        base.run_commands("true").hydrate()
        raise AssertionError("an image was hydrated before it was built")
    except modal.exception.ExecutionError as raised:
        assert "built" in str(raised) or "build" in str(raised), raised



def check_pipe_hands_the_image_on():
    if not hasattr(base, "pipe"):
        return NOT_IN_THIS_CLIENT
    image = base.pipe(lambda image, word: image.run_commands(f"echo {word} > /said"), "piped")
    assert look(image, said="open('/said').read().strip()")["said"] == "piped"


def check_extend_is_refused_by_its_own_client():
    if not hasattr(base, "extend"):
        return NOT_IN_THIS_CLIENT
    try:
        base.extend(dockerfile_commands=["FROM base", "RUN true"])
        raise AssertionError("`extend` works now: it has to be tested as the other methods are")
    except TypeError as raised:
        assert "dockerfile_commands" in str(raised), raised


def check_force_build_runs_the_step_again_and_replaces_the_layer():
    kept = look(base.run_commands(NEW_EACH_TIME), built=BUILT)
    assert look(base.run_commands(NEW_EACH_TIME), built=BUILT) == kept
    forced = look(base.run_commands(NEW_EACH_TIME, force_build=True), built=BUILT)
    assert forced != kept
    assert look(base.run_commands(NEW_EACH_TIME), built=BUILT) == forced
    line = f"RUN {NEW_EACH_TIME}"
    kept = look(base.dockerfile_commands(line), built=BUILT)
    assert look(base.dockerfile_commands(line, force_build=True), built=BUILT) != kept
    path = str(local_folder({"Dockerfile": f"FROM python:3.11-slim\n{line}\n"}) / "Dockerfile")
    kept = look(modal.Image.from_dockerfile(path), built=BUILT)
    forced = look(modal.Image.from_dockerfile(path, force_build=True), built=BUILT)
    # Older clients force only their own layer, which is on top of the file's.
    assert (forced != kept) == (VERSION >= (1, 1)), forced


def check_force_build_is_taken_by_every_method():
    project = "[project]\nname = 'a'\nversion = '1'\nrequires-python = '>=3.11'\ndependencies = [{}]\n"
    folder = local_folder({"pyproject.toml": project.format("'pip'"), "needed.txt": "pip\n", "poetry.lock": "",
                           "for-uv/pyproject.toml": project.format("")})  # fmt: skip
    # Whether a new image comes out is all that is looked at, so the programs need not do anything.
    programs = ("python", "python3", "pip", "apt-get", "micromamba", "poetry")
    stand_ins = with_folder(base, local_folder({name: "#!/bin/sh\n" for name in programs}), "/stand-ins")
    stand_ins = stand_ins.run_commands("chmod +x /stand-ins/*").env({"PATH": "/stand-ins:/usr/bin:/bin"})
    hush = {"git_user": "a", "secrets": [modal.Secret.from_dict({"GITHUB_TOKEN": "token"})]}
    calls = [
        (stand_ins, "pip_install", ["six"], {}),
        (stand_ins, "pip_install_from_requirements", [str(folder / "needed.txt")], {}),
        (stand_ins, "pip_install_from_pyproject", [str(folder / "pyproject.toml")], {}),
        (stand_ins, "pip_install_private_repos", ["github.com/a/b"], hush),
        (stand_ins, "poetry_install_from_file", [str(folder / "pyproject.toml")], {}),
        (stand_ins, "apt_install", ["tree"], {}),
        (stand_ins, "micromamba_install", ["xtensor"], {}),
        (stand_ins, "run_commands", ["true"], {}),
        (stand_ins, "dockerfile_commands", ["RUN true"], {}),
        (base, "uv_pip_install", ["pip"], {"extra_options": "--no-index"}),
        (base, "uv_sync", [str(folder / "for-uv")], {}),
    ]
    for on, name, arguments, keywords in calls:
        if not hasattr(on, name):
            continue
        kept = made(getattr(on, name)(*arguments, **keywords))
        assert made(getattr(on, name)(*arguments, **keywords)) == kept, f"{name} built an image again"
        forced = made(getattr(on, name)(*arguments, **keywords, force_build=True))
        assert forced != kept, f"{name} did not build the image again"


def check_a_registrys_image_is_looked_for_again_when_forced():
    kept = made(modal.Image.from_registry("python:3.11-slim"))
    assert made(modal.Image.from_registry("python:3.11-slim")) == kept
    assert made(modal.Image.from_registry("python:3.11-slim", force_build=True)) != kept


def check_a_gpu_during_a_build_is_refused():
    file = str(local_folder({"needed.txt": "six", "pyproject.toml": "[project]\nname='a'\ndependencies=['six']\n"}))
    dockerfile = str(local_folder({"Dockerfile": "FROM python:3.11-slim\nRUN true\n"}) / "Dockerfile")
    images = [
        base.pip_install("six", gpu="T4"),
        base.pip_install_from_requirements(f"{file}/needed.txt", gpu="T4"),
        base.pip_install_from_pyproject(f"{file}/pyproject.toml", gpu="T4"),
        base.apt_install("jq", gpu="T4"),
        base.run_commands("true", gpu="T4"),
        base.dockerfile_commands("RUN true", gpu="T4"),
        base.micromamba_install("xtensor", gpu="T4"),
        base.poetry_install_from_file(f"{file}/pyproject.toml", ignore_lockfile=True, gpu="T4"),
        base.pip_install_private_repos("github.com/a/b", git_user="a", secrets=[modal.Secret.from_dict({})], gpu="T4"),
        modal.Image.from_dockerfile(dockerfile, gpu="T4"),
    ]
    if hasattr(base, "uv_pip_install"):
        images += [base.uv_pip_install("six", gpu="T4"), base.uv_sync(file, gpu="T4")]
    for image in images:
        said = refusal(image)
        assert "GPU" in said, said


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
