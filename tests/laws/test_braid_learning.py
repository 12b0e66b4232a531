"""What braids learn that softmax attention does not: a word problem at eight times the length of training. Slow.

Run: ``pytest -m slow --timeout 1800 tests/laws/test_braid_learning.py`` (about a minute of one idle core).
"""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from demos.knot_braid import words
from nanochat.attention.braid import BraidKnobs
from nanochat.config import GPTConfig
from nanochat.gpt import GPT

LETTERS = (1, 2, -1, -2)
TRAINED, TESTED = 16, 128
STATES = list(permutations(range(3)))
"""Where a braid on three strands takes them: the quotient S_3 of the braid group."""


def moved(state: tuple[int, ...], letter: int) -> tuple[int, ...]:
    """The permutation after one more crossing."""
    step = words.permutation((letter,), 3)
    return tuple(step[place] for place in state)


TABLE = torch.tensor([[STATES.index(moved(state, letter)) for letter in LETTERS] for state in STATES])


def batch(rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A beginning token and random letters; after each letter, the state so far."""
    letters = torch.randint(4, (rows, length), generator=generator)
    state, states = torch.full((rows,), STATES.index((0, 1, 2))), []
    for letter in letters.unbind(1):
        state = TABLE[state, letter]
        states.append(state)
    nothing = torch.full((rows, 1), -1)
    return torch.cat((torch.zeros_like(nothing), letters + 1), 1), torch.cat((nothing, torch.stack(states, 1)), 1)


def accuracies(attention: str, knobs: dict, steps: int = 450, seed: int = 0) -> tuple[float, float]:
    """Share of right states after the last letter, at the trained and the tested length."""
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 2, "sequence_len": TRAINED + 1, "vocab_size": 8}
    free = {"position": "none", "logit_scaling": "log"}
    model = GPT(GPTConfig(**sizes, **free, attention_type=attention, knobs=knobs), seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rate = 2e-3 * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate
        length = int(torch.randint(1, TRAINED + 1, (1,), generator=generator)) if step % 2 else TRAINED
        optimizer.zero_grad()
        model(*batch(128, length, generator)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    inputs, states = batch(200, TESTED, torch.Generator().manual_seed(99))
    with torch.no_grad():
        right = (model.eval()(inputs)[..., : len(STATES)].argmax(-1) == states).float().mean(0)
    return right[TRAINED].item(), right[TESTED].item()


def test_the_table_is_a_group_and_words_of_one_braid_end_in_one_state():
    def ends(word: words.Word) -> int:
        state = STATES.index((0, 1, 2))
        for letter in word:
            state = int(TABLE[state, LETTERS.index(letter)])
        return state

    assert ends((1, 2, 1)) == ends((2, 1, 2)) and ends((1, -1, 2)) == ends((2,)) and ends((1, 2)) != ends((2, 1))
    assert sorted(STATES[ends(word)] for word in ((), (1,), (2,), (1, 2), (2, 1), (1, 2, 1))) == STATES


@pytest.mark.slow
def test_whole_crossings_solve_the_word_problem_of_s3_at_eight_times_the_length():
    trained, longer = accuracies("braid", {"braid": BraidKnobs(mode="discrete")})
    assert trained > 0.95 and longer > 0.95


@pytest.mark.slow
def test_softmax_attention_does_not_learn_it_in_as_many_steps():
    """Chance is 1 in 6; figures stand in markdown_documentation/braid.md."""
    trained, longer = accuracies("standard", {})
    assert trained < 0.6 and longer < 0.4
