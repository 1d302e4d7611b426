"""The service beside other servers of models: ``python -m benchmarks.serve [--only ROW …] [--rounds 3] [--kills 50] [--smoke]``.

throughput  a small network, 32 px PNG, 32 connections: requests a second and CPU time a request, all recorded
latency     the same with one connection, and at half of each server's own throughput
lite0       efficientnet_lite0 on JPEG of 640 x 480 px, 8 connections
reload      the alias moves 20 times under load, once to a broken version
start       seconds until the first answer
memory      100,000 requests
guarantees  killed under load, broken versions, equality with `bccp predict`

Rivals are LitServe, BentoML and `mlflow models serve`, with the same model (PyTorch on one thread, pictures by the code of training),
the first two in environments of their own, which are made below ``--cache`` the first time. wrk sends real bodies; each request's picture
is one that was not sent before, so that ours writes a row and a file for each. Servers take turns within a round; a figure is the median
of the rounds, with the lowest and the highest. CPU time is that of a server's whole process tree; wrk's is in none. Models and pictures
are made with a seed into a temporary folder, which holds the home too.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import median

from bccp.core.home import home
from benchmarks.serving.guarantees import compare_with_predict, kill_under_load, move_under_load, refuse_broken
from benchmarks.serving.load import Load, Loader, check_wrk
from benchmarks.serving.made_models import Made, photographs, small_pictures
from benchmarks.serving.processes import Server
from benchmarks.serving.rivals import PACKAGES, RIVALS, environment, serving
from benchmarks.serving.service import BASE64, QUICK_RELOAD, RAW, metric, our_service
from benchmarks.speed import Row, about, table

OURS = "bccp serve"
TIMES = {"LitServe": 2.0, "BentoML": 2.5, "mlflow models serve": 7.0}
"""Requests a second that are to be reached, as a multiple of a rival's."""

MAX_CPU_MS, MAX_P50_MS, MAX_P99_MS = 0.9, 2.5, 25.0
LITE0_TIMES, RELOAD_TIMES, START_SHARE, MEMORY_GROWTH = 1.5, 2.0, 0.5, 0.05
MIN_RELOAD_REQUESTS = 10_000
MAX_DIFFERENCE = 1e-6


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements.

    Attributes
    ----------
    rounds : int
        Of throughput, latency, lite0 and start.
    seconds : int
        Of each run of wrk.
    moves : int
        Of the alias under load.
    n_requests : int
        Of ``memory``.
    kills, broken : int
        Rounds of killing the service; broken versions.
    """

    rounds: int = 3
    seconds: int = 4
    moves: int = 20
    n_requests: int = 100_000
    kills: int = 50
    broken: int = 50


SMOKE = Sizes(rounds=1, seconds=1, moves=3, n_requests=2000, kills=2, broken=4)


@dataclass
class Bench:
    """State that the rows share.

    Attributes
    ----------
    place, cache : Path
        A temporary folder; environments of rivals.
    sizes : Sizes
    made : Made
        With a champion.
    details : list of str
        Tables beside the main one.
    """

    place: Path
    cache: Path
    sizes: Sizes
    made: Made
    details: list[str] = field(default_factory=list)

    def rivals(self, names: Sequence[str], model: Path, running: ExitStack) -> tuple[dict[str, Server], dict[str, str]]:
        """Start rivals: those that answer, and why the others do not."""
        servers, missing = {}, {}
        for name in names:
            try:
                servers[name] = running.enter_context(serving(name, self.made, model, cache=self.cache, folder=self.place))
            except RuntimeError as error:
                missing[name] = " ".join(str(error).split())[-200:].replace("|", "/")
        return servers, missing


@dataclass(frozen=True)
class Case:
    """A server and a way to send it pictures; its results by kind of load, one a round."""

    server: Server
    form: str
    loader: Loader
    results: dict[str, list[Load]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Server and form."""
        return f"{self.server.name}, {self.form}"

    def measure(self, kind: str, *, connections: int, seconds: float, rate: float | None = None) -> None:
        """Add a result."""
        found = self.loader.run(self.server, connections=connections, seconds=seconds, rate=rate)
        self.results.setdefault(kind, []).append(found)

    def values(self, kind: str, figure: Callable[[Load], float]) -> list[float]:
        """A figure of each round."""
        return [figure(load) for load in self.results.get(kind, [])]


def spread(values: Sequence[float], form: str = ".0f") -> str:
    """Median, lowest and highest."""
    if not values:
        return ""
    middle, low, high = (format(value, form) for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def small_network(bench: Bench, kinds: Sequence[str]) -> Iterator[Row]:
    """Rows ``throughput`` and ``latency``."""
    with ExitStack() as running:
        server = running.enter_context(our_service(bench.made, bench.place))
        others, missing = bench.rivals(list(RIVALS), bench.made.folder(seed=0), running)
        pictures = small_pictures()
        own = [
            Case(server, "raw", Loader(pictures, RAW, bench.place)),
            Case(server, "raw, pictures seen before", Loader(pictures, RAW, bench.place, new=False)),
            Case(server, "base64", Loader(pictures, BASE64, bench.place)),
        ]
        rivals = [
            Case(other, form, Loader(pictures, body, bench.place))
            for name, other in others.items()
            for form, body in RIVALS[name].forms.items()
        ]
        take_turns(bench.sizes, [*own, *rivals], with_latency="latency" in kinds)
        n_unrecorded = metric(server, "bccp_recording_lost_total")
    bench.details.append(small_network_table([*own, *rivals]))
    if "throughput" in kinds:
        yield from throughput_rows(own[0], rivals)
        for name, why in missing.items():
            yield Row(f"requests/s beside {name}", f"not measured: {why}", f"≥ {TIMES[name]:g} times", "", None)
        yield lowest_row("CPU ms a request, c = 32", own, rivals, "c=32", lambda load: load.cpu_ms, MAX_CPU_MS, ".2f")
    if "latency" in kinds:
        yield lowest_row("p50 in ms, c = 1", own, rivals, "c=1", lambda load: load.p50, MAX_P50_MS, ".1f")
        yield lowest_row("p99 in ms at half of its own requests/s", own, rivals, "half", lambda load: load.p99, MAX_P99_MS, ".1f")
    n_bad = sum(load.n_refused + load.n_lost for case in own for loads in case.results.values() for load in loads)
    yield Row(
        "our errors, and predictions not recorded, in all of this", "", "0", f"{n_bad}, {n_unrecorded:.0f}", n_bad + n_unrecorded == 0
    )


def take_turns(sizes: Sizes, cases: Sequence[Case], *, with_latency: bool) -> None:
    """Warm up, and let all cases be measured in each round."""
    for case in cases:
        case.loader.run(case.server, connections=32, seconds=sizes.seconds / 2)
    for _ in range(sizes.rounds):
        for case in cases:
            case.measure("c=32", connections=32, seconds=sizes.seconds)
        for case in cases if with_latency else []:
            case.measure("c=1", connections=1, seconds=sizes.seconds / 2)
            case.measure("half", connections=32, seconds=sizes.seconds, rate=median(case.values("c=32", lambda load: load.rate)) / 2)


def lowest_row(
    what: str, own: Sequence[Case], rivals: Sequence[Case], kind: str, figure: Callable[[Load], float], most: float, form: str
) -> Row:
    """A figure that is to be low: ours with new pictures, and with those seen before, beside the rivals'."""
    named = ", ".join(f"{case.name} {median(case.values(kind, figure)):{form}}" for case in rivals)
    new, known = (case.values(kind, figure) for case in own[:2])
    return Row(what, named, f"≤ {most:g}", f"{spread(new, form)}; pictures seen before {spread(known, form)}", median(new) <= most)


def throughput_rows(ours: Case, rivals: Sequence[Case]) -> Iterator[Row]:
    """Ours beside each rival's way to send pictures, compared within each round."""
    own = ours.values("c=32", lambda load: load.rate)
    for case in rivals:
        theirs = case.values("c=32", lambda load: load.rate)
        times = [a / b if b else inf for a, b in zip(own, theirs, strict=True)]
        wanted = TIMES[case.server.name]
        yield Row(
            "requests/s, 32 px PNG, c = 32, recording on",
            f"{case.name}: {spread(theirs)}",
            f"≥ {wanted:g} times",
            f"{spread(own)}: {spread(times, '.1f')} times",
            median(times) >= wanted,
        )


def small_network_table(cases: Sequence[Case]) -> str:
    """All figures of the small network."""
    heads = ["server, body", "requests/s, c = 32", "p50 ms", "p99 ms", "CPU ms", "c = 1: p50 ms", "p99 ms", "CPU ms"]
    heads += ["half load: requests/s", "p99 ms", "errors"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for case in cases:
        cells = [spread(case.values("c=32", lambda load: load.rate))]
        cells += [spread(case.values("c=32", figure), form) for figure, form in FIGURES]
        cells += [spread(case.values("c=1", figure), form) for figure, form in FIGURES]
        cells += [spread(case.values("half", lambda load: load.rate)), spread(case.values("half", lambda load: load.p99), ".1f")]
        n_bad = sum(load.n_refused + load.n_lost for loads in case.results.values() for load in loads)
        lines.append(f"| {' | '.join([case.name, *cells, str(n_bad)])} |")
    return "\n".join(lines)


FIGURES: tuple[tuple[Callable[[Load], float], str], ...] = (
    (lambda load: load.p50, ".1f"),
    (lambda load: load.p99, ".1f"),
    (lambda load: load.cpu_ms, ".2f"),
)


def lite0(bench: Bench) -> Iterator[Row]:
    """A network for photographs, beside LitServe."""
    pictures, folder = photographs(), bench.made.folder("efficientnet_lite0")
    with ExitStack() as running:
        ours = running.enter_context(our_service(bench.made, bench.place, f"serve.model={folder}"))
        others, missing = bench.rivals(["LitServe"], folder, running)
        for name, why in missing.items():
            yield Row("efficientnet_lite0", f"{name}: {why}", f"≥ {LITE0_TIMES} times", "", None)
        cases = [Case(ours, "raw", Loader(pictures, RAW, bench.place))]
        cases += [
            Case(server, form, Loader(pictures, body, bench.place))
            for server in others.values()
            for form, body in RIVALS[server.name].forms.items()
        ]
        for case in cases:
            case.loader.run(case.server, connections=8, seconds=bench.sizes.seconds / 2)
        for _ in range(bench.sizes.rounds):
            for case in cases:
                case.measure("c=8", connections=8, seconds=bench.sizes.seconds)
    own = cases[0].values("c=8", lambda load: load.rate)
    for case in cases[1:]:
        theirs = case.values("c=8", lambda load: load.rate)
        times = [a / b if b else inf for a, b in zip(own, theirs, strict=True)]
        cpu = [median(one.values("c=8", lambda load: load.cpu_ms)) for one in (case, cases[0])]
        yield Row(
            "efficientnet_lite0 at 160 px, JPEG of 640 x 480, c = 8, requests/s",
            f"{case.name}: {spread(theirs)}; CPU {cpu[0]:.0f} ms",
            f"≥ {LITE0_TIMES} times",
            f"{spread(own)}: {spread(times, '.1f')} times; CPU {cpu[1]:.0f} ms",
            median(times) >= LITE0_TIMES,
        )


def reload(bench: Bench) -> Iterator[Row]:
    """The alias moves under load."""
    with our_service(bench.made, bench.place, QUICK_RELOAD) as server:
        loader = Loader(small_pictures(), RAW, bench.place)
        loader.run(server, connections=32, seconds=bench.sizes.seconds)
        pause = bench.sizes.seconds / 4
        found = move_under_load(bench.made, server, loader, moves=bench.sizes.moves, seconds=3 * bench.sizes.seconds, pause=pause)
    n_bad = found.load.n_refused + found.load.n_lost + found.n_unanswered
    well = n_bad == 0 and found.are_monotone and not found.broken_answered and found.load.n_requests >= MIN_RELOAD_REQUESTS
    yield Row(
        f"requests lost while the alias moved {found.n_moves} times, once to a broken version",
        "",
        f"0 of ≥ {MIN_RELOAD_REQUESTS:,}",
        f"{n_bad} of {found.load.n_requests:,}; versions {'in order' if found.are_monotone else f'out of order: {found.seen}'}; "
        f"the broken one {'answered' if found.broken_answered else 'never answered'}; {spread(found.seconds, '.1f')} s from move to answer",
        well,
    )
    ratio = found.load.p99 / found.quiet.p99
    yield Row(
        "p99 in ms meanwhile, c = 32",
        f"without moves {found.quiet.p99:.0f}",
        f"≤ {RELOAD_TIMES:g} times",
        f"{found.load.p99:.0f}: {ratio:.1f} times",
        ratio <= RELOAD_TIMES,
    )


def start(bench: Bench) -> Iterator[Row]:
    """Seconds from the start of a process to its first answer on a picture, and CPU seconds until then."""
    picture, name = small_pictures(1)[0], "mlflow models serve"
    form = RIVALS[name].forms["base64"]
    own, theirs = list[tuple[float, float]](), list[tuple[float, float]]()
    for number in range(bench.sizes.rounds + 1):
        with our_service(bench.made, bench.place, ready=False) as server:
            spent = server.wait(RAW.path, picture, {"Content-Type": RAW.content_type}), server.cpu_seconds()
        with serving(name, bench.made, bench.place, cache=bench.cache, folder=bench.place) as server:
            other = server.wait(form.path, form.body(picture), {"Content-Type": form.content_type}), server.cpu_seconds()
        if number:  # the first start compiles what is imported
            own, theirs = [*own, spent], [*theirs, other]
    for place, kind in enumerate(("seconds", "CPU seconds")):
        ours, rivals = ([found[place] for found in times] for times in (own, theirs))
        share = median(ours) / median(rivals)
        yield Row(
            f"{kind} from start to the first answer",
            f"{name}: {spread(rivals, '.1f')}",
            f"≤ {START_SHARE:g} of it",
            f"{spread(ours, '.1f')}: {share:.2f}",
            share <= START_SHARE,
        )


def memory(bench: Bench) -> Iterator[Row]:
    """Memory of the service over many requests."""
    target, sizes = bench.sizes.n_requests, list[tuple[int, int]]()
    with our_service(bench.made, bench.place) as server:
        loader, n_requests, n_bad = Loader(small_pictures(), RAW, bench.place), 0, 0
        while n_requests < target:
            load = loader.run(server, connections=32, seconds=bench.sizes.seconds)
            n_requests, n_bad = n_requests + load.n_requests, n_bad + load.n_refused + load.n_lost
            sizes.append((n_requests, server.resident()))
    early = next(size for n, size in sizes if n >= target / 5)
    largest = max(size for n, size in sizes if n >= target / 5)
    growth = largest / early - 1
    yield Row(
        f"memory over {n_requests:,} requests",
        "",
        f"≤ {MEMORY_GROWTH:.0%} more than after {target // 5:,}",
        f"{early / 2**20:.0f} MiB, at most {largest / 2**20:.0f} later: {growth:+.1%}" + (f"; {n_bad} errors" if n_bad else ""),
        growth <= MEMORY_GROWTH and not n_bad,
    )


def guarantees(bench: Bench) -> Iterator[Row]:
    """Guarantees: nothing acknowledged is lost, broken versions are refused, and answers equal those of `bccp predict`."""
    kept = kill_under_load(bench.made, bench.place, rounds=bench.sizes.kills)
    n_said = len(kept.acknowledged.predictions), len(kept.acknowledged.feedback)
    yield Row(
        f"kill -9 under load, {bench.sizes.kills} rounds: what was acknowledged and is not there",
        "",
        "0",
        f"{len(kept.missing)} of {n_said[0]:,} predictions with their images and {n_said[1]:,} votes; all {kept.n_files:,} files read"
        + "".join(f"; {what}" for what in kept.missing[:3]),
        not kept.missing and all(n_said),
    )
    with our_service(bench.made, bench.place, QUICK_RELOAD) as server:
        refused = refuse_broken(bench.made, server, rounds=bench.sizes.broken)
        yield Row(
            "broken versions that became champion",
            "",
            "each refused and counted, the old one answers",
            f"{refused.n_counted} of {refused.n_versions} refused" + "".join(f"; {fault}" for fault in refused.faults[:3]),
            refused.n_counted == refused.n_versions and not refused.faults,
        )
        equal = compare_with_predict(bench.made, server, bench.place)
        yield Row(
            "answers beside `bccp predict`, alone and together",
            "",
            f"equal to {MAX_DIFFERENCE:g}",
            f"{equal.n_files} files, largest difference {equal.largest:.1e} (its table has six decimals)"
            + "".join(f"; {what}" for what in equal.differing[:3]),
            not equal.differing and equal.largest <= MAX_DIFFERENCE,
        )


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "lite0": lite0,
    "reload": reload,
    "start": start,
    "memory": memory,
    "guarantees": guarantees,
}
SMALL_NETWORK = ("throughput", "latency")


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SMALL_NETWORK, *ROWS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--rounds", type=int, help="3 where nothing else is said")
    parser.add_argument("--kills", type=int, help="rounds of killing, and broken versions; 50 where nothing else is said")
    parser.add_argument("--cache", type=Path, help="folder of the rivals' environments; below BCCP_HOME where nothing else is said")
    parser.add_argument("--install", action="store_true", help="only make the rivals' environments")
    parser.add_argument("--smoke", action="store_true", help="sizes that only show that it works")
    given = parser.parse_args(words)
    cache = (given.cache or home() / "cache" / "benchmarks").resolve()
    for name in PACKAGES:
        made = environment(name, cache)
        print(f"{PACKAGES[name]}: {'could not be installed: ' if isinstance(made, str) else ''}{made}", file=sys.stderr, flush=True)
    if given.install:
        return
    check_wrk()
    sizes = SMOKE if given.smoke else Sizes()
    changed = {"rounds": given.rounds, "kills": given.kills, "broken": given.kills}
    sizes = Sizes(**{**vars(sizes), **{name: value for name, value in changed.items() if value}})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: ended by SIGTERM"))  # through the blocks that end the servers
    began, rows = time.monotonic(), list[Row]()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), cache, sizes, Made(Path(folder) / "home"))
        bench.made.register_champion()
        small = [name for name in SMALL_NETWORK if name in given.only]
        work: dict[str, Callable[[], Iterator[Row]]] = {" and ".join(small): lambda: small_network(bench, small)} if small else {}
        work |= {name: lambda row=row: row(bench) for name, row in ROWS.items() if name in given.only}  # type: ignore[misc]
        for name, measured in work.items():
            print(f"{name} …", file=sys.stderr, flush=True)
            for row in measured():
                rows.append(row)
                print(f"  {row.what}: {row.measured}", file=sys.stderr, flush=True)  # what follows may be interrupted
    text = "\n\n".join([table(rows), *bench.details])
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{about('serve')}; medians of {sizes.rounds}, {time.monotonic() - began:.0f} s, load averages {load}\n\n{text}", flush=True)


if __name__ == "__main__":
    main()
