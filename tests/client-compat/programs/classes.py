"""Classes as current clients spell them: hooks, methods, parameters, options, inheritance."""

import asyncio
import os
import sys
import time

import modal

app = modal.App("classes")
TASK = "MODAL_TASK_ID"


@app.cls(enable_memory_snapshot=True)
class Counter:
    @modal.enter(snap=True)
    def first(self):
        self.steps = ["snap"]

    @modal.enter()
    def second(self):
        self.steps.append("enter")

    @modal.enter()
    async def third(self):
        await asyncio.sleep(0)
        self.steps.append("async enter")

    @modal.exit()
    def leave(self):
        print("counter leaves", len(self.steps), flush=True)

    @modal.method()
    def steps_taken(self):
        return self.steps

    @modal.method()
    def add(self, a, b=1):
        return a + b

    @modal.method()
    async def add_async(self, a, b):
        await asyncio.sleep(0.01)
        return a + b

    @modal.method()
    def up_to(self, n):
        yield from range(n)

    @modal.method()
    async def up_to_async(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    @modal.method()
    def fail(self):
        raise ValueError("no such number")

    @modal.method()
    def add_twice(self, a):
        return self.add.local(a) + self.add.remote(a)

    @modal.method()
    def task(self):
        return os.environ[TASK]


class Base:
    @modal.enter()
    def set_up(self):
        self.made_by = "base"

    @modal.method()
    def inherited(self):
        return [self.made_by, self.kind()]

    def kind(self):
        return "base"


@app.cls()
class Derived(Base):
    def kind(self):
        return "derived"

    @modal.method()
    def own(self):
        return self.kind()


@app.cls(serialized=True)
class Packed:
    @modal.enter()
    def set_up(self):
        self.value = 7

    @modal.method()
    def get(self):
        return self.value


# `modal.parameter` is not in the oldest client; it has no other form of typed parameters either.
if hasattr(modal, "parameter"):

    @app.cls()
    class Model:
        name: str = modal.parameter()
        size: int = modal.parameter(default=3)

        @modal.enter()
        def load(self):
            self.loaded = f"{self.name}:{self.size}"

        @modal.method()
        def describe(self):
            return [self.loaded, os.environ[TASK]]

        @modal.method()
        def count(self, n):
            for i in range(n):
                yield f"{self.name}{i}"


@app.cls(timeout=60, secrets=[modal.Secret.from_dict({"WHO": "base"})])
class Plain:
    @modal.method()
    def who(self):
        return [os.environ.get("WHO"), os.environ[TASK]]

    @modal.method()
    def slow(self, seconds):
        time.sleep(seconds)
        return seconds


@app.cls()
class Batcher:
    @modal.method()
    def sizes(self, numbers):
        return [(number, len(numbers)) for number in numbers]


@app.function(secrets=[modal.Secret.from_dict({"WHO": "base"})])
def whoami():
    return [os.environ.get("WHO"), os.environ[TASK]]


@app.function()
def calls_a_class(n):
    return [Counter().add.remote(n), list(Counter().up_to.remote_gen(n)), Derived().inherited.remote()]


def check_enter_hooks_run_in_order_before_the_first_call():
    assert Counter().steps_taken.remote() == ["snap", "enter", "async enter"]


def check_methods_take_arguments_and_defaults():
    counter = Counter()
    assert counter.add.remote(1) == 2
    assert counter.add.remote(1, b=5) == 6
    assert counter.add_async.remote(2, 3) == 5


def check_generators_are_methods_too():
    assert list(Counter().up_to.remote_gen(4)) == [0, 1, 2, 3]
    assert list(Counter().up_to_async.remote_gen(3)) == [0, 1, 2]


def check_a_method_is_mapped_and_spawned():
    counter = Counter()
    assert sorted(counter.add.map([1, 2, 3])) == [2, 3, 4]
    assert list(counter.add.starmap([(1, 2), (3, 4)])) == [3, 7]
    assert counter.add.spawn(5).get(timeout=60) == 6


def check_an_exception_of_a_method_is_raised_here():
    try:
        Counter().fail.remote()
    except ValueError as raised:
        assert str(raised) == "no such number"
    else:
        raise AssertionError("nothing was raised")


def check_methods_call_each_other():
    assert Counter().add_twice.remote(1) == 4


def pool(method, *arguments):
    """The id that the method's calls go to: it is the same for whatever shares containers."""
    method.remote(*arguments)
    return method.object_id


def check_all_methods_share_a_pool():
    counter = Counter()
    assert pool(counter.add, 1) == pool(counter.task) == pool(Counter().task)


def check_methods_are_inherited():
    assert Derived().inherited.remote() == ["base", "derived"]
    assert Derived().own.remote() == "derived"


def check_a_serialized_class_travels_with_its_definition():
    assert Packed().get.remote() == 7


def check_a_function_calls_classes_of_its_app():
    assert calls_a_class.remote(2) == [3, [0, 1], ["base", "derived"]]


def check_each_parameter_set_has_its_own_pool():
    if not hasattr(modal, "parameter"):
        return "skip: not in this client"
    (one, first), (two, second) = Model(name="a").describe.remote(), Model(name="b", size=5).describe.remote()
    assert [one, two] == ["a:3", "b:5"] and first != second
    ids = [pool(Model(**values).describe) for values in ({"name": "a"}, {"name": "a", "size": 3}, {"name": "b"})]
    assert ids[0] == ids[1] != ids[2], ids


def check_a_generator_of_an_instance_with_parameters():
    if not hasattr(modal, "parameter"):
        return "skip: not in this client"
    assert list(Model(name="z").count.remote_gen(2)) == ["z0", "z1"]


def check_a_parameter_of_the_wrong_type_is_refused():
    if not hasattr(modal, "parameter"):
        return "skip: not in this client"
    for wrong in ({"name": 1}, {"name": "a", "size": "large"}):
        try:
            Model(**wrong).describe.remote()
        except (TypeError, modal.exception.Error) as raised:
            print("refused:", type(raised).__name__, raised)
        else:
            raise AssertionError(f"{wrong} was taken")


def check_a_missing_and_an_unknown_parameter_are_refused():
    if not hasattr(modal, "parameter"):
        return "skip: not in this client"
    for wrong in ({}, {"name": "a", "colour": "red"}):
        try:
            Model(**wrong).describe.remote()
        except (TypeError, KeyError, AttributeError, modal.exception.Error) as raised:
            print("refused:", type(raised).__name__, raised)
        else:
            raise AssertionError(f"{wrong} was taken")


def check_options_make_another_pool_and_leave_the_base_alone():
    if not hasattr(modal, "parameter"):
        return "skip: the oldest client has options for look-ups only"
    base, first = Plain().who.remote()
    other = Plain.with_options(secrets=[modal.Secret.from_dict({"WHO": "other"})])
    changed, second = other().who.remote()
    assert [base, changed] == ["base", "other"], [base, changed]
    assert first != second
    # Client 1.0 changes the options of the class itself as well.
    assert Plain().who.remote()[0] == ("other" if modal.__version__.startswith("1.0.") else "base")


def check_a_timeout_of_the_options_ends_an_input():
    if not hasattr(modal, "parameter"):
        return "skip: the oldest client has options for look-ups only"
    quick = Plain.with_options(timeout=2)()
    try:
        quick.slow.remote(60)
    except (TimeoutError, modal.exception.TimeoutError):
        pass
    else:
        raise AssertionError("it ran on")
    assert quick.slow.remote(0) == 0


def check_concurrency_of_an_instance_lets_inputs_share_a_container():
    if not hasattr(modal.Cls, "with_concurrency"):
        return "skip: not in this client"
    shared = Plain.with_concurrency(max_inputs=4)()
    calls = [shared.slow.spawn(1) for _ in range(4)]
    assert [call.get(timeout=60) for call in calls] == [1, 1, 1, 1]


def check_batching_of_an_instance_hands_lists_to_its_method():
    if not hasattr(modal.Cls, "with_batching"):
        return "skip: not in this client"
    batched = Batcher.with_batching(max_batch_size=4, wait_ms=5000)()
    answers = list(batched.sizes.map(range(8)))
    assert [number for number, _ in answers] == list(range(8)), answers
    sizes = [size for _, size in answers]
    assert 1 < max(sizes) <= 4, sizes


def check_a_function_has_options_too():
    if not hasattr(modal.Function, "with_options"):
        return "skip: not in this client"
    other = whoami.with_options(secrets=[modal.Secret.from_dict({"WHO": "other"})], max_containers=1)
    (base, first), (changed, second) = whoami.remote(), other.remote()
    assert [base, changed] == ["base", "other"], [base, changed]
    assert first != second


def check_an_instance_is_kept_warm():
    if not hasattr(modal, "parameter"):
        return "skip: see the program for the oldest client"
    model = Model(name="warm")
    if hasattr(model, "update_autoscaler"):
        model.update_autoscaler(min_containers=1, scaledown_window=2)
    else:
        model.keep_warm(1)
    method = model.describe
    method.hydrate()
    until = time.time() + 60
    while not method.get_current_stats().num_total_runners:
        assert time.time() < until, "no container came without a call"
        time.sleep(0.2)
    assert method.remote()[0] == "warm:3"


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
