"""Uses the classes of `deployed_classes.py` from a program of its own: `python look_up_classes.py APP`."""

import sys

import modal

APP = sys.argv[1]
OLD = modal.__version__.startswith("0.6")
OLD_APP = "-0.6" in APP
TimeoutErrors = (TimeoutError, modal.exception.TimeoutError)


def look_up(name):
    return modal.Cls.lookup(APP, name) if OLD else modal.Cls.from_name(APP, name)


def check_methods_are_called():
    plain = look_up("Plain")()
    assert plain.who.remote()[0] == "base"
    assert plain.steps_taken.remote() == ["entered"]


def check_generators_are_called():
    assert list(look_up("Plain")().up_to.remote_gen(3)) == [0, 1, 2]


def check_a_method_is_spawned_and_mapped():
    plain = look_up("Plain")()
    assert plain.slow.spawn(0).get(timeout=60) == 0
    assert list(plain.slow.map([0, 0])) == [0, 0]


def check_parameters_are_given():
    Model = look_up("Model")
    assert Model(name="a", size=7).describe.remote() == "a:7"
    assert Model(name="b", size=3).describe.remote() == "b:3"


def check_options_make_a_pool_of_their_own():
    Plain = look_up("Plain")
    quick = Plain.with_options(timeout=2)()
    try:
        quick.slow.remote(60)
    except TimeoutErrors:
        pass
    else:
        raise AssertionError("it ran on")
    assert quick.who.remote()[2] != Plain().who.remote()[2]


def check_two_instances_with_the_same_options_share_a_pool():
    Plain = look_up("Plain")
    one, other = Plain.with_options(timeout=50)(), Plain.with_options(timeout=50)()
    # The id that calls go to is that of the pool.
    one.who.remote(), other.who.remote()
    assert one.who.object_id == other.who.object_id


def check_an_instance_is_scaled():
    model = look_up("Model")(name="warm", size=1)
    if hasattr(model, "update_autoscaler"):
        model.update_autoscaler(min_containers=1)
        model.update_autoscaler(min_containers=0)
    else:
        model.keep_warm(1)
        model.keep_warm(0)
    assert model.describe.remote() == "warm:1"


def refused(kinds, call):
    try:
        value = call()
    except kinds as raised:
        print("refused:", raised, flush=True)
        return str(raised)
    raise AssertionError(f"returned {value!r}")


def check_a_class_that_is_not_there_is_refused_with_near_names():
    said = refused(modal.exception.NotFoundError, lambda: look_up("Modle")().describe.remote())
    assert "`Modle`" in said and "did you mean `Model`?" in said, said


def look_up_function(app, name):
    if OLD:
        return modal.Function.lookup(app, name)
    function = modal.Function.from_name(app, name)
    function.hydrate()
    return function


def check_a_function_or_an_app_that_is_not_there_is_refused_with_near_names():
    said = refused(modal.exception.NotFoundError, lambda: look_up_function(APP, "dubble"))
    assert "did you mean `double`?" in said, said
    said = refused(modal.exception.NotFoundError, lambda: look_up_function(APP[:-1] + "0", "double"))
    assert f"`{APP}`" in said, said


def check_a_class_is_not_looked_up_as_a_function():
    said = refused(modal.exception.NotFoundError, lambda: look_up_function(APP, "Plain"))
    assert "modal.Cls" in said, said


def check_a_method_is_looked_up_as_a_function_by_the_oldest_client():
    if not OLD:
        return "skip: later clients do not"
    assert look_up_function(APP, "Plain.who").remote()[0] == "base"


def check_a_method_that_is_not_there_is_refused():
    refused((modal.exception.NotFoundError, AttributeError), lambda: look_up("Plain")().whom.remote())


def check_a_parameter_that_is_not_there_is_refused():
    if OLD_APP:
        return "skip: parameters of `__init__` are checked in the container"
    # The oldest client takes it and leaves it out.
    if not OLD:
        refused((TypeError, modal.exception.Error), lambda: look_up("Model")(name="a", colour="red").describe.remote())
    refused((TypeError, modal.exception.Error), lambda: look_up("Model")(name=5, size=3).describe.remote())


import checks  # noqa: E402

checks.run(globals())
