"""Classes as clients before 1.0 spell them: `__init__` with parameters, `keep_warm`, `allow_concurrent_inputs`, `lookup`."""

import os
import sys
import time

import modal

app = modal.App("old-classes")
TASK = "MODAL_TASK_ID"


@app.cls(container_idle_timeout=10, concurrency_limit=2, allow_concurrent_inputs=2)
class Model:
    def __init__(self, name="none", size=3):
        self.name = name
        self.size = size

    @modal.enter()
    def load(self):
        self.loaded = f"{self.name}:{self.size}"

    @modal.exit()
    def leave(self):
        print("old model leaves", self.name, flush=True)

    @modal.method()
    def describe(self):
        return [self.loaded, os.environ[TASK]]

    @modal.method()
    def count(self, n):
        for i in range(n):
            yield f"{self.name}{i}"

    @modal.method()
    def slow(self, seconds):
        time.sleep(seconds)
        return os.environ[TASK]


def check_parameters_of_init_make_a_pool_each():
    (one, first), (two, second) = Model("a").describe.remote(), Model(name="b", size=5).describe.remote()
    assert [one, two] == ["a:3", "b:5"] and first != second
    assert Model("a").describe.remote()[0] == "a:3"


def check_defaults_of_init_need_no_parameters():
    assert Model().describe.remote()[0] == "none:3"


def check_a_generator_of_an_instance():
    assert list(Model("z").count.remote_gen(2)) == ["z0", "z1"]


def check_a_method_of_an_instance_is_mapped():
    answers = list(Model("m").slow.map([0.1] * 4))
    assert len(answers) == 4 and all(task.startswith("ta-") for task in answers), answers


def check_parameters_that_do_not_fit_fail_with_the_reason():
    try:
        Model("a", 1, "too many").describe.remote()
    except Exception as raised:
        assert "argument" in str(raised), raised
    else:
        raise AssertionError("it was taken")


def check_an_instance_is_kept_warm():
    model = Model("warm")
    model.keep_warm(1)
    first = model.describe.remote()
    assert first[0] == "warm:3"
    model.keep_warm(0)


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
