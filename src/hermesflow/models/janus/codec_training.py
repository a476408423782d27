"""Training of Janus' image tokenizer from scratch, by the same losses as Show-o's."""

from functools import partial

from hermesflow.models import codec_training
from hermesflow.models.janus.codec import JanusCodec

train_codec = partial(codec_training.train_codec, JanusCodec)
