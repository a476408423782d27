"""Tiny models with random weights of the classes the benchmarks judge with, saved as released models are."""

import json
from pathlib import Path

import torch

from hermesflow.evaluation.benchmarks.geneval import OBJECTS

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[DEC]",
    "is",
    "the",
    "a",
    "there",
    "cat",
    "red",
    "?",
    "yes",
    "no",
]
ITS_OWN_NAMES = {"motorcycle": "motorbike", "tv": "tvmonitor", "tv remote": "remote", "computer mouse": "mouse"}
"""Some of the names that the released detector's labels have for GenEval's objects."""


def save_detector(folder: Path, labels=None) -> Path:
    """Mask2Former over 80 objects that takes everything for cats."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig
    from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

    names = labels or [ITS_OWN_NAMES.get(name, name) for name in OBJECTS]
    stages = [f"stage{i}" for i in range(1, 5)]
    sizes = {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2], "window_size": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mask2FormerForUniversalSegmentation(
            Mask2FormerConfig(
                backbone_config=SwinConfig(image_size=64, out_features=stages, **sizes),
                **dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32),
                **dict.fromkeys(("encoder_feedforward_dim", "dim_feedforward"), 32),
                **{"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "num_queries": 6},
                id2label=dict(enumerate(names)),
                label2id={name: i for i, name in enumerate(names)},
            )
        )
    model.class_predictor.bias.data[OBJECTS.index("cat")] += 10  # what it sees is a cat
    model.save_pretrained(folder)
    Mask2FormerImageProcessorPil(size={"height": 384, "width": 384}).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """CLIP over single letters, with a context of 77 tokens."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(
            CLIPConfig(
                text_config={**shared, **ends, "vocab_size": len(words), "max_position_embeddings": 77},
                vision_config={**shared, "image_size": 32, "patch_size": 8},
                projection_dim=8,
                initializer_factor=20.0,
            )
        )
    model.save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**size).save_pretrained(folder)
    return folder


def save_blip(folder: Path) -> Path:
    """BLIP that writes its answers."""
    from transformers import BlipConfig, BlipForQuestionAnswering, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 32, "is_decoder": True}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BlipForQuestionAnswering(
            BlipConfig(
                text_config={**shared, **text, **ends, "initializer_range": 1.0},
                vision_config={**shared, "image_size": 32, "patch_size": 16, "initializer_range": 0.5},
            )
        )
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), _tokenizer()).save_pretrained(folder)
    return folder


def save_vilt(folder: Path) -> Path:
    """ViLT that chooses among three answers."""
    from transformers import ViltConfig, ViltForQuestionAnswering, ViltProcessor
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = {"vocab_size": len(WORDS), "image_size": 32, "patch_size": 16, "max_position_embeddings": 40}
    answers = {0: "yes", 1: "no", 2: "cat"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViltForQuestionAnswering(
            ViltConfig(**shared, **size, id2label=answers, label2id={v: k for k, v in answers.items()})
        )
    model.save_pretrained(folder)
    ViltProcessor(ViltImageProcessorPil(size={"shortest_edge": 32}), _tokenizer(40)).save_pretrained(folder)
    return folder


QWEN_MARKS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_qwen3_vl(folder: Path, *, chat: bool = True) -> Path:
    """Qwen3-VL over bytes and the words yes and two, its files laid out as on the hub."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    words = _qwen_tokenizer(chat=chat)
    places = {mark: words.convert_tokens_to_ids(mark) for mark in QWEN_MARKS}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    shared = {"hidden_size": 32, "intermediate_size": 32}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    eyes = {
        "depth": 2,
        "num_heads": 2,
        "patch_size": 16,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(
                text_config={**shared, **heads, "vocab_size": len(words), "rope_parameters": rope},
                vision_config={**shared, **eyes, "out_hidden_size": 32, "initializer_range": 0.2},
                image_token_id=places["<|image_pad|>"],
                video_token_id=places["<|video_pad|>"],
                vision_start_token_id=places["<|vision_start|>"],
                vision_end_token_id=places["<|vision_end|>"],
            )
        )
        model.lm_head.weight.data.normal_()  # probabilities that differ
    model.generation_config.repetition_penalty = 5.0  # as nobody would: it must not count
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    images = Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}).to_dict()
    videos = {"video_processor_type": "Qwen3VLVideoProcessor", "processor_class": "Qwen3VLProcessor"}
    images |= {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(videos))
    return folder


def _qwen_tokenizer(*, chat):
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    words = ("Yes", "yes", "two", "Two")
    merges = [(word[:end], word[end]) for word in words for end in range(1, len(word))] + [("Ġ", w) for w in words]
    pieces = dict.fromkeys([*sorted(ByteLevel.alphabet()), *("".join(merge) for merge in merges)])
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=QWEN_MARKS[1:])
    tokenizer.chat_template = QWEN_CHAT if chat else None
    return tokenizer


def _tokenizer(longest=None):
    from transformers import BertTokenizer

    limit = {} if longest is None else {"model_max_length": longest}
    return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, **limit)
