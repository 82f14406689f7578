"""The corpus that fuzzing grew, without the fuzzer: no input breaks a parser or takes long."""

import random
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_mutate import MUTATORS
from fuzz_targets import CORPUS, TARGETS

HANG_S = 1.0  # of processor time
MUTATED = 150  # inputs per target


def corpus(target):
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus(target):
    answers = []
    for data in corpus(target):
        start = time.process_time()
        answers.append(TARGETS[target](data))
        assert time.process_time() - start < HANG_S, data[:200]
    assert len(answers) >= 20
    assert 0 < sum(answers) < len(answers)  # sound ones and broken ones


@pytest.mark.parametrize("target", TARGETS)
def test_mutations_of_it(target):
    draw = random.Random(0)
    inputs = corpus(target)
    for seed in range(MUTATED):
        data = draw.choice(inputs)
        mutate = MUTATORS.get(target, lambda data, most, seed, other: other(data, most))
        TARGETS[target](mutate(data, 8192, seed, lambda data, most: bent(data, most, draw)))


def bent(data, most, draw):
    """Change a few bytes."""
    content = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        if content:
            content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content[:most])


def test_it_is_small():
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(sizes) <= 2**20
