"""Word problems: after each letter, which element of the group is the product of all letters so far?

A5 is not solvable and lies inside SO(3); Z60 is commutative and lies inside U(1). Both have 60 elements, so both
tasks look alike to a model that cannot multiply. The slow tests train one layer per arm: three minutes in all on one
idle thread, ``pytest -m slow tests/laws/test_gauge_words.py --log-cli-level=info`` (which shows the accuracies).
"""

from __future__ import annotations

import logging
import math
from itertools import combinations, permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.attention import build
from nanochat.attention.gauge import GaugeKnobs
from nanochat.attention.heads import rotary_table

log = logging.getLogger(__name__)

ORDER, WIDTH, HEADS, HIDDEN = 60, 64, 4, 192
LENGTHS = (32, 64, 128, 256, 512)
CURRICULUM = ((0.156, 4), (0.312, 8), (0.468, 16), (1.0, 32))
"""Length of the words until this share of the steps."""


def a5() -> Tensor:
    """(60, 60): entry (a, b) is the number of the even permutation a, then b."""
    even = [p for p in permutations(range(5)) if sum(p[i] > p[j] for i, j in combinations(range(5), 2)) % 2 == 0]
    number = {p: index for index, p in enumerate(even)}
    return torch.tensor([[number[tuple(b[image] for image in a)] for b in even] for a in even])


def z60() -> Tensor:
    numbers = torch.arange(ORDER)
    return (numbers[:, None] + numbers) % ORDER


GROUPS = {"A5": a5, "Z60": z60}


def words(table: Tensor, batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Letters behind a beginning-of-sequence token, and the product after each of them."""
    letters = torch.randint(ORDER, (batch, length), generator=generator)
    states = [letters[:, 0]]
    for place in range(1, length):
        states.append(table[states[-1], letters[:, place]])
    return F.pad(letters, (1, 0), value=ORDER), torch.stack(states, 1)


class Reader(nn.Module):
    """One pre-norm layer. What the transport takes in parameters, the other arms have in a wider feed-forward part."""

    def __init__(self, arm: str):
        super().__init__()
        # Softmax attention alone cannot see an order without positions; the gauge sees it by its transport.
        self.turned = arm == "standard"
        kind, knobs = "standard", {}
        if arm != "standard":
            kind, knobs = "gauge", {"gauge": GaugeKnobs(group=arm, transported=0.75 if arm == "so3" else 1.0)}
        self.mixer = build(kind, n_embd=WIDTH, n_head=HEADS, position="rope" if self.turned else "none", knobs=knobs)
        surplus = sum(p.numel() for p in self.mixer.parameters()) - 4 * WIDTH**2
        hidden = HIDDEN - round(surplus / (2 * WIDTH))
        self.embed = nn.Embedding(ORDER + 1, WIDTH)
        self.up, self.down, self.head = (
            nn.Linear(*sizes, bias=False) for sizes in ((WIDTH, hidden), (hidden, WIDTH), (WIDTH, ORDER))
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in (self.up, self.down, self.head, self.mixer.out):
                weight = layer.weight
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight.shape[1] ** -0.5)
            self.embed.weight.copy_(torch.randn(self.embed.weight.shape, generator=generator))

    def forward(self, idx: Tensor) -> Tensor:
        x = self.embed(idx)
        rope = rotary_table(idx.shape[1], WIDTH // HEADS, 1e4) if self.turned else None
        x = x + self.mixer(F.rms_norm(x, (WIDTH,)), rope)
        x = x + self.down(F.relu(self.up(F.rms_norm(x, (WIDTH,)))))
        return self.head(F.rms_norm(x, (WIDTH,)))[:, 1:]


def rate(progress: float, step: int) -> float:
    """50 steps of warm-up, constant to 60 %, then a cosine to 2 %."""
    falling = 1.0 if progress < 0.6 else 0.02 + 0.98 * (1 + math.cos(math.pi * (progress - 0.6) / 0.4)) / 2
    return 3e-3 * min(1.0, (step + 1) / 50) * falling


def accuracies(group: str, arm: str, steps: int = 2500) -> dict[int, float]:
    """Of fresh words by length, over all positions, after training on words of at most 32 letters."""
    table, generator = GROUPS[group](), torch.Generator().manual_seed(0)
    model = Reader(arm)
    fast = [p for name, p in model.named_parameters() if "transport" not in name]
    slow = [p for name, p in model.named_parameters() if "transport" in name]  # angles that jump forget their group
    groups = [{"params": fast, "share": 1.0}, {"params": slow, "share": 0.3 if arm == "u1" else 1.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0)
    for step in range(steps):
        length = next(length for end, length in CURRICULUM if step / steps < end)
        for each in optimizer.param_groups:
            each["lr"] = each["share"] * rate(step / steps, step)
        letters, states = words(table, 128 if length == 4 else 64, length, generator)
        loss = F.cross_entropy(model(letters).flatten(0, 1), states.flatten(), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        optimizer.step()
    found = {}
    with torch.no_grad():
        for length in LENGTHS:
            letters, states = words(table, 32, length, torch.Generator().manual_seed(length))
            found[length] = (model(letters).argmax(-1) == states).float().mean().item()
    log.info("%s %s %s", group, arm, {length: round(share, 3) for length, share in found.items()})
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_the_tables_are_groups(group):
    table = GROUPS[group]()
    every = torch.arange(ORDER)
    assert all(torch.equal(line.sort().values, every) for line in (*table, *table.T))
    a, b, c = torch.randint(ORDER, (3, 2000), generator=torch.Generator().manual_seed(0))
    assert torch.equal(table[table[a, b], c], table[a, table[b, c]])
    assert torch.equal(table, table.T) == (group == "Z60")


def test_a5_is_its_own_commutator_subgroup():
    table = a5()
    (identity,) = (e for e in range(ORDER) if torch.equal(table[e], torch.arange(ORDER)))
    inverse = (table == identity).int().argmax(1)
    found = {int(table[table[a, b], table[inverse[a], inverse[b]]]) for a in range(ORDER) for b in range(ORDER)}
    assert len({int(table[a, b]) for a in found for b in found}) == ORDER


def test_states_are_products_of_the_letters():
    letters, states = words(a5(), 3, 7, torch.Generator().manual_seed(1))
    assert (letters[:, 0] == ORDER).all()
    for row, known in zip(letters[:, 1:].tolist(), states.tolist(), strict=True):
        product = row[0]
        for letter in row[1:]:
            product = int(a5()[product, letter])
        assert product == known[-1]


def test_arms_have_equal_parameters():
    sizes = [sum(p.numel() for p in Reader(arm).parameters()) for arm in ("so3", "u1", "standard")]
    assert max(sizes) == min(sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "arm"), [("A5", "so3"), ("Z60", "u1")])
def test_the_group_that_holds_it_learns_it_and_goes_on_beyond_the_trained_length(group, arm):
    found = accuracies(group, arm)
    assert found[32] > 0.99 and found[64] > 0.99 and found[128] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("group", "arm"), [("A5", "u1"), ("A5", "standard"), ("Z60", "standard")])
def test_the_others_do_not(group, arm):
    found = accuracies(group, arm)
    assert found[32] < 0.2 and found[256] < 0.1
