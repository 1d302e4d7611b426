"""What each way to choose the replay brings: ``python -m benchmarks.replay [--seeds 20] [--data FOLDER] [--types all] -- [options]``.

Every sampler minus ``random``, or the one that ``--against`` names, at the same number of images, paired by seed; ``none`` and ``all``
ignore the ratio, so that their number is another one. Finished steps are reused, also those of a stopped benchmark: start it again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bccp.core.registries import SAMPLERS
from benchmarks import pairs

TYPES = tuple(SAMPLERS)
METRICS = ("test/accuracy", "test/accuracy_monday", "test/accuracy_tuesday")


def variants(types: Sequence[str], ratios: Sequence[float], against: str = "random") -> list[pairs.Variant]:
    """The sampler that the others are compared with, and the others, at each ratio."""
    found = []
    for ratio in ratios:
        base = f"{against}, ratio {ratio:g}"
        for kind in (against, *(kind for kind in types if kind != against)):
            own = (f"cp_sampling.type={kind}", f"cp_sampling.ratio={ratio}")
            found.append(pairs.Variant(base, own) if kind == against else pairs.Variant(f"{kind}, ratio {ratio:g}", own, base))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--against", choices=TYPES, default="random", help="the sampler that the others are compared with")
    pairs.add_arguments(parser, seeds=20)
    given = parser.parse_args()
    chosen = variants(given.types, given.ratios, given.against)
    found = pairs.measure(chosen, METRICS, given.seeds, [*pairs.images(given.data), *pairs.with_label_source(given.options)])
    print(pairs.report("Replay", chosen, found))


if __name__ == "__main__":
    main()
