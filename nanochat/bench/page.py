"""``report.html``: one file without scripts and without network, for a desk, a phone and paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from nanochat.bench import figures
from nanochat.bench.report import HEADINGS, busy_note, command, headlines, number, overlap_note, row, word
from nanochat.bench.verdicts import ArmVerdict, Comparison, Verdicts, excess

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2024; --soft: #5a6370; --faint: #c9ced6; --card: #f5f6f8;
  --win: #1e7f4f; --loss: #b3362b; --other: #5a6370; --bad: #9a5b00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e6e8eb; --soft: #a2abb6; --faint: #3f4750;
  --card: #1d2126; --win: #5cc98f; --loss: #f0857a; --other: #a2abb6; --bad: #e0a84a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .2rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--faint); white-space: nowrap; }
th:first-child, td:first-child, td.text { text-align: left; } td.text { white-space: normal; min-width: 14rem; }
th { font-weight: 600; color: var(--soft); }
.verdict { font-weight: 700; color: var(--other); } .WIN { color: var(--win); } .LOSS { color: var(--loss); }
.INVALID, .UNSTABLE { color: var(--bad); }
.chip { margin-right: 1.2rem; white-space: nowrap; } .chip i { display: inline-block; width: .8em; height: .8em;
  border-radius: 50%; margin-right: .4em; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .6rem; background: var(--card); border-radius: .5rem; break-inside: avoid; }
figure svg { width: 100%; height: auto; display: block; } figcaption { color: var(--soft); font-size: .88rem; }
pre { background: var(--card); padding: .7rem; border-radius: .5rem; white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; overflow-wrap: anywhere; }
dt { color: var(--soft); } dd { margin: 0; }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
@media print { body { max-width: none; font-size: 11pt; } }
"""


def page(verdicts: Verdicts) -> str:
    """The whole document."""
    plan = verdicts.plan
    title = f"Suite {plan.name}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{len(plan.arms)} arms at {plan.budget:.3g} operations each, {len(plan.seeds)} paired seeds, '
        f"baseline {escape(', '.join(plan.baselines))}. Lower bits per byte is better.</p>",
        *([f"<p>{escape(plan.config.question)}</p>"] if plan.config.question else []),
        "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in headlines(verdicts)) + "</ul>",
        verdict_table(verdicts),
        f'<p class="soft">Δ is the mean over seeds of arm minus baseline at the same seed, with a simultaneous '
        f"{1 - plan.config.alpha:.0%} interval. WIN or LOSS: paired t test after Holm at {plan.config.alpha:g}. TIE: "
        f"two one-sided tests within ±{plan.config.sesoi:g}. Seeds needed: to detect ±{plan.config.sesoi:g} with 80 % "
        f"power. Step time: seconds per step over the baseline's. "
        f"{escape(busy_note(verdicts))}</p>",
        legend(verdicts),
        pictures(verdicts),
        "<h2>Statistics</h2>",
        statistics_table(verdicts),
        "<h2>Effects</h2>",
        effects_table(verdicts),
        '<p class="soft">Worth in compute: times its operations that the baseline needs for the same loss; * outside '
        "of the budgets it was run at. C: the full budget. Not corrected for their number; secondary.</p>",
        "<h2>Learning rates</h2>",
        tuning_table(verdicts),
        "<h2>Audits</h2>",
        audit_table(verdicts),
        f'<p class="soft">{escape(overlap_note(verdicts))}</p>',
        "<h2>Repeat it</h2>",
        f"<pre>{escape(command(plan.config))}</pre>",
        "<h2>Provenance</h2>",
        provenance(verdicts),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are HTML already; a cell that begins with ``<td`` is taken as it is."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join(
        "<tr>" + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for cells in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def verdict_table(verdicts: Verdicts) -> str:
    """The table that everything else explains."""

    def cells(arm: ArmVerdict) -> list[str]:
        text = [escape(cell) for cell in row(arm)]
        text[1] = f'<td><span class="verdict {arm.verdict}">{escape(word(arm))}</span></td>'
        return text

    return table(HEADINGS, map(cells, verdicts.arms))


def legend(verdicts: Verdicts) -> str:
    """Which colour is which arm, in all pictures."""
    chips = (
        f'<span class="chip"><i style="background:{figures.colour(index)}"></i>{escape(arm.label)}</span>'
        for index, arm in enumerate(verdicts.arms)
    )
    return f'<p class="legend">{"".join(chips)}</p>'


def pictures(verdicts: Verdicts) -> str:
    """All figures."""
    sesoi = verdicts.plan.config.sesoi
    drawn = [
        (
            figures.forest(verdicts),
            f"Difference to the baseline, simultaneous intervals; the band is ±{sesoi:g}, too small to matter.",
        ),
        (figures.paired_seeds(verdicts), "Every verdict seed; a line joins runs on the same data and initial weights."),
        (figures.learning(verdicts, "operations"), "Training loss, mean and range over seeds, at equal operations."),
        (figures.learning(verdicts, "seconds"), "The same against time: what the operations cost on this machine."),
        (
            figures.learning_rates(verdicts),
            "Tuning runs at an eighth (dotted) and a quarter (solid) of the budget; the ring marks the choice.",
        ),
        (
            figures.pareto(verdicts, "seconds"),
            "Loss against time: the line joins the arms that no other beats in both.",
        ),
        (figures.pareto(verdicts, "peak_bytes"), "Loss against memory, the same way."),
        (figures.pareto(verdicts, "parameters"), "Loss against parameters, the same way."),
        (
            figures.documents(verdicts),
            "Passages of the held-out text by their difference, mean over seeds: a steep curve left of zero is a gain "
            "everywhere, a flat one a gain here and a loss there.",
        ),
    ]
    inner = "".join(
        f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for svg, caption in drawn if svg
    )
    return f'<div class="pictures">{inner}</div>'


def statistics_table(verdicts: Verdicts) -> str:
    """Numbers behind the verdicts."""
    headings = (
        "arm",
        "seeds",
        "sd of Δ",
        "paired t p",
        "sign-flip p",
        "TIE p",
        "detectable at 80 %",
        "parameters",
        "note",
    )

    def cells(arm: ArmVerdict) -> list[str]:
        return [
            escape(arm.label),
            str(len(arm.bpb)),
            number(arm.sd, ".4f"),
            number(arm.p, ".2g"),
            number(arm.p_sign_flip, ".2g"),
            number(arm.p_tie, ".2g"),
            number(arm.detectable, ".4f"),
            f"{arm.parameters:,}",
            f'<td class="text">{escape(arm.note)}</td>',
        ]

    return table(headings, map(cells, verdicts.arms))


def effects_table(verdicts: Verdicts) -> str:
    """How much the differences are, in other units, and what happens elsewhere."""
    headings = (
        *("arm", "Δ / sd", "beats it on a fresh seed", "Δ for new documents too", "worth in compute"),
        *("confirmed", *(f"at {share:g} C" for share in verdicts.plan.preset.shares), "at equal seconds"),
    )

    def cells(arm: ArmVerdict) -> list[str]:
        told = arm.effects
        gain = None if told is None else told.gain
        spread = None if told is None else told.documents
        return [
            escape(arm.label),
            number(None if told is None else told.standardised, "+.2f"),
            number(None if told is None else told.fresh_seed, ".0%"),
            "" if spread is None else f"[{spread[0]:+.4f}, {spread[1]:+.4f}]",
            "" if gain is None else f"{gain.factor:.2f}x [{gain.low:.2f}, {gain.high:.2f}]{'*' * gain.extrapolated}",
            brief(arm.confirmation),
            *(brief(arm.shares.get(share)) for share in verdicts.plan.preset.shares),
            brief(arm.time),
        ]

    return table(headings, map(cells, verdicts.contenders))


def brief(found: Comparison | None) -> str:
    """A further comparison in one cell."""
    return "" if found is None else f"{found.verdict} {number(found.difference, '+.4f')}".rstrip()


def tuning_table(verdicts: Verdicts) -> str:
    """What the search chose."""
    headings = ("arm", "rate used", "trials", "mean excess over the grid", "at the edge")

    def cells(arm: ArmVerdict) -> list[str]:
        trials = sum(job.stage == "tuning" for job, _ in verdicts.runs[arm.label])
        return [
            escape(arm.label),
            f"{arm.tuned.rate:.3g}",
            str(trials),
            number(excess(arm.tuned), ".3f") or "diverges",
            "yes" if arm.tuned.at_edge else "no",
        ]

    return table(headings, map(cells, verdicts.arms))


def audit_table(verdicts: Verdicts) -> str:
    """What was checked after the fact."""
    headings = (
        "arm",
        "result",
        "runs",
        "steps",
        "budget off by",
        "ledger off by",
        "score off by",
        "leak",
        "seconds per run",
        "faults",
    )

    def cells(arm: ArmVerdict) -> list[str]:
        return [
            escape(arm.label),
            '<span class="verdict INVALID">failed</span>' if arm.audit.faults else "passed",
            str(arm.audit.runs),
            str(arm.steps),
            f"{arm.audit.budget_error:.2%}",
            f"{arm.audit.ledger_error:.2%}",
            f"{arm.audit.rescored:.1g}",
            f"{arm.audit.leak:.1g}",
            number(arm.seconds, ".1f"),
            f'<td class="text">{escape("; ".join(arm.audit.faults))}</td>',
        ]

    return table(headings, map(cells, verdicts.arms))


def provenance(verdicts: Verdicts) -> str:
    """Where the numbers come from."""
    plan = verdicts.plan
    machine = verdicts.provenance["environment"]
    hashes = verdicts.provenance["hashes"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    entries = {
        "design": plan.design,
        **({"left out": "; ".join(f"{label}: {why}" for label, why in plan.excluded.items())} if plan.excluded else {}),
        **({"told beforehand": "; ".join(verdicts.forecast)} if verdicts.forecast else {}),
        "size": plan.size,
        "text": f"{plan.data.data}, {plan.data.eval_documents} held-out passages of {plan.data.eval_bytes} bytes",
        "corpus": hashes["data_hash"],
        "tokenizer": hashes["tokenizer_hash"],
        "held-out set": hashes["eval_hash"],
        "code": "; ".join(f"{label}: {digest[:16]}" for label, digest in verdicts.provenance["code"].items()),
        "commit": machine["commit"] or "not a checkout",
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['platform']}",
        "software": f"Python {machine['python']}, {versions}",
        "optimizer": f"{', '.join(plan.config.optimizers)}, schedule {', '.join(plan.config.schedulers)}",
        "verdict seeds": ", ".join(map(str, plan.seeds)),
        "tuning seeds": ", ".join(map(str, plan.tuning_seeds)),
        **({"fresh seeds": ", ".join(map(str, plan.confirmation_seeds))} if plan.confirmation_seeds else {}),
        "cost": f"{verdicts.core_seconds:.0f} core seconds of training; this call took {verdicts.wall_seconds:.0f} s, "
        f"trained {verdicts.trained} runs and found {verdicts.served} in the store",
        "started": machine["started"],
    }
    return "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in entries.items()) + "</dl>"
