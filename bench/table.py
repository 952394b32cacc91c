"""The table: one line a figure, with what it is compared with and whether it is where it should be."""

from statistics_of import median


def render(results):
    parts = (starts, warm_calls, maps, capacity, memory, builds, sizes, contents, volumes, floor)
    rows = [row for part in parts for row in part(results)]
    header = ("", "Dorian", "compared with", "ratio", "bar", "")
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in [header, *rows]]
    lines.insert(1, "  ".join("-" * width for width in widths))
    machine, loads = results["machine"], results.get("loads", [])
    about = f"{machine['cpu']}, {machine['cores']} cores; medians of {results['rounds']} rounds"
    if loads:
        about += f"; load average meanwhile {min(loads):.1f} to {max(loads):.1f}"
    return "\n".join([about, "", *lines])


def judged(value, limit, at_least=False):
    met = value >= limit if at_least else value <= limit
    return "met" if met else "MISSED"


def paired_ratio(ours, theirs):
    """The median of the rounds' own ratios: what disturbs a round disturbs both sides of it."""
    return median([a / b for a, b in zip(ours, theirs)])


def starts(results):
    if "cold" not in results:
        return
    cold = results["cold"]
    ratio = paired_ratio(cold["dorian_ms"], cold["ray_ms"])
    yield (
        "cold start, call to first line",
        f"{median(cold['dorian_ms']):.0f} ms",
        f"Ray, fresh actor: {median(cold['ray_ms']):.0f} ms",
        f"{ratio:.2f}x",
        "1.0x",
        judged(ratio, 1.0),
    )
    if cold["phases"]:
        made, program = (median([p[k] for p in cold["phases"]]) for k in ("create_ms", "program_ms"))
        yield ("  the container is made", f"{made:.1f} ms", "", "", "", "")
        yield ("  interpreter, imports, user's module", f"{program:.0f} ms", "", "", "", "")
        yield ("  the rest: both calls, delivery", f"{median(cold['dorian_ms']) - made - program:.0f} ms", "", "", "", "")


def warm_calls(results):
    if "warm" not in results:
        return
    warm = results["warm"]

    def of(name, key):
        return [r[key] for r in warm[name]]

    for theirs, what, bar in (("ray", "task", "2.5x"), ("ray_actor", "actor's method", "")):
        ratio = paired_ratio(of("dorian", "p50"), of(theirs, "p50"))
        yield (
            f"warm call, p50 (Ray: {what})",
            f"{median(of('dorian', 'p50')) / 1000:.2f} ms",
            f"{median(of(theirs, 'p50')) / 1000:.2f} ms",
            f"{ratio:.2f}x",
            bar,
            judged(ratio, 2.5) if bar else "",
        )
    yield (
        "warm call, p99 (Ray: task)",
        f"{median(of('dorian', 'p99')) / 1000:.2f} ms",
        f"{median(of('ray', 'p99')) / 1000:.2f} ms",
        f"{paired_ratio(of('dorian', 'p99'), of('ray', 'p99')):.2f}x",
        "",
        "",
    )


def maps(results):
    if "map" not in results:
        return
    mapped = results["map"]
    ratio = paired_ratio(mapped["dorian_per_second"], mapped["ray_per_second"])
    yield (
        f"map of {mapped['inputs']:,} no-ops",
        f"{median(mapped['dorian_per_second']):.0f}/s",
        f"Ray, tasks: {median(mapped['ray_per_second']):.0f}/s",
        f"{ratio:.2f}x",
        "0.5x",
        judged(ratio, 0.5, at_least=True),
    )


def capacity(results):
    if "capacity" not in results:
        return
    runs = results["capacity"]
    rate = median([r["calls_per_second"] for r in runs])
    yield (
        "server, calls/s of 8 callers, 8 containers",
        f"{rate:,.0f}/s",
        f"server's CPU: {median([r['server_us_per_call'] for r in runs]):.0f} us a call",
        "",
        "10,000/s",
        judged(rate, 10_000, at_least=True),
    )
    p50 = median([r["latency"]["p50_us"] for r in runs]) / 1000
    p99 = median([r["latency"]["p99_us"] for r in runs]) / 1000
    yield (
        f"server, added latency at {runs[0]['paced_per_second']:,.0f}/s, p50",
        f"{p50:.2f} ms",
        f"p99 {p99:.2f} ms",
        "",
        "0.5 ms",
        judged(p50, 0.5),
    )


def memory(results):
    if "idle_memory_mib" in results:
        idle = sum(results["idle_memory_mib"].values())
        yield ("memory, idle, with the launcher", f"{idle:.0f} MiB", "", "", "60 MB", judged(idle * 1.048576, 60))
    if "queue" in results:
        long, short = results["queue"]["long"], results["queue"]["short"]
        queued = median([r["queued_mib"] for r in long])
        yield ("memory, 100,000 queued inputs", f"{queued:.0f} MiB", "", "", "400 MB", judged(queued * 1.048576, 400))
        rates = [[r["calls_per_second"] for r in runs] for runs in (long, short)]
        ratio = paired_ratio(*rates)
        yield (
            "calls/s while 100,000 are queued",
            f"{median(rates[0]):,.0f}/s",
            f"while 1,000 are: {median(rates[1]):,.0f}/s",
            f"{ratio:.2f}x",
            # Two equal rates differ by this much from one pair to the next.
            "1x, +-5%",
            judged(ratio, 0.95, at_least=True),
        )


# Case: (name in the table, bar for "buildah's time in ours").
BUILDS = {
    "first, cold": ("image: ten packages, first build, cold caches", 1),
    "first, warm": ("  caches warm", None),
    "changed source file": ("image: a source file in the last layer changed", None),
    "one more package": ("image: one more package, a layer of its own", 3),
    "one more in the list, warm": ("  in the same layer; buildah without a cache mount", None),
    "one more in the list, both warm": ("  in the same layer; buildah with one", None),
    "first with uv, cold": ("image: ten packages with uv, cold caches", None),
    "first with uv, warm": ("  caches warm", None),
    "one more package with uv, warm": ("image: one more package with uv, a layer of its own, warm caches", 3),
    "ten steps that do nothing": ("image: ten times `RUN true`", None),
}


def builds(results):
    if "images" not in results:
        return
    rounds = results["images"]["rounds"]
    buildah = f"buildah bud, {results['images']['driver']}"
    for case, (name, bar) in BUILDS.items():
        ours, theirs = ([r[case][who] for r in rounds] for who in ("dorian", "buildah"))
        yield compared_builds(name, ours, theirs, buildah, bar)
    ours = [sample for r in rounds for sample in r["unchanged"]["dorian"]]
    theirs = [sample for r in rounds for sample in r["unchanged"]["buildah"]]
    for key, name, bar in (
        ("server", "image: nothing changed, the server's part", 20),
        ("call", "  the client's `image.build()`", None),
        ("process", "  the client's whole process", None),
    ):
        yield compared_builds(name, [sample[key] for sample in ours], theirs, buildah, bar)
    server_ms = median([sample["server"] for sample in ours]) * 1000
    yield ("  the server's time alone", f"{server_ms:.2f} ms", "", "", "20 ms", judged(server_ms, 20))
    for state in ("cold", "warm"):
        pip, uv = ([r[case]["dorian"] for r in rounds] for case in (f"first, {state}", f"first with uv, {state}"))
        yield (
            f"image: uv instead of pip, {state} caches",
            seconds(median(uv)),
            f"ours with pip: {seconds(median(pip))}",
            f"{paired_ratio(pip, uv):.1f}x",
            "",
            "",
        )


def compared_builds(name, ours, theirs, buildah, bar):
    ratio = paired_ratio(theirs, ours)
    return (
        name,
        seconds(median(ours)),
        f"{buildah}: {seconds(median(theirs))}",
        f"{ratio:.1f}x faster",
        f"{bar}x" if bar else "",
        judged(ratio, bar, at_least=True) if bar else "",
    )


def seconds(value):
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.{0 if value >= 0.1 else 1}f} ms"


def sizes(results):
    if "sizes" not in results:
        return
    slim, large = results["sizes"]["slim"], results["sizes"]["large"]
    ratio = paired_ratio(large, slim)
    yield (
        "cold start on an image of 2 GB, 50,000 files",
        f"{median(large):.0f} ms",
        f"on the slim one: {median(slim):.0f} ms",
        f"{ratio:.2f}x",
        "1.2x",
        judged(ratio, 1.2),
    )


def contents(results):
    if "contents" not in results:
        return
    rounds = results["contents"]["rounds"]
    for case in rounds[0]["rates"]:
        way, callers, act = case.split(" ", 2)
        sides = ("dorian", "redis", "redis_always")
        ours, memory, always = ([r["rates"][case][who]["per_second"] for r in rounds] for who in sides)
        how = {"client": "the client", "wire": f"bare gRPC, {callers} at once"}[way]
        for theirs, what in ((memory, "in memory"), (always, "fsync always")):
            ratio = paired_ratio(ours, theirs)
            yield (
                f"{act}, {how}",
                f"{median(ours):,.0f}/s",
                f"Redis, {what}: {median(theirs):,.0f}/s",
                f"{ratio:.2f}x",
                "0.5x",
                judged(ratio, 0.5, at_least=True),
            )
        yield ("  processor time: client, server", times_of(rounds, case, "dorian"), times_of(rounds, case, "redis"), "", "", "")
    for key, name in (("since_sent_ms", "put sent"), ("since_acknowledged_ms", "put acknowledged")):
        ours, always = ([ms for r in rounds for ms in r["wakes"][who][key]] for who in ("dorian", "redis_always"))
        yield (
            f"a waiting get is answered after: {name}",
            f"{median(ours):.2f} ms, p99 {sorted(ours)[len(ours) * 99 // 100]:.1f}",
            f"Redis, fsync always: {median(always):.2f} ms",
            "",
            "5 ms",
            judged(median(ours), 5),
        )
    waiting = results["contents"]["waiting_cpu"]
    share = f"{waiting['dorian'] * 100:.1f} % of a core"
    yield ("1,000 consumers wait", share, f"Redis: {waiting['redis'] * 100:.1f} %", "", "", "")


def times_of(rounds, case, who):
    client, server = (median([r["rates"][case][who][key] for r in rounds]) for key in ("client_us", "server_us"))
    return f"{client:,.0f} us, {server:,.0f} us"


def volumes(results):
    if "volumes" not in results:
        return
    rounds = results["volumes"]["rounds"]
    for case, what in (("large", "a large file"), ("small", "50,000 small files")):
        for state in ("cold", "warm"):
            ours, bare = ([r[f"{state} {case}"][side] for r in rounds] for side in ("volume", "bare"))
            # Of speeds, not of times.
            ratio = paired_ratio(bare, ours)
            yield (
                f"{what} read from a volume, {state} cache",
                f"{median(ours):.2f} s",
                f"bare file system: {median(bare):.2f} s",
                f"{ratio:.2f}x",
                "0.9x",
                judged(ratio, 0.9, at_least=True),
            )
    commits = results["volumes"]["commits"]["ms"]
    took = median(commits)
    yield ("commit of one file in 100,000", f"{took:.0f} ms, longest {max(commits):.0f}", "", "", "200 ms", judged(took, 200))


def floor(results):
    if not results.get("floor"):
        return
    names = {
        "container_ms": "floor: unshare, chroot, python -c pass",
        "import_client_ms": "floor: python -c 'import modal'",
        "import_runner_ms": "floor: the same with the runner's imports",
    }
    for key, name in names.items():
        yield (name, f"{median([r[key] for r in results['floor']]):.0f} ms", "", "", "", "")
