"""Images from registries: one that anybody may read, and one that asks who is there. The test serves both on loopback."""

import os
import sys

import modal
from image_tools import NOT_IN_THIS_CLIENT, VERSION, local_folder, look, made, refusal

app = modal.App("image-registry")
OPEN = os.environ.get("CHECK_OPEN", "127.0.0.1:1/not:used")
PRIVATE = os.environ.get("CHECK_PRIVATE", "127.0.0.1:1/not:used")

FROM_IT = {"kept": "open('/srv/kept').read()", "variable": "os.environ.get('FROM_THE_IMAGE')"}
SEEN = {"kept": "kept", "variable": "yes"}


def secret(**variables):
    return modal.Secret.from_dict(variables)


READER = secret(REGISTRY_USERNAME="reader", REGISTRY_PASSWORD="let me in")
AMAZON = secret(AWS_ACCESS_KEY_ID="AKIDCHECK", AWS_SECRET_ACCESS_KEY="wJalr/check", AWS_REGION="eu-north-1")
GOOGLE = secret(SERVICE_ACCOUNT_JSON='{"type": "service_account"}')


# The same for all, so that what clients put on it is built once.
SETUP = ["ENV UP=yes", "RUN echo $UP > /up"]
UP = {"up": "open('/up').read().strip()", **FROM_IT}


def check_from_registry_builds_on_an_image():
    found = look(modal.Image.from_registry(OPEN, setup_dockerfile_commands=SETUP), **UP)
    assert found == {**SEEN, "up": "yes"}, found


def check_from_registry_logs_in_with_a_secret():
    image = modal.Image.from_registry(PRIVATE, secret=READER, setup_dockerfile_commands=SETUP)
    assert look(image, **UP) == {**SEEN, "up": "yes"}
    # That it was built for somebody does not make it everybody's.
    wrong = secret(REGISTRY_USERNAME="reader", REGISTRY_PASSWORD="guess")
    said = refusal(modal.Image.from_registry(PRIVATE, secret=wrong, setup_dockerfile_commands=SETUP))
    assert PRIVATE.split("/")[0] in said and "guess" not in said, said
    said = refusal(modal.Image.from_registry(PRIVATE, setup_dockerfile_commands=SETUP))
    assert "REGISTRY_USERNAME" in said and "secret" in said, said


def assert_takes_options(from_cloud, given):
    """As `from_registry` does: commands before the client's, a Python, being built again."""
    assert look(from_cloud(PRIVATE, secret=given, setup_dockerfile_commands=SETUP), **UP) == {**SEEN, "up": "yes"}
    added = from_cloud(PRIVATE, secret=given, setup_dockerfile_commands=SETUP, add_python="3.11")
    assert look(added, python="os.path.realpath(sys.executable)")["python"].startswith("/usr/local/bin/python3")
    kept = made(from_cloud(PRIVATE, secret=given))
    assert made(from_cloud(PRIVATE, secret=given)) == kept
    assert made(from_cloud(PRIVATE, secret=given, force_build=True)) != kept


def check_from_gcp_artifact_registry_logs_in_with_a_service_account():
    said = refusal(modal.Image.from_gcp_artifact_registry(PRIVATE, secret=secret(OTHER="x")))
    assert "SERVICE_ACCOUNT_JSON" in said, said
    assert_takes_options(modal.Image.from_gcp_artifact_registry, GOOGLE)


def check_from_aws_ecr_logs_in_with_an_access_key():
    said = refusal(modal.Image.from_aws_ecr(PRIVATE, secret=secret(AWS_REGION="eu-north-1", AWS_ROLE_ARN="arn:x")))
    assert "AWS_ROLE_ARN" in said and "AWS_ACCESS_KEY_ID" in said, said
    assert_takes_options(modal.Image.from_aws_ecr, AMAZON)


def check_from_dockerfile_logs_in_with_a_secret():
    if VERSION < (1, 1):
        return NOT_IN_THIS_CLIENT
    path = local_folder({"Dockerfile": f"FROM {PRIVATE}\nRUN echo yes > /up\n"}) / "Dockerfile"
    image = modal.Image.from_dockerfile(path, registry_secret=READER)
    assert look(image, **FROM_IT, up="open('/up').read().strip()") == {**SEEN, "up": "yes"}


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
