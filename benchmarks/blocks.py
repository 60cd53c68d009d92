"""Random residual blocks, in the form of the RTL records (see `hwmodel.truth`)."""

from __future__ import annotations

import random
from typing import Any

Block = dict[str, Any]


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def random_block(rng: random.Random) -> Block:
    """A residual block of stride 1: one to three convolutions, some with a parallel window."""
    channels = rng.choice([4, 6, 8, 12, 16, 24, 32])
    stream = rng.choice(divisors(channels))
    convs = []
    given = channels
    count = rng.choice([1, 2, 2, 3])
    for index in range(count):
        last = index == count - 1
        kernel = rng.choice([1, 3, 3, 3, 5])
        made = channels if last else rng.choice([4, 8, channels // 2, channels])
        parallel = int(kernel > 1 and rng.random() < 0.15)
        simd = kernel**2 * given if parallel else rng.choice(divisors(given))
        if kernel == 1 and rng.random() < 0.3:
            simd = given
        # Width converters need one width to divide the other.
        before = stream if index == 0 else convs[-1]["PE"]
        word = given if parallel else simd
        if word % before and before % word:
            simd = kernel**2 * given if parallel else given
            word = given
            if word % before and before % word:
                return random_block(rng)
        choices = [d for d in divisors(made) if not last or d % stream == 0 or stream % d == 0]
        convs.append(
            {
                "k": kernel,
                "s": 1,
                "p": kernel // 2,
                "Cin": given,
                "Cout": made,
                "SIMD": simd,
                "PE": rng.choice(choices),
                "par": parallel,
            }
        )
        given = made
    size = [rng.randint(6, 20) for _ in range(2)]
    block = {
        "H": size[0],
        "W": size[1],
        "C": channels,
        "stream_elems": stream,
        "main_fifo": rng.choice([2, 3, 4, 16, 32]),
        "skip_conv": None,
        "convs": convs,
    }
    slowest = max(
        size[0] * size[1] * (c["k"] ** 2 * c["Cin"] // c["SIMD"]) * (c["Cout"] // c["PE"])
        for c in convs
    )
    return block if slowest <= 60_000 else random_block(rng)
