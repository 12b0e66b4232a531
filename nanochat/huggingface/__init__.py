"""Mixers in Hugging Face models, in two ways. Needs the extra ``hf``.

By name, for mixers that are functions of queries, keys and values; weights, positions and cache stay the model's own::

    register()
    model.set_attn_implementation("mgr_tropical")

As modules, for every mixer, with its own parameters, positions and decoding state; projections stay the model's own::

    replace_attention(model, "gauge", gauge_group="u1")

Both train, and generate with ``use_cache=True``, beams and padded batches included. What a mixer cannot honour (a mask
that is not causal with padding, dropout, a sliding window, another cache) is refused in one line.
"""

try:
    import transformers
except ImportError as error:
    raise ImportError(
        f"nanochat.huggingface: {error}; need the extra hf: pip install 'model-guided-research[hf]'"
    ) from error

from nanochat.huggingface.functions import register
from nanochat.huggingface.modules import replace_attention

__all__ = ["register", "replace_attention", "transformers"]
