"""Runs the measurements and prints the table. See README.md for what each figure means and what bounds it.

To be run by the Python of the client's environment, which the measured programs use, too.

What is compared is measured in turns, one after the other in each round, so that whatever else the machine does meets
both alike; a figure is the median of its rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import contents
import floor
import images
import table
import volumes
from phases import phases_of_starts
from processes import BENCH, Program, Server
from statistics_of import summary

PARTS = ["calls", "capacity", "memory", "images", "sizes", "contents", "volumes"]
WARM_CALLS = 400
MAP_INPUTS = 5_000


def main():
    options = arguments()
    results = {"when": time.strftime("%Y-%m-%d %H:%M:%S"), "machine": machine(), "rounds": options.rounds}
    if "calls" in options.parts:
        results |= measured_calls(options)
    if "capacity" in options.parts:
        results["capacity"] = measured_capacity(options)
    if "memory" in options.parts:
        results["queue"] = measured_queue(options)
    if "images" in options.parts:
        results["images"] = images.measure_builds(options, say)
    if "sizes" in options.parts:
        results["sizes"] = images.measure_sizes(options, say)
    if "contents" in options.parts:
        results["contents"] = contents.measure(options, say)
    if "volumes" in options.parts:
        results["volumes"] = volumes.measure(options, say)
    results["load_at_end"] = os.getloadavg()
    path = BENCH / "results" / time.strftime("%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps(results, indent=1))
    print(table.render(results))
    print(f"\nall samples: {path.relative_to(BENCH.parent)}")


def arguments():
    parser = argparse.ArgumentParser(prog="bench/run")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without")
    parser.add_argument("--rounds", type=int, default=7, help="turns of what is compared")
    parser.add_argument("--image-rounds", type=int, default=3, help="the same for image builds, which take minutes")
    parser.add_argument("--data", type=Path, default=BENCH.parent / ".dorian/bench-data")
    parser.add_argument("--binaries", type=Path, required=True)
    parser.add_argument("--ray", required=True)
    parser.add_argument("--redis", required=True, help="a Python with redis-py")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    options.parts = options.parts or PARTS
    return options


def machine():
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    return {"cpu": cpu, "cores": os.cpu_count(), "kernel": os.uname().release, "load_at_start": os.getloadavg()}


def say(text):
    print(f"bench: {text}", flush=True)


def measured_calls(options):
    """Cold starts, warm calls and maps, of Dorian and of Ray; the floor in between; the idle server's memory."""
    say("starting the server and Ray")
    with Server(options.binaries / "dorian", options.data) as server:
        idle = server.memory_mib()
        environment = server.client_environment()
        with (
            Program(sys.executable, BENCH / "programs/dorian_calls.py", env=environment) as dorian,
            Program(options.ray, BENCH / "programs/ray_calls.py") as ray,
        ):
            warm_up(dorian, ray)
            starts_before = len(phases_of_starts(server.log))
            rounds = [one_round(number, options, dorian, ray) for number in range(options.rounds)]
        after = server.memory_mib()
        phases = phases_of_starts(server.log)[starts_before:]
    return {
        "versions": {"modal": dorian.about["version"], "ray": ray.about["version"]},
        "cold": {
            "dorian_ms": [r["dorian_cold"]["first_line_ms"] for r in rounds],
            "ray_ms": [r["ray_cold"]["first_line_ms"] for r in rounds],
            "dorian_answered_ms": [r["dorian_cold"]["answered_ms"] for r in rounds],
            "ray_answered_ms": [r["ray_cold"]["answered_ms"] for r in rounds],
            "phases": phases,
        },
        "warm": {
            name: [summary(r[f"{name}_warm"]["times_us"]) for r in rounds] for name in ("dorian", "ray", "ray_actor")
        },
        "map": {
            "inputs": MAP_INPUTS,
            "dorian_per_second": [MAP_INPUTS / r["dorian_map"]["seconds"] for r in rounds],
            "ray_per_second": [MAP_INPUTS / r["ray_map"]["seconds"] for r in rounds],
        },
        "floor": [r["floor"] for r in rounds],
        "idle_memory_mib": idle,
        "memory_after_calls_mib": after,
        "loads": [r["load"] for r in rounds],
    }


def warm_up(dorian, ray):
    """The first of everything is not counted: images are built, files are read, Ray's first actors take workers that
    it started in advance, one for each core."""
    say("warming up (the first time, this makes the image)")
    for _ in range((os.cpu_count() or 1) + 1):
        ray.ask("cold")
    dorian.ask("cold")
    for program in (dorian, ray):
        program.ask("warm", 50)
        program.ask("map", 500)
    ray.ask("warm-actor", 50)


def one_round(number, options, dorian, ray):
    say(f"round {number + 1} of {options.rounds} (load {os.getloadavg()[0]:.1f})")
    return {
        "dorian_cold": dorian.ask("cold"),
        "ray_cold": ray.ask("cold"),
        "dorian_warm": dorian.ask("warm", WARM_CALLS),
        "ray_warm": ray.ask("warm", WARM_CALLS),
        "ray_actor_warm": ray.ask("warm-actor", WARM_CALLS),
        "dorian_map": dorian.ask("map", MAP_INPUTS),
        "ray_map": ray.ask("map", MAP_INPUTS),
        "floor": floor.measure(options.data, sys.executable),
        "load": os.getloadavg()[0],
    }


def generator(options, *order):
    said = subprocess.run(
        [options.binaries / "dorian-load-generator", *map(str, order)], check=True, capture_output=True, text=True
    )
    return json.loads(said.stdout)


def measured_capacity(options):
    found = []
    for number in range(options.rounds):
        found.append(generator(options, "capacity"))
        say(f"capacity {number + 1} of {options.rounds}: {found[-1]['calls_per_second']:.0f} calls/s")
    return found


def measured_queue(options):
    found = {"short": [], "long": []}
    for number in range(options.rounds):
        found["short"].append(generator(options, "queue", "--inputs", 1_000))
        found["long"].append(generator(options, "queue", "--inputs", 100_000))
        say(f"queue {number + 1} of {options.rounds}: {found['long'][-1]['queued_mib']:.0f} MiB with 100,000 inputs")
    return found


if __name__ == "__main__":
    main()
