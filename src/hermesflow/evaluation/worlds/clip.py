"""The fixed image-text extractor behind the Frechet distance and the image-text score: a tiny CLIP of the world.

It is trained once on real pairs, shared by all checkpoints and seeds, and never sees a drawn image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hermesflow.core.errors import naming
from hermesflow.core.files import read_json, read_weights, write_json, write_weights
from hermesflow.core.finite import check_finite, check_weights, clip_gradients
from hermesflow.core.seeding import generator, seed_of

WEIGHTS = "model.safetensors"
SETTINGS = "config.json"
WIDTH = 64
LAYERS = 2
HEADS = 4
PROJECTION = 32
PATCHES_PER_SIDE = (6, 8)
"""The first that divides the image."""
BATCH = 64
LEARNING_RATE = 2e-3
_ROWS = 256  # images or texts per forward pass
_PAD, _UNKNOWN, _END = 0, 1, 2


class Clip(nn.Module):
    """transformers' CLIPModel with a word-level vocabulary.

    Args:
        words: vocabulary; words outside it share one embedding.
        image_size: pixels per side, a multiple of 6 or 8.
        max_words: longest text; more words are cut.
    """

    def __init__(self, words: Sequence[str], *, image_size: int, max_words: int) -> None:
        super().__init__()
        from transformers import CLIPConfig, CLIPModel

        self.words, self.image_size, self.max_words = list(words), image_size, max_words
        self.ids = {word: i for i, word in enumerate(self.words, start=3)}
        shared = {
            "hidden_size": WIDTH,
            "intermediate_size": 4 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
        }
        text = {"vocab_size": len(self.words) + 3, "max_position_embeddings": max_words + 1}
        special = {"pad_token_id": _PAD, "bos_token_id": _UNKNOWN, "eos_token_id": _END}
        patches = next(patches for patches in PATCHES_PER_SIDE if image_size % patches == 0)
        vision = {"image_size": image_size, "patch_size": image_size // patches}
        self.clip = CLIPModel(
            CLIPConfig(
                text_config={**shared, **text, **special}, vision_config={**shared, **vision}, projection_dim=PROJECTION
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features for the Frechet distance, (N, 64) float, of (N, 3, H, W) uint8 images."""
        return self.clip.vision_model(pixel_values=_pixels(images)).pooler_output

    def image_vectors(self, images: Tensor) -> Tensor:
        """Unit vectors (N, 32) of (N, 3, H, W) uint8 images."""
        return F.normalize(self.clip.visual_projection(self(images)), dim=-1)

    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, 32) of texts."""
        ids, mask = self.tokens(texts)
        hidden = self.clip.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return F.normalize(self.clip.text_projection(hidden), dim=-1)

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Padded ids and attention mask, both (N, L) int64; every text closes with the end token."""
        rows = [[self.ids.get(w, _UNKNOWN) for w in t.lower().split()[: self.max_words]] + [_END] for t in texts]
        length = max(map(len, rows))
        ids = torch.tensor([row + [_PAD] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        device = self.clip.logit_scale.device
        return ids.to(device), mask.to(device)


def contrastive_loss(image_vectors: Tensor, text_vectors: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy of matching N images with their N different texts, in nats.

    Args:
        image_vectors: (N, D) unit vectors.
        text_vectors: (N, D) unit vectors.
        scale: factor of the cosines.

    Source: Radford et al. 2021, Figure 3.
    """
    logits = scale * image_vectors @ text_vectors.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_clip(
    images: np.ndarray,
    captions: Sequence[str],
    *,
    steps: int,
    seed: int,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[Clip, list[float]]:
    """Train the extractor from scratch; texts of one batch are all different, so every negative is one.

    Args:
        images: (N, H, W, 3) uint8.
        captions: N captions.
        steps: optimiser steps of up to 64 pairs.
        seed: of initial weights and batches.
        device: torch device.
        progress: called with 1 after each step.

    Returns:
        The model in eval mode, and the loss of each step.
    """
    words = sorted({word for caption in captions for word in caption.lower().split()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "clip", "init"))
        longest = max(len(caption.split()) for caption in captions)
        model = Clip(words, image_size=images.shape[1], max_words=longest).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=max(steps, 2))
    draws = generator(seed, "clip", "batches")
    losses = []
    for step in range(1, steps + 1):
        indices = torch.randint(len(captions), (BATCH,), generator=draws).tolist()
        rows = list({captions[i]: i for i in indices}.values())
        pixels = to_tensor(images[rows]).to(device)
        loss = contrastive_loss(
            model.image_vectors(pixels), model.text_vectors([captions[i] for i in rows]), model.clip.logit_scale.exp()
        )
        optimiser.zero_grad()
        loss.backward()
        with naming(
            f"image-text extractor, step {step}",
            "Run the same command again; if it stops there again, lower evaluation.clip_steps below that step.",
        ):
            clip_gradients(model, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        progress(1)
    return model.eval(), losses


@torch.inference_mode()
def features(model: Clip, images: np.ndarray) -> np.ndarray:
    """Features for the Frechet distance, (N, 64) float32, of (N, H, W, 3) uint8 images."""
    return _in_parts(lambda rows: model(to_tensor(images[rows]).to(model.clip.logit_scale.device)), len(images), WIDTH)


def image_text_scores(model: Clip, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """100 * max(cosine, 0) of each image with its caption, (N,) float64.

    Source: Hessel et al. 2021 (CLIPScore), with the scale of 100 that torchmetrics and the paper use.
    """
    texts = sorted(set(captions))
    vectors, of_texts = _vectors(model, images, texts)
    place = {text: i for i, text in enumerate(texts)}
    cosines = (vectors.astype(np.float64) * of_texts[[place[c] for c in captions]]).sum(axis=1)
    return 100 * cosines.clip(min=0)


def retrieval_accuracy(model: Clip, images: np.ndarray, captions: Sequence[str]) -> float:
    """Share of images whose own caption is the nearest of all different captions."""
    texts = sorted(set(captions))
    vectors, of_texts = _vectors(model, images, texts)
    nearest = (vectors @ of_texts.T).argmax(axis=1)
    return float(np.mean([texts[i] == caption for i, caption in zip(nearest, captions, strict=True)]))


def save_clip(model: Clip, folder: Path) -> None:
    """Write weights and what is needed to rebuild the model."""
    write_weights(folder / WEIGHTS, model.clip.state_dict())
    settings = {"words": model.words, "image_size": model.image_size, "max_words": model.max_words}
    write_json(folder / SETTINGS, settings)


def load_clip(folder: Path, *, device: str = "cpu") -> Clip:
    """Read a model written by `save_clip`, in eval mode.

    Raises:
        ArtifactError: a file is missing, truncated, a pickle or holds values that are not finite.
    """
    settings: dict[str, Any] = read_json(folder / SETTINGS)
    model = Clip(settings["words"], image_size=settings["image_size"], max_words=settings["max_words"])
    weights = read_weights(folder / WEIGHTS)
    check_weights(weights.items(), str(folder / WEIGHTS), "Delete the folder and run snakemake again.")
    model.clip.load_state_dict(weights)
    return model.to(device).eval()


def to_tensor(images: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 array to (N, 3, H, W) uint8 tensor."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


@torch.inference_mode()
def _vectors(model: Clip, images: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    device = model.clip.logit_scale.device
    of_images = _in_parts(lambda rows: model.image_vectors(to_tensor(images[rows]).to(device)), len(images), PROJECTION)
    return of_images, _in_parts(lambda rows: model.text_vectors(texts[rows]), len(texts), PROJECTION)


def _pixels(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _in_parts(vectors_of: Callable[[slice], Tensor], count: int, width: int) -> np.ndarray:
    parts = [vectors_of(slice(i, i + _ROWS)).cpu().numpy() for i in range(0, count, _ROWS)]
    vectors = np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.float32)
    with naming("image-text extractor", "Delete the folder clip/ and run snakemake again."):
        check_finite(torch.from_numpy(vectors), "vector {}".format)
    return vectors
