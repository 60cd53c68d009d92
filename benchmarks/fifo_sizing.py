"""FIFO depths of random residual blocks: closed forms against need, and the joint minimum.

    python benchmarks/fifo_sizing.py [--blocks 1000] [--joint 50]

Blocks are of stride 1, one to three convolutions of 1x1, 3x3 and 5x5, drawn at random (see
`blocks.py`); the truth is the token simulator, which equals FINN's RTL (`python -m hwmodel.truth`).
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from blocks import Block, random_block

from hwmodel import truth
from hwmodel.design import Design
from hwmodel.fifo import bounds, deadlock_free, minimal, occupancy, size
from hwmodel.fifo.search import total_bits
from hwmodel.simulate import Run, simulate


@dataclass(frozen=True)
class Closed:
    deadlock: int
    deadlock_true: int
    throughput: int
    need: int
    repaired: int
    holds: bool
    slower: float


def closed_form(block: Block) -> Closed:
    """The bounds of one block, what it needs, and the depth after repair."""
    design = truth.wired(block).design
    free = simulate(design, frames=4)
    bound = bounds(design, interval=free.interval)["skip"]
    need = minimal(design, "skip", interval=free.interval)

    def run(depth: int, frames: int) -> Run:
        return simulate(design.with_depths({"skip": depth}), frames=frames)

    def keeps(depth: int, frames: int) -> bool:
        found = run(depth, frames)
        return found.status == "ok" and found.interval <= free.interval

    repaired = bound.throughput
    while not keeps(repaired, 4):
        repaired += max(1, repaired // 50)
    return Closed(
        bound.deadlock,
        deadlock_free(design, "skip"),
        bound.throughput,
        need,
        repaired,
        keeps(repaired, 10),
        run(bound.throughput, 4).interval / free.interval - 1,
    )


@dataclass(frozen=True)
class Joint:
    interval: int
    sized: int
    joint: int
    occupancy: int
    finn: int


def unsized(design: Design) -> Design:
    """The design with no FIFO bounded, but the ports that have none."""
    return design.with_depths({s.name: None for s in design.streams if s.depth != 0})


def joint(block: Block) -> Joint:
    """Bits of all FIFOs of one block: joint minimum, rate-matched occupancy, FINN's rule."""
    design = truth.wired(block).design
    free = simulate(unsized(design), frames=4)
    ports = {stream.name for stream in design.streams if stream.depth == 0}

    def counted(depths: dict[str, int]) -> int:
        return total_bits(design, {k: v for k, v in depths.items() if k not in ports})

    matched = occupancy(unsized(design), period=free.interval, frames=4)
    eager = occupancy(unsized(design), frames=2)
    finn = {name: 2 if d <= 2 else 32 if d <= 32 else d for name, d in eager.items()}
    sizing = size(design, jobs=1)
    return Joint(
        free.interval,
        sizing.interval,
        counted(dict(sizing.depths)),
        counted({name: max(2, d) for name, d in matched.items()}),
        counted(finn),
    )


def blocks(seed: int, count: int) -> Iterator[Block]:
    rng = random.Random(seed)
    for _ in range(count):
        yield random_block(rng)


def mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--joint", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with ProcessPoolExecutor() as pool:
        start = time.perf_counter()
        found = list(pool.map(closed_form, blocks(options.seed, options.blocks), chunksize=8))
        seconds = time.perf_counter() - start
        if found:
            errors = [each.throughput / each.need - 1 for each in found]
            exact = sum(each.deadlock == each.deadlock_true for each in found)
            within = sum(abs(error) <= 0.05 for error in errors) / len(found)
            tenth = sum(abs(error) <= 0.10 for error in errors) / len(found)
            below = sum(not each.holds for each in found)
            excess = sum(each.repaired / each.need - 1 for each in found) / len(found)
            print(f"{len(found)} random blocks ({seconds:.0f} s)")
            print(f"deadlock bound exact:           {exact} of {len(found)}")
            print(f"full throughput, within 5 %:    {within:.1%} (within 10 %: {tenth:.1%})")
            print(
                f"  error mean {sum(errors) / len(errors):+.1%}, "
                f"min {min(errors):+.1%}, max {max(errors):+.1%}"
            )
            close = sum(each.slower <= 0.005 for each in found) / len(found)
            worst = max(each.slower for each in found)
            print(f"  no 0.5 % slower at that depth:  {close:.1%}, worst {worst:+.1%}")
            print(f"below need before repair:       {sum(e < 0 for e in errors)}")
            print(f"below need after repair:        {below} (10 frames), {excess:+.1%} above it")
        start = time.perf_counter()
        rows = list(pool.map(joint, blocks(options.seed + 1, options.joint)))
        seconds = time.perf_counter() - start
    if rows:
        print(f"\njoint minimum of all FIFOs, {len(rows)} random blocks ({seconds:.0f} s)")
        slower = sum(row.sized > row.interval for row in rows)
        print(f"slower than with unlimited FIFOs:         {slower}")
        print(
            "bits, over rate-matched occupancy:        "
            f"{mean([r.joint / r.occupancy for r in rows]):.3f}"
        )
        over = mean([row.joint / row.finn for row in rows])
        print(f"bits, over FINN's:                        {over:.3f}")


if __name__ == "__main__":
    main()
