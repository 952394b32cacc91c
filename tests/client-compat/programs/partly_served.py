"""An app that asks for some things that are not served yet, and for many that are.

With `APP_NAME` it can be deployed; `GPU=` makes `changing` one of those that are not served.
"""

import os
import sys
import time

import modal

NAME = os.environ.get("APP_NAME", "partly-served")
OLD_NAMES = modal.__version__.startswith("0.63")
app = modal.App(NAME)
web_endpoint = modal.web_endpoint if OLD_NAMES else modal.fastapi_endpoint
warm = {"keep_warm" if OLD_NAMES else "min_containers": 1}
one_at_a_time = {"concurrency_limit" if OLD_NAMES else "max_containers": 1}


@app.function()
def plain(x):
    return x + 1


# Nobody's machine has that memory: of what never runs it does not matter.
@app.function(gpu="A10G", memory=1 << 30, schedule=modal.Period(seconds=1), **warm)
def trained(x=0):
    return x


@app.function()
@web_endpoint()
def hello():
    return "hi"


@app.function(gpu=os.environ.get("GPU") or None, **one_at_a_time)
def changing(seconds):
    time.sleep(seconds)
    return "changing"


def answering(said):
    async def answer(scope, receive, send):
        raise NotImplementedError(said)

    return answer


@app.cls()
class Mixed:
    @modal.method()
    def work(self, x):
        return x * 2

    @modal.asgi_app()
    def ui(self):
        return answering("nobody asks")


@app.cls(**warm)
class OnlyWeb:
    @modal.asgi_app()
    def ui(self):
        return answering("nobody asks")

    @modal.wsgi_app()
    def old_ui(self):
        return answering("nobody asks")


@app.cls(gpu="H100", **warm)
class OnGpu:
    @modal.method()
    def work(self, x):
        return x


if not OLD_NAMES:

    @app.function(gpu=["H100", "A100"])
    def either(x):
        return x


def refusal(call, *arguments):
    from checks import raises

    raised = raises(Exception, call, *arguments)
    said = str(getattr(raised, "message", None) or raised)
    print("refused with:", said)
    return said


def check_what_is_served_works():
    assert plain.remote(1) == 2
    assert list(plain.map([1, 2, 3])) == [2, 3, 4]


def check_a_method_beside_a_web_endpoint_works():
    assert Mixed().work.remote(2) == 4


def check_a_call_of_what_is_not_served_is_refused_with_function_and_feature():
    words = "function `trained` uses GPUs (`gpu=`), which Dorian does not serve yet"
    assert words in refusal(trained.remote, 1)
    assert words in refusal(trained.spawn, 1)
    assert words in refusal(lambda: list(trained.map([1, 2])))
    assert "class `OnGpu` uses GPUs (`gpu=`)" in refusal(OnGpu().work.remote, 1)


def check_a_list_of_gpus_is_one_of_them():
    if OLD_NAMES:
        return "skip"
    assert "function `either` uses GPUs" in refusal(either.remote, 1)


def check_web_endpoints_are_refused_by_name():
    words = "function `hello` is a web endpoint (`@modal.fastapi_endpoint`), which Dorian does not serve yet"
    assert words in refusal(hello.remote)
    assert "`Mixed.ui` is a web endpoint (`@modal.asgi_app`)" in refusal(Mixed().ui.remote)
    assert "is a web endpoint (`@modal.asgi_app`)" in refusal(OnlyWeb().ui.remote)


def check_options_that_are_not_served_are_refused_and_others_are_not():
    if not hasattr(Mixed, "with_options"):
        return "skip"
    assert Mixed.with_options(timeout=77)().work.remote(4) == 8
    assert "class `Mixed` uses GPUs (`gpu=`)" in refusal(Mixed.with_options(gpu="T4")().work.remote, 1)
    if hasattr(plain, "with_options"):
        assert "function `plain` uses GPUs (`gpu=`)" in refusal(plain.with_options(gpu="T4").remote, 1)


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
