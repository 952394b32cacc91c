"""Deploys apps of many functions that nobody calls: `python many_idle_apps.py APPS FUNCTIONS`; with `look` it counts
their containers."""

import sys

import modal


def work(x):
    return x


def app_of(number, functions):
    app = modal.App(f"idle-{number}")
    for index in range(functions):
        app.function(name=f"work-{index}", serialized=True)(work)
    return app


def deploy(apps, functions):
    for number in range(apps):
        app = app_of(number, functions)
        if hasattr(app, "deploy"):
            app.deploy(name=f"idle-{number}")
        else:
            from modal.runner import deploy_app

            deploy_app(app, name=f"idle-{number}")
    print(f"deployed {apps} apps with {functions} functions each", flush=True)


def look(apps, functions):
    find = getattr(modal.Function, "lookup", modal.Function.from_name)
    found = [find(f"idle-{number}", f"work-{index}") for number in range(apps) for index in range(functions)]
    stats = [function.get_current_stats() for function in found]
    count = sum(getattr(s, "num_total_runners", 0) or getattr(s, "num_total_tasks", 0) for s in stats)
    print(f"{len(stats)} functions have {count} containers", flush=True)


if __name__ == "__main__":
    {"deploy": deploy, "look": look}[(sys.argv[3:] or ["deploy"])[0]](int(sys.argv[1]), int(sys.argv[2]))
