from __future__ import annotations

import cProfile

import numpy as np
import pytest

from nanochat.config import ConfigError
from nanochat.data.loader import Loader, permutation

BOS = 60000


def packed(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Documents whose tokens are all different, so that a target says which place it came from."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(offsets[-1], dtype=np.uint16)
    tokens[offsets[:-1]] = BOS + np.arange(len(lengths))  # a BOS that tells its document
    return tokens, offsets


LENGTHS = [7, 1, 30, 2, 11, 64, 5, 9, 3, 19]


def loader(batch_size: int = 4, sequence_len: int = 8, seed: int = 0, lengths: list[int] | None = None) -> Loader:
    return Loader(*packed(lengths or LENGTHS), batch_size, sequence_len, seed)


def test_shapes_and_shift() -> None:
    inputs, targets = loader().batch(3)
    assert inputs.shape == targets.shape == (4, 8)
    assert inputs.dtype == targets.dtype == np.int64
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])


def test_batch_depends_on_seed_and_step_alone() -> None:
    one, other = loader(), loader()
    ahead = [one.batch(step) for step in range(50)]
    for step in (49, 7, 30, 0):  # another order, as after resuming
        assert np.array_equal(other.batch(step)[0], ahead[step][0])
        assert np.array_equal(other.batch(step)[1], ahead[step][1])
    assert any(not np.array_equal(loader(seed=1).batch(s)[0], ahead[s][0]) for s in range(3))


def test_processes_share_the_global_batch() -> None:
    whole = loader(batch_size=6)
    for world in (1, 2, 3, 6):
        for step in (0, 5):
            rows = np.empty((6, 8), dtype=np.int64)
            for rank in range(world):
                rows[rank::world] = loader(batch_size=6).batch(step, rank, world)[1]
            assert np.array_equal(rows, whole.batch(step)[1])


def stream(loader: Loader, windows: int) -> np.ndarray:
    """Targets of the first windows, put back into stream order."""
    rows = [(loader.window(row), loader.batch(row // loader.batch_size)) for row in range(windows)]
    order = sorted(range(windows), key=lambda row: rows[row][0])
    return np.concatenate([rows[row][1][1][row % loader.batch_size] for row in order])


@pytest.mark.parametrize("sequence_len", [1, 8, 151, 400])
def test_every_token_is_a_target_once_per_epoch(sequence_len: int) -> None:
    here = loader(sequence_len=sequence_len)
    tokens, _ = packed(LENGTHS)
    n = here.tokens_per_epoch
    assert n == len(tokens) == 151
    blocks = -(-4 * n // (here.windows_per_block * sequence_len))
    line = stream(here, blocks * here.windows_per_block)
    for epoch in range(3):  # targets begin at stream position 1
        ours = line[epoch * n : (epoch + 1) * n - 1] if epoch == 0 else line[epoch * n - 1 : (epoch + 1) * n - 1]
        missing = sorted(set(tokens.tolist()) - set(ours.tolist()))
        assert len(missing) == (1 if epoch == 0 else 0)  # the very first token of the run has nothing before it
        assert len(ours) == len(set(ours.tolist()))


def test_documents_stay_whole_open_with_bos_and_change_order() -> None:
    here = loader()
    tokens, offsets = packed(LENGTHS)
    line = stream(here, 3 * here.windows_per_block)
    first, second = line[: 151 - 1], line[151 - 1 : 2 * 151 - 1]
    assert second[0] >= BOS
    places = np.flatnonzero(second >= BOS)
    for begin, end in zip(places, [*places[1:], len(second)], strict=True):
        number = second[begin] - BOS
        assert np.array_equal(second[begin:end], tokens[offsets[number] : offsets[number + 1]])
    assert second[places].tolist() != [x for x in first if x >= BOS]


def test_corpus_smaller_than_a_batch() -> None:
    here = loader(batch_size=8, sequence_len=100, lengths=[2, 3])
    inputs, targets = here.batch(0)
    assert set(np.unique(targets)) == set(packed([2, 3])[0].tolist())
    values, counts = np.unique(np.concatenate([here.batch(s)[1].ravel() for s in range(10)]), return_counts=True)
    assert counts.max() - counts.min() <= 2


def test_neighbours_are_spread_over_batches() -> None:
    here = loader(batch_size=16, sequence_len=64, lengths=[20000, 20000, 10000])
    windows = sorted(here.window(row) for row in range(16))
    assert windows[-1] - windows[0] > here.windows_per_block / 3


def test_order_is_the_same_for_ever() -> None:
    assert permutation("documents/0/0", 8).tolist() == [7, 1, 0, 6, 4, 5, 2, 3]
    assert sorted(permutation("x", 1000).tolist()) == list(range(1000))


def test_faults() -> None:
    with pytest.raises(ConfigError) as caught:
        loader(batch_size=0, seed=-1)
    assert len(caught.value.faults) == 2
    with pytest.raises(ConfigError, match="--batch-size: got 4, need a multiple of the 3 processes"):
        loader().batch(0, 0, 3)


def test_a_batch_costs_calls_by_the_document_not_by_the_token() -> None:
    """Its time: ``benchmarks/data.py``."""
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(50, 10000, 800))])
    calls = []
    for length in (256, 1024):
        here = Loader(np.zeros(offsets[-1], dtype=np.uint16), offsets, 16, length, 0)
        here.batch(0)
        profile = cProfile.Profile()
        profile.runcall(lambda here=here: [here.batch(step) for step in range(20)])
        calls.append(sum(entry.callcount for entry in profile.getstats()) / (20 * 16))
    assert calls[0] < 40 and calls[1] < 2 * calls[0]
