"""What a braid mixer did, as words and schedules, and whether the laws hold of it: executed again in float64.

Independent of the kernels: transports are products of complex 2 x 2 matrices, crossings act strand by strand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

STEPS = torch.tensor([0, 1, 2, -1, -2])
"""What the five choices of a token mean in a word: stay, the two generators, their inverses."""


@dataclass(frozen=True)
class Transport:
    """The first sequence of one pass of the ``transport`` form.

    Attributes:
        choice: weights of the five choices, (K, T, 5, n).
        table: real part, phase, and the two imaginary parts of both generators, see ``braid.generators``.
        start: quaternions and angles before the first token, (K, 4, n) and (K, n).
        last: those after the last one, as they were executed.
    """

    choice: Tensor
    table: tuple[Tensor, ...]
    start: tuple[Tensor, Tensor]
    last: tuple[Tensor, Tensor]

    def then(self, later: Transport) -> Transport:
        """Both in one: decoding goes on where it was."""
        return replace(later, choice=torch.cat((self.choice, later.choice), 1), start=self.start)

    @property
    def limit(self) -> float:
        """What rounding may leave of a residual after T steps."""
        return 16 * torch.finfo(self.last[0].dtype).eps * (self.choice.shape[1] + 16)

    def recorded(self) -> dict[str, float | str]:
        """The word of the first braid of the first head, and the share of crossings among the letters of all braids."""
        found = letters(self.choice)
        return {"word": spelled(found[0, :, 0]), "crossed": (found != 0).double().mean().item()}

    def residuals(self, discrete: bool) -> dict[str, float]:
        """What is left of the laws of what was executed.

        ``execution``: its matrices against those of its words (``discrete``) or of its mixtures, executed here;
        ``unitarity``: of the executed matrices; ``yang_baxter``: of the generators in use; ``word_distance``: the
        executed matrices against those of their likeliest words.
        """
        got = unitary(*self.last)
        by_word = moved(self.table, settled(self.choice), self.start)
        wanted = by_word if discrete else moved(self.table, self.choice, self.start)
        return {
            "yang_baxter": yang_baxter(self.table),
            "unitarity": (got @ got.mH - torch.eye(2, device=got.device)).abs().max().item(),
            "execution": (got - wanted).abs().max().item(),
            "word_distance": (got - by_word).abs().max().item(),
        }


@dataclass(frozen=True)
class Crossing:
    """The last query of the first sequence of one pass of the ``crossing`` form.

    Attributes:
        gates: how much it crosses each token, (H, S); 0 or 1 in ``discrete`` mode.
        values: (H, S, D).
        keep: t of each head, (H,); empty under the ``restricted`` law.
        output: what was executed, (H, D).
    """

    gates: Tensor
    values: Tensor
    keep: Tensor
    output: Tensor

    @property
    def limit(self) -> float:
        """What rounding may leave of a residual: the output's type, and a sum of S logarithms."""
        gates, output = (torch.finfo(each.dtype).eps for each in (self.gates, self.output))
        return (8 * output + 4 * gates * self.gates.shape[1]) * (1 + self.values.abs().max().item())

    def recorded(self) -> dict[str, float | str]:
        """The tokens that the first head's strand crosses (by more than half), in order, and the word that it spells.

        The strand starts left of them and crosses one after the other: s1 s2 ... sk on k + 1 strands.
        """
        crossed = self.gates > 0.5
        tokens = crossed[0].nonzero()[:, 0].tolist()
        return {
            "tokens": " ".join(map(str, tokens)),
            "word": " ".join(str(place + 1) for place in range(len(tokens))),
            "crossed": crossed.double().mean().item(),
        }

    def residuals(self, discrete: bool) -> dict[str, float]:
        """What is left of the laws: ``yang_baxter`` of the crossing in use, and ``execution``.

        For the latter the strand is taken past every token, one crossing after the other, in ``discrete`` mode past
        those alone that it crosses.
        """
        gates = (self.gates > 0.5) if discrete else self.gates
        keep = self.keep.double() if len(self.keep) else None
        strand = torch.zeros_like(self.output.double())
        for gate, value in zip(gates.double().mT.unsqueeze(-1), self.values.double().transpose(0, 1), strict=True):
            strand = strand + gate * (cross(strand, value, None if keep is None else keep[:, None])[1] - strand)
        if keep is None:
            strand = strand / self.values.shape[1]
        return {
            "yang_baxter": triple_residual(keep),
            "execution": (strand - self.output.double()).abs().max().item(),
        }


def letters(choice: Float[Tensor, "K T 5 n"]) -> Tensor:
    """The likeliest choice of each token as a letter of its braid word, (K, T, n): 0, +-1 or +-2."""
    return STEPS.to(choice.device)[choice.argmax(2)]


def spelled(found: Tensor) -> str:
    """A braid word as text, letters that stay left out: ``1 -2 1`` is s1 s2^-1 s1."""
    return " ".join(str(letter) for letter in found.tolist() if letter)


def matrix(quaternion: Float[Tensor, "4 ..."]) -> Complex[Tensor, "... 2 2"]:
    """The element of SU(2) that left multiplication with a unit quaternion is."""
    w, x, y, z = quaternion.double()
    rows = (torch.complex(w, x), torch.complex(y, z), torch.complex(-y, z), torch.complex(w, -x))
    return torch.stack(rows, -1).unflatten(-1, (2, 2))


def unit_complex(angle: Float[Tensor, "*batch"]) -> Complex[Tensor, "*batch"]:
    """e^(i angle), in fp64."""
    return torch.polar(torch.ones_like(angle).double(), angle.double())


def unitary(quaternion: Float[Tensor, "K 4 n"], angle: Float[Tensor, "K n"]) -> Complex[Tensor, "K n 2 2"]:
    """The unitary matrix that a frame is: a quaternion from the left, a phase from the right."""
    return matrix(quaternion.transpose(0, 1)) * unit_complex(angle)[..., None, None]


def choices(table: tuple[Tensor, ...]) -> tuple[Complex[Tensor, "5 K n 2 2"], Float[Tensor, "5 K n"]]:
    """Matrices in SU(2) and phases of the five choices under a table of generators."""
    real, phase, *parts = (each.double() for each in table)
    zero, one = torch.zeros_like(real), torch.ones_like(real)
    (a, b), (c, d) = parts[:2], parts[2:]
    quaternions = [(one, zero, zero), (real, a, b), (real, c, d), (real, -a, -b), (real, -c, -d)]
    turns = torch.stack((zero, phase, phase, -phase, -phase))
    return torch.stack([matrix(torch.stack((*each, zero))) for each in quaternions]), turns


def yang_baxter(table: tuple[Tensor, ...]) -> float:
    """Largest entry of s1 s2 s1 - s2 s1 s2 over the lanes of a table; 0 for a representation of the braid group."""
    (_, first, second, *_), _ = choices(table)
    return (first @ second @ first - second @ first @ second).abs().max().item()


def moved(table: tuple[Tensor, ...], choice: Float[Tensor, "K T 5 n"], start: tuple[Tensor, Tensor]) -> Tensor:
    """The unitary matrices (K, n, 2, 2) that a sequence of choices leads to, mixtures projected to the group."""
    matrices, turns = choices(table)
    weights = choice.double().permute(1, 2, 0, 3)
    state = unitary(*start)
    for weight in weights:
        mixture = (weight[..., None, None] * matrices).sum(0)
        square = torch.linalg.det(mixture).real
        unit = mixture / torch.where(square > 0, square, 1.0).sqrt()[..., None, None]
        state = state @ unit * unit_complex((weight * turns).sum(0))[..., None, None]
    return state


def settled(choice: Tensor) -> Tensor:
    """All the weight on the likeliest choice."""
    return torch.zeros_like(choice).scatter_(2, choice.argmax(2, keepdim=True), 1.0)


def cross(a: Tensor, b: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """One crossing of neighbouring strands: (b, t a + (1 - t) b), or (b, a + b) under the ``restricted`` law."""
    return b, a + b if keep is None else keep * a + (1 - keep) * b


def triple_residual(keep: Tensor | None) -> float:
    """R12 R23 R12 - R23 R12 R23 on three strands of distinct values: 0 where the Yang-Baxter equation holds."""
    ends = []
    for order in ((0, 1, 0), (1, 0, 1)):
        strands = [torch.tensor(value, dtype=torch.float64) for value in (0.3, -1.1, 2.0)]
        for place in order:
            strands[place : place + 2] = cross(strands[place], strands[place + 1], keep)
        ends.append(torch.stack([each.expand(()) if keep is None else each.expand(keep.shape) for each in strands]))
    return (ends[0] - ends[1]).abs().max().item()
