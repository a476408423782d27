"""The Inception of the Frechet distance: torch-fidelity's features, pytorch-fid's file, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from hermesflow.config.sections import Source
from hermesflow.core.errors import ArtifactError, ConfigError, FetchError
from hermesflow.core.files import sha256
from hermesflow.evaluation.graders.fidelity import features
from hermesflow.evaluation.graders.inception import Inception, _Mixed, _Step, load_inception


def known_weights():
    """pytorch-fid's names with weights that can be made anywhere; no counters of batches, and a classifier."""
    generator, tensors = np.random.default_rng(0), {}
    for name, value in Inception().state_dict().items():
        if name.endswith("conv.weight"):
            drawn = generator.standard_normal(value.shape, dtype=np.float32)
            tensors[name] = torch.from_numpy(drawn * np.float32((2 / value[0].numel()) ** 0.5))
        elif not name.endswith("num_batches_tracked"):
            tensors[name] = value
    return tensors | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inception")
    torch.save(known_weights(), folder / "inception.pth")
    return folder


def source(path):
    return Source(folder=str(path.parent), files={path.name: sha256(path)})


def test_features_are_those_of_torch_fidelity(weights):
    model = load_inception(source(weights / "inception.pth"))
    image = np.random.default_rng(1).integers(0, 256, (3, 299, 299), dtype=np.uint8)
    found = features(model, [image.transpose(1, 2, 0)])
    assert found.shape == (1, 2048)
    # what torch-fidelity 0.4.0 gives with this file for this image: means of the last block's four paths, last feature
    paths = np.split(found[0], [320, 1088, 1856])
    np.testing.assert_allclose([path.mean() for path in paths], [0.77784, 0.66799, 0.60877, 0.98583], rtol=1e-3)
    assert found[0, -1] == pytest.approx(0.4312, rel=1e-2)


def test_weights_in_the_form_of_before_torch_1_6_are_read(tmp_path):
    """As pytorch-fid's file has it: no zip archive, and an ordered dictionary with facts about modules."""
    model = Inception()
    torch.nn.init.constant_(model.Mixed_7c.branch_pool.bn.bias, 0.25)
    torch.save(model.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert (tmp_path / "a.pth").read_bytes()[:2] != b"PK"
    read = load_inception(source(tmp_path / "a.pth"))
    assert read.Mixed_7c.branch_pool.bn.bias[0] == 0.25
    assert torch.equal(read.Mixed_5b.branch1x1.conv.weight, model.Mixed_5b.branch1x1.conv.weight)


def test_the_network_has_the_parameters_of_inception_v3():
    # torchvision's inception_v3 has 23,834,568 without the auxiliary head, 2,049,000 of them in its classifier
    assert sum(value.numel() for value in Inception().parameters()) == 23_834_568 - 2_049_000


def test_padding_is_no_part_of_the_mean():
    block = _Mixed(1, [[_Step("same", 1)]], pool="mean", pooled=1).eval()
    for name in ("same", "branch_pool"):
        convolution = block.get_submodule(name)
        torch.nn.init.ones_(convolution.conv.weight)
    whole = block(torch.ones(1, 1, 3, 3))
    # the mean of ones is one at the corners too; the normalisation divides by sqrt(1 + 0.001)
    torch.testing.assert_close(whole, torch.full((1, 2, 3, 3), 1 / 1.001**0.5))


def test_weights_need_a_checksum_and_the_right_one(weights):
    pinned = source(weights / "inception.pth")
    with pytest.raises(ConfigError, match="sha256"):
        load_inception(dataclasses.replace(pinned, files={"inception.pth": None}))
    with pytest.raises(FetchError, match="pins"):
        load_inception(dataclasses.replace(pinned, files={"inception.pth": "0" * 64}))


class Harmful:
    def __reduce__(self):
        return print, ("unpickled",)


def test_a_pickle_is_not_run(tmp_path, capsys):
    torch.save({"conv": Harmful()}, tmp_path / "inception.pth")
    with pytest.raises(ArtifactError, match=r"inception\.pth: refused: the pickle"):
        load_inception(source(tmp_path / "inception.pth"))
    assert "unpickled" not in capsys.readouterr().out


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(ArtifactError, match="pytorch-fid"):
        load_inception(source(tmp_path / "a.pth"))
