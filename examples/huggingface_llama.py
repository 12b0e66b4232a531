"""A Hugging Face Llama with another attention: built from its configuration, trained, and asked to generate. Offline.

Run: ``python examples/huggingface_llama.py [NAME] [--by-name]``; needs the extra ``hf``.

``replace_attention`` puts any mixer, with its own parameters and state, in the place of the model's attention modules.
``--by-name`` selects it as ``attn_implementation`` instead: for mixers that are functions of queries, keys and values.
"""

from __future__ import annotations

import argparse
import inspect

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from nanochat.attention import MIXERS
from nanochat.huggingface import register, replace_attention

LENGTH = 64
CONFIG = LlamaConfig(
    vocab_size=256,  # bytes
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    bos_token_id=10,
    eos_token_id=None,
    pad_token_id=0,
)


def build_model(name: str, by_name: bool) -> LlamaForCausalLM:
    """A Llama whose attention is the mixer of this name."""
    model = LlamaForCausalLM(CONFIG)
    if by_name:
        register()
        model.set_attn_implementation(f"mgr_{name}")
        return model
    return replace_attention(model, name)


def train(model: LlamaForCausalLM, text: Tensor, steps: int) -> None:
    """As with any model of transformers."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for step in range(steps + 1):
        starts = torch.randint(len(text) - LENGTH, (16,)).tolist()
        batch = torch.stack([text[start : start + LENGTH] for start in starts])
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % (steps // 4) == 0:
            print(f"step {step:4}  {loss.item() / torch.log(torch.tensor(2.0)):.2f} bits per byte")


def main() -> None:
    """Train, generate from two prompts of different lengths, and check that the cache changes nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="tropical", choices=MIXERS.names())
    parser.add_argument("--by-name", action="store_true", help="as attn_implementation")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = build_model(options.name, options.by_name)
    train(model, torch.tensor(list(inspect.getsource(argparse).encode())), options.steps)
    prompts = [b"    def __init__(self", b"  return"]
    widest = max(map(len, prompts))
    idx = torch.tensor([[0] * (widest - len(prompt)) + list(prompt) for prompt in prompts])
    given = {"attention_mask": (idx != 0).long(), "max_new_tokens": 60, "do_sample": False}
    made = model.eval().generate(idx, use_cache=True, **given)
    for row in made.tolist():
        print(repr(bytes(row).lstrip(b"\0").decode("utf-8", "replace")))
    print("the same without a cache:", torch.equal(made, model.generate(idx, use_cache=False, **given)))


if __name__ == "__main__":
    main()
