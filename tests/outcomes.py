"""A made-up result of a training run, for tests of what becomes of results."""

from nanochat.bench.store import Outcome

OUTCOME = Outcome(
    bpb=3.5,
    diverged=False,
    fault="",
    steps=200,
    tokens=200 * 64,
    flops_used=1e9,
    counted_flops=1.001e9,
    parameters=1000,
    step_seconds=0.01,
    wall_seconds=2.0,
    cpu_seconds=1.99,
    peak_bytes=10**8,
    loss_curve=[[0, 5.5], [199, 3.2]],
    document_nats=[10.0, 20.0],
    document_bytes=[4, 8],
    data_hash="d",
    tokenizer_hash="t",
    eval_hash="e",
    rescored=1e-8,
    leak=0.0,
    weights=1000,
    unchecked="",
)
"""Fields that a test cares about are replaced (``dataclasses.replace``)."""
