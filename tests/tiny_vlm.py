"""A tiny LLaVA, saved to a folder: untrained, or one that answers by the colour of its image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_text_models import tokenizer_of
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from hermesflow.judging.protocol import Item

SIDE = 28
PATCH = 14
CHAT = (
    "{% for message in messages %}<s> {% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}ANSWER: "
)


def picture(color: tuple[int, int, int], *, side: int = SIDE) -> bytes:
    """PNG of one colour."""
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), color, dtype=np.uint8)).save(file, format="PNG")
    return file.getvalue()


def make_llava(folder: Path, texts: list[str], *, chat: bool = True) -> tuple[LlavaForConditionalGeneration, object]:
    """Build the model with the words of some texts, save model and processor; both, to be trained and saved again."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of([*texts, "ANSWER:"], first="")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_convert_rgb=True
    )
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT if chat else None,
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=PATCH, projection_dim=32)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = LlamaConfig(**sizes, **ids, vocab_size=len(tokenizer), max_position_embeddings=1024)
    place = tokenizer.convert_tokens_to_ids("<image>")
    model = LlavaForConditionalGeneration(LlavaConfig(vision, text, image_token_index=place, image_token_id=place))
    save(folder, model, processor)
    return model, processor


def save(folder: Path, model: LlavaForConditionalGeneration, processor: object) -> None:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
