"""Build a tiny chat model, and an adapter for it, on the spot: `tiny_model.py DIRECTORY [LAYERS]`.

For machines that reach no model hub, and for tests. It runs inside an engine environment and
imports nothing of the house. What it says is noise, but the same noise each time; everything
around the weights is real: a tokenizer trained here, a chat template with tools, safetensors,
a LoRA adapter in PEFT's format.

    DIRECTORY/model     Llama architecture, 0.8 million parameters, about 2 MB
    DIRECTORY/adapter   rank 4 on the attention's projections
"""

import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

SEED = 20_26
VOCABULARY = 2_048
HIDDEN = 128
LAYERS = 2
HEADS = 2
CONTEXT = 4_096
RANK = 4
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ROLES = {"eos_token": SPECIAL[2], "pad_token": SPECIAL[0], "unk_token": SPECIAL[0]}
TOOL_MARKS = ["<tool_call>", "</tool_call>"]

CHAT_TEMPLATE = """\
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- if tools or system %}<|im_start|>system
{{ system }}
{%- if tools %}
Call a tool as <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call>. The tools:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
{%- endif %}<|im_end|>
{% endif %}
{%- for message in (messages[1:] if messages[0].role == 'system' else messages) %}<|im_start|>\
{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}<tool_call>{"name": "{{ call.function.name }}", \
"arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def build(directory: Path, layers: int = LAYERS) -> None:
    """Make both under `directory`, which is there in full or not at all."""
    if directory.exists():
        return
    draft = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    tokenizer = _tokenizer()
    model = _model(tokenizer, layers)
    tokenizer.save_pretrained(draft / "model")
    model.save_pretrained(draft / "model", safe_serialization=True)
    _write_adapter(draft / "adapter", layers)
    for path in [draft, *draft.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)  # engines read it under other uids
    try:
        draft.rename(directory)
    except OSError:
        shutil.rmtree(draft)  # somebody else was quicker
        if not directory.exists():
            raise


def _corpus() -> list[str]:
    """English and code that every Python brings along."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(stdlib.glob("*.py"))[:120]
    return [file.read_text(encoding="utf-8", errors="ignore") for file in files]


def _tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TOOL_MARKS),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(), trainer)
    core.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in TOOL_MARKS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        **ROLES,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _model(tokenizer: Any, layers: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


def _write_adapter(directory: Path, layers: int) -> None:
    import torch
    from safetensors.torch import save_file

    directory.mkdir()
    generator = torch.Generator().manual_seed(SEED + 1)
    widths = {"q_proj": HIDDEN, "v_proj": HIDDEN // HEADS}
    tensors = {}
    for layer in range(layers):
        for name, width in widths.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            down = torch.randn(RANK, HIDDEN, generator=generator)
            up = torch.randn(width, RANK, generator=generator)
            tensors[f"{prefix}.lora_A.weight"] = down.to(torch.bfloat16)
            tensors[f"{prefix}.lora_B.weight"] = up.to(torch.bfloat16)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "base_model_name_or_path": "",
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": RANK,
        "target_modules": sorted(widths),
        "task_type": "CAUSAL_LM",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2))


if __name__ == "__main__":
    build(Path(sys.argv[1]), *map(int, sys.argv[2:]))
