"""Training of the MAGVITv2 image tokenizer from scratch."""

from functools import partial

from hermesflow.models import codec_training
from hermesflow.models.showo.codec import ShowOCodec

train_codec = partial(codec_training.train_codec, ShowOCodec)
