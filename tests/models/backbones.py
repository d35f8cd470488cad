"""`python -m tests.models.backbones` writes the table of the backbones that each norm fits."""

import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging

from src.markdown import markdown_table
from src.models.image import build_torchvision_model
from src.models.transformer import TransformerSizes, build_transformer
from src.norms import NORMS, swap_norms
from src.norms.padding_probe import TOLERANCE, effect_of_padding

TABLE = Path(__file__).parents[2] / "docs" / "backbones.md"
NORMS_THAT_READ_POSITIONS = ("BatchNorm", "InstanceNorm")
SIZES = TransformerSizes(64, 2, 4, dropout=0.1, vocab_size=200, max_length=64, pad_token_id=0)
MOST_PARAMETERS = 150_000_000
OPTIONS: dict[str, dict[str, Any]] = {  # what --model.config has to give beside the flags
    "diffllama": {"attention_dropout": 0.0},
    "gpt_neo": {"attention_types": [[["global"], 2]]},
    "gptj": {"rotary_dim": 8},
    "helium": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "ministral": {"head_dim": 16},
    "plbart": {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "reformer": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [8, 8]},
    "squeezebert": {"embedding_size": 64},
    "t5": {"decoder_start_token_id": 0},
    "xmod": {"default_language": "en_XX"},
}
HEAD = """\
# Which norm fits which backbone

`make backbones` writes this page ({versions}).
It builds every backbone that `--model.backbone` takes, with small sizes, and swaps its norms.

A text backbone fits if padding does not count: a batch that is padded further gives the same outputs and running
statistics up to {tolerance:g} of their size. `swap_norms` tries the same before training and refuses a backbone that
does not fit. Norms of one position (LayerNorm, RMSNorm, GroupNorm, DynamicTanh, Derf) need no mask and are not listed.

An image backbone fits if a forward pass runs. "refused" is the error of the swap or of that pass.
"""


def text_backbones() -> list[str]:
    return [str(name) for name in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES]


def build_text(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_transformer(name, SIZES, 3, OPTIONS.get(name, {}))


def first_sentence(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).split(". ")[0][:160].replace("|", "/").rstrip(".")
    return re.sub(r"^\w+ does not fit \w+: ", "", text) or type(error).__name__


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@cache
def why_not_tried(name: str) -> str | None:
    """Why a text backbone cannot be tried, or None."""
    try:
        with time_limit(60):
            with torch.device("meta"):
                size = sum(p.numel() for p in build_text(name).parameters())
            if size > MOST_PARAMETERS:
                return f"not tried: {size / 1e6:,.0f} million parameters, since parts have sizes of their own"
            effect_of_padding(build_text(name))
    except Exception as error:
        return f"not tried: {first_sentence(error)}"
    return None


def text_fit(name: str, norm: str) -> str:
    """ "fits", or why not."""
    if reason := why_not_tried(name):
        return reason
    model = build_text(name)
    try:
        replaced = swap_norms(model, NORMS[norm])
    except Exception as error:
        return f"refused: {first_sentence(error)}"
    if not replaced:
        return "no norms to replace"
    effect = effect_of_padding(model)
    return "fits" if effect <= TOLERANCE else f"WRONG: padding changes results by {effect:.2g}"


def image_fit(name: str, norm: str) -> str:
    """ "fits", or why not: a forward pass without numbers, on the meta device."""
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # RegNet computes its widths by tensors
        model = build_torchvision_model(name, 3, None)
    model.to("meta")
    try:
        if not swap_norms(model, NORMS[norm]):
            return "no norms to replace"
        size = 299 if "inception" in name else 224
        model(torch.empty(2, 3, size, size, device="meta"))
    except Exception as error:
        return f"refused: {first_sentence(error)}"
    return "fits"


def section(title: str, names: list[str], fit: Callable[[str, str], str], norms: tuple[str, ...]) -> str:
    results = {name: [fit(name, norm) for norm in norms] for name in names}
    lines = [f"## {title}", ""]
    for column, norm in enumerate(norms):
        found = [result[column] for result in results.values()]
        counts = {"fit": found.count("fits")}
        for word, start in {"refused": "refused", "without norms": "no norms", "not tried": "not tried"}.items():
            counts[word] = sum(result.startswith(start) for result in found)
        said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        lines.append(f"- {norm}, of {len(found)}: {said}.")
    tried = {name: result for name, result in results.items() if not result[0].startswith("not tried")}
    shown = [name for name, result in tried.items() if set(result) != {"fits"}]
    lines += ["", f"All of these norms fit: {', '.join(name for name in tried if name not in shown)}."]
    if shown:
        lines += ["", markdown_table(["backbone", *norms], [[name, *results[name]] for name in shown])]
    if len(tried) < len(results):
        reasons = [
            [name, result[0].removeprefix("not tried: ")] for name, result in results.items() if name not in tried
        ]
        lines += ["", markdown_table(["not tried", "why"], reasons)]
    return "\n".join(lines)


def page() -> str:
    import transformers

    versions = f"transformers {transformers.__version__}, torchvision {torchvision.__version__.split('+')[0]}"
    images = torchvision.models.list_models(module=torchvision.models)
    image_norms = ("BatchNorm", "InstanceNorm", "LayerNorm", "RMSNorm")
    return (
        "\n\n".join(
            [
                HEAD.format(versions=versions, tolerance=TOLERANCE).strip(),
                section("Texts", text_backbones(), text_fit, NORMS_THAT_READ_POSITIONS),
                section("Images", images, image_fit, image_norms),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    TABLE.write_text(page())
