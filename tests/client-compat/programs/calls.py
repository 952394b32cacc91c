"""Every way to call a function and to get its answer."""

import asyncio
import dataclasses
import datetime
import decimal
import os
import sys
import time

import modal

app = modal.App("calls")
# The setting's older name, for clients before 0.73.
NEW_NAMES = tuple(int(part) for part in modal.__version__.split(".")[:2]) >= (0, 73)
IN_ONE_CONTAINER = {"max_containers": 1} if NEW_NAMES else {"concurrency_limit": 1}
TimeoutErrors = (TimeoutError, modal.exception.TimeoutError)


@app.function()
def square(x):
    return x * x


@app.function()
def combine(a, b=10, *rest, c=100, **more):
    return [a, b, list(rest), c, more]


@app.function()
def echo(value):
    return value


@app.function()
def slow_echo(value, seconds):
    time.sleep(seconds)
    return value


@app.function()
async def async_add(a, b):
    await asyncio.sleep(0.01)
    return a + b


@app.function()
def count_to(n):
    for i in range(n):
        yield i


@app.function()
async def async_count_to(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@app.function()
def count_then_fail(n):
    yield from range(n)
    raise ValueError("the well is dry")


@app.function()
def fail_on_three(x):
    if x == 3:
        raise ValueError(f"no {x} here")
    return x


@app.function()
def sum_of_squares(n):
    return sum(square.map(range(n)))


@app.function()
def factorial(n):
    return 1 if n < 2 else n * factorial.remote(n - 1)


@app.function()
def where_am_i():
    return {
        "is_local": modal.is_local(),
        "input": modal.current_input_id(),
        "call": modal.current_function_call_id(),
        "task": os.environ.get("MODAL_TASK_ID"),
    }


@app.function(**IN_ONE_CONTAINER)
def announce(x):
    print(f"announced {x}", flush=True)


class OrderRefused(Exception):
    def __init__(self, item, amount):
        super().__init__(item, amount)
        self.item, self.amount = item, amount


@app.function()
def refuse(item, amount):
    try:
        {}["stock"]
    except KeyError as cause:
        raise OrderRefused(item, amount) from cause


@dataclasses.dataclass
class Order:
    item: str
    amount: int


@app.function()
def double(order):
    return Order(order.item, order.amount * 2)


def with_factor(factor):
    @app.function(serialized=True, name=f"times_{factor}")
    def times(x):
        return x * factor

    return times


times_seven = with_factor(7)


def function_call(call_id):
    return modal.functions.FunctionCall.from_id(call_id)


def unwrapped(value):
    """Old clients wrap an exception that `map` returns."""
    return getattr(value, "exc", value) if isinstance(value, BaseException) else value


# --- remote and local


def check_an_id_that_is_no_calls_is_named_as_such():
    from checks import raises

    raises(Exception, lambda: function_call("nonsense").get(timeout=5))
    said = str(raises(Exception, lambda: function_call("fc-nonsense").get(timeout=5)))
    assert "there is no function call `fc-nonsense`" in said, said


def check_remote_returns_the_value():
    assert square.remote(12) == 144


def check_local_runs_in_this_process():
    assert square.local(12) == 144


def check_arguments_arrive_by_position_name_and_default():
    assert combine.remote(1) == [1, 10, [], 100, {}]
    assert combine.remote(1, 2, 3, 4, c=5, d=6) == [1, 2, [3, 4], 5, {"d": 6}]
    assert combine.remote(a=7, b=8) == [7, 8, [], 100, {}]


def check_arguments_and_results_keep_their_types():
    values = [
        None, True, 0, -(2**70), 1.5, float("inf"), "", "häß 🦀", b"", b"\x00\xff", (1, (2,)), [1, [2]], {1: {2: 3}},
        {1, 2}, frozenset({3}), 3 + 4j, datetime.datetime(2026, 2, 3, tzinfo=datetime.timezone.utc),
        decimal.Decimal("1.10"), range(3), ..., slice(1, 2),
    ]  # fmt: skip
    returned = echo.remote(values)
    assert returned == values, returned
    assert [type(v) for v in returned] == [type(v) for v in values]


def check_a_dataclass_of_the_program_travels_both_ways():
    result = double.remote(Order("apple", 4))
    assert result == Order("apple", 8), result
    assert type(result) is Order


def check_an_async_function_is_called_like_any_other():
    assert async_add.remote(2, 3) == 5


def check_a_function_knows_where_it_runs():
    here = where_am_i.remote()
    assert here["is_local"] is False
    assert here["input"].startswith("in-"), here
    assert here["call"].startswith("fc-"), here
    assert here["task"].startswith("ta-"), here
    assert modal.is_local()


def check_a_serialized_function_keeps_its_closure():
    assert times_seven.remote(6) == 42


# --- generators


def check_remote_gen_yields_everything_in_order():
    assert list(count_to.remote_gen(57)) == list(range(57))


def check_remote_gen_of_nothing_ends():
    assert list(count_to.remote_gen(0)) == []


def check_remote_gen_works_on_an_async_generator():
    assert list(async_count_to.remote_gen(20)) == list(range(20))


def check_a_generator_that_fails_yields_first_then_raises():
    received = []
    try:
        for item in count_then_fail.remote_gen(3):
            received.append(item)
    except ValueError as raised:
        assert "the well is dry" in str(raised)
    else:
        raise AssertionError(f"did not raise after {received}")
    assert received == [0, 1, 2], received


# --- map and its relatives


def check_map_returns_in_the_order_of_the_inputs():
    assert list(square.map(range(200))) == [i * i for i in range(200)]


def check_unordered_map_returns_every_result_once():
    assert sorted(square.map(range(200), order_outputs=False)) == [i * i for i in range(200)]


def check_map_over_nothing_is_empty():
    assert list(square.map([])) == []


def check_map_takes_one_iterator_per_argument_and_keywords():
    assert list(combine.map([1, 2, 3], [4, 5, 6], kwargs={"c": 7})) == [
        [1, 4, [], 7, {}],
        [2, 5, [], 7, {}],
        [3, 6, [], 7, {}],
    ]


def check_map_takes_a_generator():
    assert list(square.map(i for i in range(10))) == [i * i for i in range(10)]


def check_map_raises_the_first_exception():
    from checks import raises

    assert "no 3 here" in str(raises(ValueError, lambda: list(fail_on_three.map(range(5)))))


def check_map_returns_exceptions_in_place_when_asked():
    results = [unwrapped(v) for v in fail_on_three.map(range(6), return_exceptions=True)]
    assert [v for v in results if not isinstance(v, Exception)] == [0, 1, 2, 4, 5], results
    assert type(results[3]) is ValueError and str(results[3]) == "no 3 here", results


def check_starmap_spreads_its_tuples():
    assert list(combine.starmap([(1, 2), (3, 4)])) == [[1, 2, [], 100, {}], [3, 4, [], 100, {}]]


def check_for_each_returns_nothing_when_all_are_done():
    assert square.for_each(range(20)) is None


def check_for_each_raises_unless_told_to_ignore():
    from checks import raises

    raises(ValueError, lambda: fail_on_three.for_each(range(5)))
    fail_on_three.for_each(range(5), ignore_exceptions=True)


def check_maps_may_be_nested_in_functions():
    assert sum_of_squares.remote(10) == sum(i * i for i in range(10))


def check_a_function_may_call_itself():
    assert factorial.remote(4) == 24


# --- spawn and function calls


def check_spawn_answers_when_asked():
    call = square.spawn(9)
    assert call.object_id.startswith("fc-")
    assert call.get() == 81


def check_a_result_may_be_fetched_twice():
    call = square.spawn(9)
    assert [call.get(), call.get()] == [81, 81]


def check_get_with_a_timeout_gives_up_and_can_be_repeated():
    from checks import raises

    call = slow_echo.spawn("late", 5)
    raises(TimeoutErrors, call.get, timeout=0)
    raises(TimeoutErrors, call.get, timeout=0.5)
    assert call.get(timeout=60) == "late"
    assert call.get(timeout=0) == "late"


def check_a_function_call_is_found_by_its_id():
    assert function_call(square.spawn(11).object_id).get() == 121


def check_a_spawned_exception_is_raised_by_get():
    from checks import raises

    call = fail_on_three.spawn(3)
    assert str(raises(ValueError, call.get)) == "no 3 here"


def check_cancel_ends_a_running_call():
    from checks import raises

    call = slow_echo.spawn("never", 300)
    time.sleep(1)
    call.cancel()
    raised = raises(Exception, call.get, timeout=60)
    assert not isinstance(raised, TimeoutErrors), f"still running after 60 s: {raised!r}"


def check_gather_collects_in_order():
    gather = getattr(modal.FunctionCall, "gather", None) if hasattr(modal, "FunctionCall") else None
    gather = gather or modal.functions.gather
    assert list(gather(square.spawn(2), slow_echo.spawn("b", 0.5), square.spawn(4))) == [4, "b", 16]


def check_gather_raises_what_failed():
    from checks import raises

    gather = getattr(modal.FunctionCall, "gather", None) if hasattr(modal, "FunctionCall") else None
    raises(ValueError, gather or modal.functions.gather, square.spawn(2), fail_on_three.spawn(3))


def check_spawn_map_runs_every_input():
    if not hasattr(square, "spawn_map"):
        return "skip: came with 1.0"
    # The test looks for all ten lines in the output.
    announce.spawn_map(range(10))
    # There is one container, which takes the inputs in their order.
    announce.remote("last")


def check_experimental_spawn_map_gives_a_call_to_iterate():
    if not hasattr(square, "experimental_spawn_map"):
        return "skip: came after 1.0"
    call = square.experimental_spawn_map(range(30))
    assert call.num_inputs() == 30
    assert list(call.iter()) == [i * i for i in range(30)]
    assert call.get(index=5) == 25


def check_the_call_graph_shows_the_nested_calls():
    call = sum_of_squares.spawn(3)
    assert call.get() == 5
    graph = call.get_call_graph()
    (root,) = [node for node in graph if node.function_call_id == call.object_id]
    assert root.function_name == "sum_of_squares", root
    assert [child.function_name for child in root.children] == ["square"] * 3, root
    assert all(node.status.name == "SUCCESS" for node in [root, *root.children]), root


# --- the async forms


async def check_remote_aio():
    assert await square.remote.aio(5) == 25


async def check_map_aio():
    assert [value async for value in square.map.aio(range(20))] == [i * i for i in range(20)]


async def check_starmap_aio_and_for_each_aio():
    assert [v async for v in combine.starmap.aio([(1, 2)])] == [[1, 2, [], 100, {}]]
    await square.for_each.aio(range(3))


async def check_remote_gen_aio():
    assert [value async for value in count_to.remote_gen.aio(20)] == list(range(20))


async def check_spawn_aio_and_get_aio():
    call = await square.spawn.aio(7)
    assert await call.get.aio() == 49


async def check_many_async_calls_at_once():
    assert await asyncio.gather(*(square.remote.aio(i) for i in range(50))) == [i * i for i in range(50)]


# --- exceptions


def check_an_exception_keeps_its_type_and_message():
    from checks import raises

    raised = raises(ValueError, fail_on_three.remote, 3)
    assert type(raised) is ValueError and raised.args == ("no 3 here",)


def check_an_exception_of_the_program_keeps_its_attributes():
    from checks import raises

    # Its `__cause__` does not travel: the client pickles exceptions with Python's own rules, which leave it out. The
    # container's printed traceback shows it.
    raised = raises(OrderRefused, refuse.remote, "pear", 3)
    assert (raised.item, raised.amount) == ("pear", 3)


def check_an_exception_shows_the_remote_traceback():
    import traceback

    from checks import raises

    raised = raises(OrderRefused, refuse.remote, "pear", 3)
    text = "".join(traceback.format_exception(type(raised), raised, raised.__traceback__))
    assert "in refuse" in text, text
    lines = getattr(raised, "__line_cache__", {}).values()
    assert "raise OrderRefused(item, amount) from cause" in lines, list(lines)


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
