"""Two more tiny models for tests, made on the spot: `more_models.py DIRECTORY`.

Like workers/agent/tiny_model.py it runs inside an engine environment. What they say is noise, the
same each time, but not whatever they are given.

    DIRECTORY/hears   Whisper, which hears CLIP_S seconds at a time
    DIRECTORY/judges  a BERT that reads a query and a document together and tells one number
"""

import shutil
import sys
from itertools import product
from pathlib import Path
from string import ascii_lowercase, digits, punctuation
from typing import Any

SEED = 20_26
HIDDEN = 64
HEADS = 2
CLIP_S = 5
FRAMES_S = 50  # what Whisper's encoder makes of a second
CONTEXT = 448
SPREAD = 0.2  # of the weights: with less it repeats what it was given


def build(directory: Path) -> None:
    """Make both under `directory`, which is there in full or not at all."""
    draft = directory.with_name(f".{directory.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    _hears(draft / "hears")
    _judges(draft / "judges")
    for path in [draft, *draft.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)  # engines read it under other uids
    draft.rename(directory)


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Letters and pairs of them, so that what is said is text; Ġ stands for a space."""
    letters = [*"Ġ", *ascii_lowercase, *ascii_lowercase.upper(), *digits, *punctuation]
    pairs = list(product("Ġ" + ascii_lowercase, ascii_lowercase))
    words = [*letters, *map("".join, pairs)]
    return {word: number for number, word in enumerate(words)}, pairs


def _hears(folder: Path) -> None:
    import torch
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    vocabulary, pairs = _vocabulary()
    tokenizer: Any = WhisperTokenizer(vocab=vocabulary, merges=pairs)
    tasks = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    marks = ["startoftranscript", *LANGUAGES, *tasks]
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{mark}|>" for mark in marks]})
    moments = [f"<|{step * 0.02:.2f}|>" for step in range(CLIP_S * FRAMES_S + 1)]
    tokenizer.add_tokens(moments)
    end = tokenizer.eos_token_id
    begin = tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    torch.manual_seed(SEED)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=HIDDEN,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=2 * HIDDEN,
        decoder_ffn_dim=2 * HIDDEN,
        max_source_positions=CLIP_S * FRAMES_S,
        max_target_positions=CONTEXT,
        init_std=SPREAD,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=begin,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=end, pad_token_id=end, bos_token_id=end, decoder_start_token_id=begin
    )
    model.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    ears = WhisperFeatureExtractor(chunk_length=CLIP_S)
    WhisperProcessor(ears, tokenizer).save_pretrained(folder)


def _judges(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary, pairs = _vocabulary()
    core = Tokenizer(models.BPE(vocabulary, pairs))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(mark, core.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=CONTEXT,
    )
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=CONTEXT,
        initializer_range=SPREAD,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    model = BertForSequenceClassification(config).to(torch.bfloat16)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
