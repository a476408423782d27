"""What each family computes, as plainly as it can be written: one row at a time, nothing cached, shared or packed."""

import torch
from torch.nn.functional import log_softmax

from bench import plain
from hermesflow.models.draws import inverse_cdf
from tests.support.tiny_backbone import Tiny


class ShowOPlain:
    @staticmethod
    def image_logps(model, prompts, images, noise):
        return plain.image_logps(model, prompts, images, noise)

    @staticmethod
    def text_logps(model, seen, prompts, completions):
        return plain.text_logps(model, seen, prompts, completions)

    @staticmethod
    def generate(model, prompt, settings, generator):
        return plain.draw_images(model, [prompt], settings=settings, generators=[generator])[0]


class TinyPlain:
    @staticmethod
    def states(model, ids, image=0.0):
        """State behind each token, (L, D), by the equations of a GRU, one token after the other."""
        state, states = torch.zeros(model.gru.hidden_size), []
        gru = model.gru
        for x in model.embed(torch.tensor(ids)) + image:
            of_x = gru.weight_ih_l0 @ x + gru.bias_ih_l0
            of_state = gru.weight_hh_l0 @ state + gru.bias_hh_l0
            (reset_x, update_x, new_x), (reset_h, update_h, new_h) = of_x.chunk(3), of_state.chunk(3)
            update = torch.sigmoid(update_x + update_h)
            state = (1 - update) * torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h) + update * state
            states.append(state)
        return torch.stack(states)

    @classmethod
    def image_logps(cls, model, prompts, images, noise):
        values = []
        for prompt, image in zip(prompts, images.tolist(), strict=True):
            [start] = model.prompts([prompt])
            states = cls.states(model, [*start, *(code + model.words for code in image[:-1])])[len(start) - 1 :]
            logps = log_softmax(model.head(states)[:, model.words :], dim=1)
            values.append(logps[torch.arange(len(image)), image].sum())
        return torch.stack(values)

    @classmethod
    def text_logps(cls, model, seen, prompts, completions):
        values = []
        for pixels, prompt, completion in zip(seen, prompts, completions, strict=True):
            [start], [[_, *end]] = model.prompts([prompt]), model.prompts([completion])
            image = model.look_at(pixels[None], torch.tensor([0]))[0]
            states = cls.states(model, [*start, *end[:-1]], image)[len(start) - 1 :]
            logps = log_softmax(model.head(states)[:, : model.words], dim=1)
            values.append(logps[torch.arange(len(end)), end].sum())
        return torch.stack(values)

    @classmethod
    @torch.inference_mode()
    def generate(cls, model, prompt, settings, generator):
        uniforms = torch.rand(model.generated.shape, generator=generator)
        starts, image = [model.prompts([text])[0] for text in (prompt, "")], []
        for uniform in uniforms:
            codes = [code + model.words for code in image]
            given, empty = (model.head(cls.states(model, [*p, *codes])[-1])[model.words :] for p in starts)
            logits = (1 + settings.guidance) * given - settings.guidance * empty
            image.append(int(inverse_cdf((logits / settings.temperature).softmax(dim=0), uniform)))
        return torch.tensor(image)


PLAIN = {"showo": ShowOPlain, Tiny.family: TinyPlain}
