"""Training of Emu3's image tokenizer from scratch, by the same losses as Show-o's."""

from functools import partial

from hermesflow.models import codec_training
from hermesflow.models.emu3.codec import Emu3Codec

train_codec = partial(codec_training.train_codec, Emu3Codec)
