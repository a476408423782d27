"""A tiny Llama that has learned one text in TIFA's format by heart, and a tiny T5 that answers yes to everything."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from hermesflow.data.questions.tifa import json_messages, tifa_prompt

TIFA_TEXT = """dogs
Activities:
Colors:
Counting:
Other attributes:
Questions and answers are below:
About dogs (animal):
Q: are there dogs?
Choices: yes, no
A: yes
Q: what animals are there?
Choices: dogs, cats
A: dogs
Q: how many"""
JSON_TEXT = '[{"question": "are there dogs?", "choices": ["yes", "no"], "answer": "yes", "type": "animal"}]'
CHAT = "{% for message in messages %}<s> {{ message['content'] }} {% endfor %}"
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def tokenizer_of(texts: list[str], *, first: str) -> PreTrainedTokenizerFast:
    """Words and line ends of some texts; `first` and nothing, or nothing and `</s>`, around each text."""
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="never")]
    )
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *sorted(words - set(SPECIAL))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    template = f"{first} $A" if first else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(word, vocabulary[word]) for word in SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def make_llama(folder: Path, captions: list[str], *, chat: bool, steps: int = 150) -> Path:
    """Save the Llama; with `chat` it has a template and has learned the JSON text instead."""
    torch.manual_seed(0)
    asked = [json_messages(c)[0]["content"] if chat else tifa_prompt(c) for c in captions]
    text = JSON_TEXT if chat else TIFA_TEXT
    tokenizer = tokenizer_of([*asked, f"\n {text}\n\n"], first="<s>")
    if chat:
        tokenizer.chat_template = CHAT
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ids, tie_word_embeddings=False))
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    rows = []
    for caption in captions:
        prompt = tokenizer.apply_chat_template(json_messages(caption), tokenize=False) if chat else tifa_prompt(caption)
        before = tokenizer(prompt, add_special_tokens=not chat)["input_ids"]
        after = tokenizer(f" {text}\n\n", add_special_tokens=False)["input_ids"] + [2]
        rows.append((torch.tensor([before + after]), torch.tensor([[-100] * len(before) + after])))
    for step in range(steps):
        inputs, labels = rows[step % len(rows)]
        model(input_ids=inputs, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return _save(model, tokenizer, folder)


def make_t5(folder: Path, captions: list[str], *, steps: int = 30) -> Path:
    """Save the T5."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of([*captions, TIFA_TEXT, "yes no ( ) (A) (B) ?"], first="")
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    ids = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **ids, dropout_rate=0.0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    inputs = tokenizer(f"are there dogs? \n {captions[0]} \n (A) yes (B) no", return_tensors="pt")["input_ids"]
    labels = torch.tensor([[tokenizer.convert_tokens_to_ids("yes"), 2]])
    for _ in range(steps):
        model(input_ids=inputs, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return _save(model, tokenizer, folder)


def _save(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
