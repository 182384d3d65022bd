"""A model of the 8B class with random weights: `big_model.py FOLDER TINY`.

It runs inside an engine environment. TINY is a model of workers/agent/tiny_model.py, whose
tokenizer and chat template it takes over; the shape is that of Llama 3 8B, in bfloat16, 16 GB.
"""

import os
import shutil
import sys
from pathlib import Path

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 8_192,
}


def build(folder: Path, tiny: Path, shape: dict[str, int]) -> None:
    """`folder` is there in full or not at all."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if folder.exists():
        return
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.save_pretrained(draft)
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(20_26)
    model = LlamaForCausalLM(
        LlamaConfig(
            **shape,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(draft, max_shard_size="5GB")
    draft.rename(folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]), SHAPE)
