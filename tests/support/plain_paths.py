"""What each family computes, as plainly as it can be written: one row at a time, nothing cached, shared or packed."""

import torch
from torch.nn.functional import log_softmax
from transformers import Emu3Config, Emu3ForConditionalGeneration, JanusConfig, JanusForConditionalGeneration

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


class JanusPlain:
    """By transformers' own JanusForConditionalGeneration with the same weights, whole rows, nothing cached."""

    @staticmethod
    def whole(model):
        config = JanusConfig.from_dict(model.config.to_dict())
        with torch.random.fork_rng(devices=[]):
            whole = JanusForConditionalGeneration(config).eval()
        whole.model.load_state_dict(model.model.state_dict())
        # the same parameters, so that gradients reach the model
        for name, parameter in model.model.named_parameters():
            owner, _, last = name.rpartition(".")
            setattr(whole.model.get_submodule(owner), last, parameter)
        whole.lm_head.weight = model.lm_head.weight
        return whole

    @staticmethod
    def states(whole, states):
        return whole.model.language_model(inputs_embeds=states[None], use_cache=False).last_hidden_state[0]

    @classmethod
    def image_logps(cls, model, prompts, images, noise):
        whole, values = cls.whole(model), []
        for prompt, image in zip(prompts, images, strict=True):
            logits = cls.code_logits(model, whole, model.tokenize([prompt])[0], image[:-1])
            values.append(log_softmax(logits, dim=1)[torch.arange(len(image)), image].sum())
        return torch.stack(values)

    @classmethod
    def code_logits(cls, model, whole, text, codes):
        """Of the codes and the one behind them, (n + 1, C)."""
        start = torch.tensor([model.ids.bos, *text, model.ids.boi])
        words, drawn = whole.get_input_embeddings()(start), whole.prepare_embeddings_for_image_generation(codes)
        return whole.model.generation_head(cls.states(whole, torch.cat([words, drawn]))[len(start) - 1 :])

    @classmethod
    def text_logps(cls, model, seen, prompts, completions):
        whole, values, ids = cls.whole(model), [], model.ids
        for pixels, prompt, completion in zip(seen, prompts, completions, strict=True):
            [asked], [said] = model.tokenize([prompt]), model.tokenize([completion])
            image = [ids.image] * model.num_image_tokens
            row = torch.tensor([[ids.bos, ids.boi, *image, ids.eoi, *asked, *said, ids.eos]])
            logits = whole(input_ids=row, pixel_values=pixels[None].float() / 127.5 - 1).logits[0, :-1]
            logps = log_softmax(logits, dim=1)[torch.arange(row.shape[1] - 1), row[0, 1:]]
            values.append(logps[-len(said) - 1 :].sum())
        return torch.stack(values)

    @classmethod
    @torch.inference_mode()
    def generate(cls, model, prompt, settings, generator):
        whole, codes = cls.whole(model), torch.zeros(0, dtype=torch.int64)
        [text] = model.tokenize([prompt])
        for uniform in torch.rand(model.num_image_tokens, generator=generator):
            given, empty = (
                cls.code_logits(model, whole, words, codes)[-1] for words in (text, [model.ids.pad] * len(text))
            )
            logits = (1 + settings.guidance) * given - settings.guidance * empty
            code = inverse_cdf((logits / settings.temperature).softmax(dim=0), uniform)
            codes = torch.cat([codes, code[None]])
        return codes


class Emu3Plain:
    """By transformers' own Emu3ForConditionalGeneration with the same weights, whole rows, nothing cached."""

    @staticmethod
    def whole(model):
        config = Emu3Config.from_dict(model.config.to_dict())
        with torch.random.fork_rng(devices=[]):
            whole = Emu3ForConditionalGeneration(config).eval()
        # the same parameters, so that gradients reach the model
        for name, parameter in model.named_parameters():
            owner, _, last = name.rpartition(".")
            setattr(whole.get_submodule(owner), last, parameter)
        return whole

    @staticmethod
    def image(model, codes):
        """`boi "H*W" <img>` and rows of codes, each with its end, (tokens, columns that are codes)."""
        rows, columns = model.grid
        tokens, places = [model.ids.boi, *model.tokenize([f"{rows}*{columns}"])[0], model.ids.img], []
        for place, code in enumerate(codes):
            places.append(len(tokens))
            tokens.append(model.ids.first_code + int(code))
            if (place + 1) % columns == 0:
                tokens.append(model.ids.eol)
        return tokens, places

    @classmethod
    def image_logps(cls, model, prompts, images, noise):
        whole, values = cls.whole(model), []
        for prompt, image in zip(prompts, images, strict=True):
            start = [model.ids.bos, *model.tokenize([prompt])[0]]
            tokens, places = cls.image(model, image)
            row = torch.tensor([start + tokens])
            at = torch.tensor(places) + len(start)
            logps = log_softmax(whole(input_ids=row, use_cache=False).logits[0], dim=1)
            values.append(logps[at - 1, row[0, at]].sum())
        return torch.stack(values)

    @classmethod
    def text_logps(cls, model, seen, prompts, completions):
        whole, values, ids = cls.whole(model), [], model.ids
        for codes, prompt, completion in zip(seen, prompts, completions, strict=True):
            [asked], [said] = model.tokenize([prompt]), model.tokenize([completion])
            image, _ = cls.image(model, codes)
            row = torch.tensor([[ids.bos, *image, ids.eof, ids.eoi, *asked, *said, ids.eos]])
            logps = log_softmax(whole(input_ids=row, use_cache=False).logits[0, :-1], dim=1)
            values.append(logps[torch.arange(row.shape[1] - 1), row[0, 1:]][-len(said) - 1 :].sum())
        return torch.stack(values)

    @classmethod
    @torch.inference_mode()
    def generate(cls, model, prompt, settings, generator):
        whole, image, first = cls.whole(model), [], model.ids.first_code
        starts = [[model.ids.bos, *model.tokenize([text])[0]] for text in (prompt, "")]
        for uniform in torch.rand(model.num_image_tokens, generator=generator):
            tokens, _ = cls.image(model, image)
            given, empty = (
                whole(input_ids=torch.tensor([start + tokens]), use_cache=False).logits[0, -1].log_softmax(dim=0)
                for start in starts
            )
            logits = (empty + (1 + settings.guidance) * (given - empty))[first : first + model.ids.codes]
            image.append(int(inverse_cdf((logits / settings.temperature).softmax(dim=0), uniform)))
        return torch.tensor(image)


PLAIN = {"showo": ShowOPlain, "janus": JanusPlain, "emu3": Emu3Plain, Tiny.family: TinyPlain}
