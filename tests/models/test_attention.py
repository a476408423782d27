import torch

from tests.support.omni_attention import generation_mask, understanding_mask
from tests.support.showo_golden import reference


def test_generation_mask_is_the_official_one():
    tensors, _ = reference()
    ids = torch.cat([tensors["t2i.input_ids"], tensors["t2i.uncond_input_ids"]])
    padding = (ids == 512).sum(dim=1)
    assert torch.equal(generation_mask(padding, 33, 66), tensors["t2i.attention_allowed"])


def test_generation_mask_is_the_official_one_in_training_rows():
    tensors, _ = reference()
    padding = (tensors["dpo_bs2.input_ids_win"][:2] == 512).sum(dim=1)
    assert torch.equal(generation_mask(padding, 33, 66), tensors["dpo_bs2.attention_mask_win"][:2])


def test_understanding_mask_is_the_official_one():
    tensors, _ = reference()
    assert torch.equal(understanding_mask(67, 14), tensors["mmu.attention_allowed"])
    mask = tensors["dpo_bs2.attention_mask_win"][2:]
    assert torch.equal(understanding_mask(67, 32).expand_as(mask), mask)


def test_every_row_of_every_mask_attends_to_something():
    for mask in (generation_mask(torch.tensor([0, 3]), 5, 4), understanding_mask(4, 3)):
        assert mask.any(dim=-1).all()
