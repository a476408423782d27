"""A second backbone: a GRU that reads pixels and generates codes one after the other. Parts: see `models.backbone`."""

from functools import partial

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hermesflow.core.images import ImageForm
from hermesflow.models import codec_training
from hermesflow.models.backbone import UnifiedModel, refuse_masks
from hermesflow.models.draws import inverse_cdf, uniforms_per_row
from hermesflow.models.showo import codec
from hermesflow.models.text_tokenizers import text_tokenizer


class Tiny(UnifiedModel):
    family = "tests.support.tiny_backbone"
    text_rows, decoder_layers = 64, ()
    decoder, frozen = property(lambda self: self), property(lambda self: (self.tower,))
    noise = lambda self, names, settings: refuse_masks(settings)  # noqa: E731 - nothing hides what the next token is
    training_noise = lambda *_, **__: None  # noqa: E731

    def __init__(self, tokenizer, width, side, tokens, codes, caption_prompt, question_template):
        super().__init__()
        self.sizes = [width, side, tokens, codes, caption_prompt, question_template]
        self.tokenizer, self.caption_prompt, self.question_template = tokenizer, caption_prompt, question_template
        self.end_token, self.words, self.codes = tokenizer.boundary, tokenizer.size, codes
        self.seen, self.generated = (
            ImageForm("pixels", (3, side, side), "uint8"),
            ImageForm("codes", (tokens,), "uint16"),
        )
        tower = nn.AvgPool2d(side // 8), nn.BatchNorm2d(3), nn.Flatten()  # an image is 8 x 8 colours
        self.tower, self.look = nn.Sequential(*tower).requires_grad_(False), nn.Linear(192, width)
        self.embed, self.gru = nn.Embedding(self.words + codes, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, self.words + codes)
        self.eval()

    def settings(self):
        return {"sizes": self.sizes}

    def prompts(self, texts):
        return [[self.end_token, *ids, self.end_token] for ids in self.tokenizer.encode(texts)]

    def look_at(self, seen, owners):
        return self.look(self.tower(seen.to(self.device, self.look.weight.dtype) / 127.5 - 1))[owners, None]

    def hidden(self, rows, image=0.0):
        """States behind each token of rows of ids, (N, L, D), padded at the right; every token sees the image."""
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(self.device)
        return self.gru(self.embed(tokens) + image)[0]

    def completed(self, prompts, completions, first, last, image=0.0):
        """Log-probs of the tokens of each completion among the ids from `first` to `last`, by row."""
        hidden = self.hidden([[*p, *c[:-1]] for p, c in zip(prompts, completions, strict=True)], image)
        values = []
        for states, p, c in zip(hidden, prompts, completions, strict=True):
            logits = self.head(states[len(p) - 1 : len(p) + len(c) - 1])[:, first:last].float()
            values.append(-cross_entropy(logits, torch.tensor(c, device=self.device) - first, reduction="none"))
        return values

    def of_images(self, prompts, images, owners=None):
        prompts = self.prompts([prompts[i] for i in (range(len(images)) if owners is None else owners)])
        return self.completed(prompts, (images + self.words).tolist(), self.words, self.words + self.codes)

    def of_texts(self, seen, prompts, completions, owners=None):
        image = self.look_at(seen, torch.arange(len(prompts)) if owners is None else owners)
        return self.completed(self.prompts(prompts), self.completion_tokens(completions), 0, self.words, image)

    def image_logps(self, prompts, images, noise, *, owners=None):
        return torch.stack([row.sum() for row in self.of_images(prompts, images, owners)])

    def text_logps(self, seen, prompts, completions, *, owners=None):
        return torch.stack([row.sum() for row in self.of_texts(seen, prompts, completions, owners)])

    def image_loss(self, prompts, images, noise):
        return -torch.cat(self.of_images(prompts, images)).mean()

    def text_loss(self, seen, owners, prompts, completions):
        return -torch.stack([row.mean() for row in self.of_texts(seen, prompts, completions, owners)]).mean()

    @torch.inference_mode()
    def generate_images(self, prompts, *, settings, generators):
        uniforms = uniforms_per_row(generators, self.generated.shape, len(prompts))
        sides = [Session(self, self.prompts(side)) for side in (prompts, [""] * len(prompts))]
        images = torch.zeros(len(prompts), *self.generated.shape, dtype=torch.int64)
        for step in range(images.shape[1]):
            conditional, unconditional = (self.head(side.state)[:, self.words :] for side in sides)
            logits = ((1 + settings.guidance) * conditional - settings.guidance * unconditional).float().cpu()
            images[:, step] = inverse_cdf((logits / max(settings.temperature, 1e-3)).softmax(dim=1), uniforms[:, step])
            [side.step(images[:, step] + self.words) for side in sides]
        return images

    def text_session(self, seen, owners, prompts):
        return Session(self, self.prompts(prompts), self.look_at(seen, owners))


class Session:
    @torch.inference_mode()
    def __init__(self, model, rows, image=None):
        self.model, self.image = model, model.head.bias.new_zeros(len(rows), 1, 1) if image is None else image
        self.state = model.hidden(rows, self.image)[torch.arange(len(rows)), [len(row) - 1 for row in rows]]

    @property
    def logits(self):
        return self.model.head(self.state)[:, : self.model.words]

    @torch.inference_mode()
    def step(self, tokens):
        x = self.model.embed(tokens.to(self.model.device))[:, None] + self.image
        self.state = self.model.gru(x, self.state[None].contiguous())[0][:, 0]
        return self.logits

    def keep(self, rows):
        self.state, self.image = self.state[rows], self.image[rows]


class TinyCodec(codec.ShowOCodec):
    family = Tiny.family

    def __init__(self, network, image_size):
        super().__init__(network, image_size)
        self.seen = ImageForm("pixels", (3, image_size, image_size), "uint8")

    def see(self, images):
        return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous()

    def see_generated(self, images):
        return self.see(self.to_pixels(images))


def build(config):
    own, side, network = config.language_model, config.data.image_size, codec.meta_codec(config)
    sizes = own.hidden_size, side, network.generated.shape[0], 2**config.image_tokenizer.codebook_bits
    return Tiny(text_tokenizer(own.text_tokenizer), *sizes, own.caption_prompt, own.question_template)


def rebuild(settings, tokenizer):
    return Tiny(tokenizer, *settings["sizes"])


train_codec, load_codec = partial(codec_training.train_codec, TinyCodec), TinyCodec.load
