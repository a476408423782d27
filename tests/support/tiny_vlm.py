"""A tiny LLaVA, saved to a folder: untrained, or one that answers by the colour of its image."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from hermesflow.evaluation.judges.instructions import prompt_of
from hermesflow.evaluation.judges.protocol import Item
from tests.support.tiny_text_models import tokenizer_of

SIDE = 28
PATCH = 14
CHAT = (
    "{% for message in messages %}<s> {% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}ANSWER: "
)


def make_llava(folder: Path, lessons: dict[Item, str], *, chat: bool = True, steps: int = 0) -> Path:
    """Save model and processor of the words in some lessons (item -> what to write), after so many training steps."""
    torch.manual_seed(0)
    processor = _processor([f"{_told(item)} {text}" for item, text in lessons.items()], chat=chat)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=PATCH, projection_dim=32)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    words = processor.tokenizer
    text = LlamaConfig(**sizes, **ids, vocab_size=len(words), max_position_embeddings=1024)
    place = words.convert_tokens_to_ids("<image>")
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=place))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rows = [_row(processor, item, written) for item, written in lessons.items()] if steps else []
    for step in range(steps):
        model(**rows[step % len(rows)]).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _told(item: Item) -> str:
    prompt = prompt_of(item)
    return f"{prompt.system}\n\n{prompt.user}"


def _processor(texts: list[str], *, chat: bool) -> LlavaProcessor:
    tokenizer = tokenizer_of([*texts, "ANSWER:"], first="")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_convert_rgb=True
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT if chat else None,
    )


def _row(processor: LlavaProcessor, item: Item, written: str) -> dict[str, torch.Tensor]:
    shown = isinstance(item.evidence, bytes)
    head = "<s> " + ("<image> " if shown else "") + f"{_told(item)} ANSWER: "
    image = {"images": Image.open(io.BytesIO(item.evidence))} if shown else {}
    row = processor(text=f"{head}{written} </s>", **image, add_special_tokens=False, return_tensors="pt")
    answer = len(processor.tokenizer(f"{written} </s>", add_special_tokens=False)["input_ids"])
    labels = row["input_ids"].clone()
    labels[:, :-answer] = -100
    return {**row, "labels": labels}
