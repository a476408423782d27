import subprocess
import sys

import torch

from hermesflow.core.seeding import generator, seed_of


def test_known_seed():
    # sha256("0/pair-1/mask/p1/3"), first 8 bytes little endian, without the top bit
    assert seed_of(0, "pair-1", "mask", "p1", 3) == 8291381880710880554


def test_same_names_same_stream_in_another_process():
    code = "import torch; from hermesflow.core.seeding import generator as g; "
    code += "print(torch.rand(3, generator=g(1, 'a')).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(torch.rand(3, generator=generator(1, "a")).tolist())


def test_names_are_a_path_not_a_sum():
    seeds = [seed_of(1, "a"), seed_of("1a"), seed_of("a", 1), seed_of(1, "a", 0), seed_of(11, "a")]
    assert len(set(seeds)) == len(seeds)


def test_seeds_fit_torch():
    for k in range(200):
        assert 0 <= seed_of("x", k) < 2**63
        generator("x", k)
