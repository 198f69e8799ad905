"""Causal LMs as folders on the disk: loading them by name, saving them with their tokenizer and head, LoRA adapters.

Files are Hugging Face's own formats and safetensors, so that loading one never runs code.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from rlhf_lib.paths import data_dir

MANIFEST = "rlhf.json"  # what a folder written by `save` holds beside Hugging Face's own files
DTYPES = (None, torch.float32, torch.float64, torch.bfloat16)


def load_lm(name: str | Path, dtype: torch.dtype | None = None) -> tuple[nn.Module, object, dict]:
    """The causal LM in float32 or float64, its tokenizer, and its folder's manifest: at least the base's name."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}: use None (float32), torch.bfloat16 (autocast) or torch.float64")
    weights = torch.float64 if dtype == torch.float64 else torch.float32
    if name == "micro":
        lm, tokenizer = _micro()
        return lm.to(weights), tokenizer, {"base": name}
    if name == "tiny":
        folder = data_dir() / "tiny"
    elif name == "smol":
        from rlhf_lib.assets import smollm2_dir

        folder = smollm2_dir()
    else:
        folder = Path(name).resolve() if Path(name).is_dir() else name
    base = name if name in ("tiny", "smol") else str(folder)
    try:
        manifest_file = Path(folder) / MANIFEST
        manifest = json.loads(manifest_file.read_text(encoding="utf-8")) if manifest_file.is_file() else {}
        if manifest.get("lora"):
            lm, tokenizer, _ = load_lm(manifest["base"], dtype)
            lm = _peft().PeftModel.from_pretrained(lm, folder, is_trainable=True).to(weights)
            return lm, tokenizer, manifest
        with _no_progress_bars() if isinstance(folder, Path) else nullcontext():  # a download keeps its bar
            lm = AutoModelForCausalLM.from_pretrained(folder, dtype=weights, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if isinstance(folder, Path):
            message = f"{folder} holds no complete model ({reason}): save or fetch it again"
        else:
            message = (
                f"no model {name!r}: it is not 'micro', 'tiny' or 'smol', not a folder with a saved model, and not "
                f"found on the Hugging Face hub ({reason})"
            )
        raise ValueError(message) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a folder without a tokenizer
        raise ValueError(f"{folder} holds no complete model (its tokenizer is missing): save or fetch it again")
    _separate_pad(tokenizer)
    return lm, tokenizer, manifest | {"base": base}


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Spare the reader transformers' bar over a second of loading or writing weights."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _micro() -> tuple[nn.Module, object]:
    """The one-layer transformer over the micro review language: same weights on every call."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from rlhf_lib.reviews import micro_mdp

    mdp = micro_mdp()
    words = [word for index, word in enumerate(mdp.actions) if index != mdp.eos]
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<bos>", "<eos>", *words])}
    core = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece(prefix="##", cleanup=False)
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<pad>",
        padding_side="left",
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config), tokenizer


def _separate_pad(tokenizer) -> None:
    """Give a tokenizer whose pad is missing, or is its end token, another existing special token as pad.

    A model whose end token is masked as padding never learns to stop. Nothing is resized: pads are never attended to.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("this tokenizer has no end-of-text token: set tokenizer.eos_token before saving the model")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        others = [i for i in tokenizer.all_special_ids if i != tokenizer.eos_token_id]
        spare = next((i for i in others if i != tokenizer.bos_token_id), others[0] if others else 0)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(spare if spare != tokenizer.eos_token_id else 1)
    tokenizer.padding_side = "left"


def keep_layers(lm: nn.Module, count: int) -> None:
    """Cut a model down, in place, to the lowest `count` of its layers."""
    stack = getattr(lm.get_decoder(), "layers", [])
    if not 1 <= count <= len(stack):
        raise ValueError(f"layers={count}: this model has {len(stack)} to keep")
    del stack[count:]
    lm.config.num_hidden_layers = count
    if getattr(lm.config, "layer_types", None):
        lm.config.layer_types = lm.config.layer_types[:count]


def add_lora(lm: nn.Module, lora: int | dict) -> nn.Module:
    """The LM under fresh low-rank adapters, the only weights that then train: their rank, or LoraConfig's arguments."""
    peft = _peft()
    if hasattr(lm, "peft_config"):
        raise ValueError("this folder's model has adapters already, and they are trained on: leave lora out")
    options = {"r": lora, "lora_alpha": 2 * lora} if isinstance(lora, int) else dict(lora)
    config = peft.LoraConfig(
        **{"target_modules": "all-linear", "lora_dropout": 0.0, "task_type": "CAUSAL_LM"} | options
    )
    with torch.random.fork_rng(devices=[]):  # the same adapters on every call
        torch.manual_seed(0)
        return peft.get_peft_model(lm, config)


def _peft():
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA needs PEFT: pip install 'rlhf-lib[smol]'") from error
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # it is PEFT that asks
    return peft


def save(model: nn.Module, path: str | Path, manifest: dict, head: nn.Linear | None) -> None:
    """Write a folder: `model.lm` (under LoRA its adapters), `model.tokenizer`, the head, and the manifest."""
    from safetensors.torch import save_file

    path, tokenizer = Path(path), model.tokenizer
    manifest |= {"head": head is not None, "lora": hasattr(model.lm, "peft_config")}
    if manifest["lora"] and manifest["base"] == str(path.resolve()):
        raise ValueError(f"{path} holds the model that these adapters belong to: save them in a folder of their own")
    path.mkdir(parents=True, exist_ok=True)
    with _no_progress_bars():
        model.lm.save_pretrained(path)
    pad = tokenizer.pad_token
    if pad not in tokenizer.added_tokens_encoder:  # a word that stands in as pad: in a file it would become special,
        tokenizer.pad_token = None  # and whoever loads it would cut it out of every text
    tokenizer.save_pretrained(path)
    tokenizer.pad_token = pad
    if head is not None:
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()},
            path / "head.safetensors",
        )
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def load_head(head: nn.Linear, path: str | Path) -> None:
    """Fill `head` with the one saved in a folder; ValueError where it is missing, damaged or of another shape."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(path) / "head.safetensors"
    try:
        head.load_state_dict(load_file(file))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{file} is missing or damaged ({error}): save the model again") from error
