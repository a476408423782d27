"""The logged model of a checkpoint: it loads from its run, describes images and generates them."""

import io
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hermesflow.config.reads import params_of
from hermesflow.core.errors import ArtifactError, DataError
from hermesflow.core.files import write_json, write_manifest, write_table
from hermesflow.core.images import write_images
from hermesflow.data.pictures.world import WORLD
from hermesflow.models.backbone import new_model
from hermesflow.models.codecs import image_form
from hermesflow.models.showo.codec import ShowOCodec
from hermesflow.models.showo.magvit import MagVitV2
from hermesflow.tracking import runs
from hermesflow.tracking.store import Store
from tests.support.tracking_world import make_results, runs_of, smoke

CONFIG = smoke()
SIDE = CONFIG.data.image_size


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Results with the weights of one checkpoint, its samples and the tokenizer."""
    layout = make_results(tmp_path_factory.mktemp("world") / "results", CONFIG)
    new_model(CONFIG, seed=0).save(layout.checkpoint(0, "pair-1") / "model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ShowOCodec(MagVitV2(CONFIG.image_tokenizer), SIDE).save(layout.tokenizer)
    ids = [f"prompt-{i}" for i in range(20)]
    write_table(layout.data("prompts"), pd.DataFrame({"id": ids, "caption": [f"a {i}" for i in ids]}))
    codes = np.random.default_rng(0).integers(0, CONFIG.codebook_size, (20, 1, CONFIG.num_image_tokens))
    form = image_form(SIDE, CONFIG.image_tokenizer)
    write_images(layout.checkpoint(0, "pair-1") / "evaluation" / "samples.npy", ids, codes, form)
    return layout


@pytest.fixture(scope="module")
def run(layout):
    runs.log_results(layout, seed=0, checkpoint="pair-1")
    store = Store(layout.root.parent)
    mlflow.set_tracking_uri(store.uri)
    yield runs_of(store.client)["pair-1, seed 0"]
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def model(run):
    return mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")


def png(width, height):
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def test_it_generates_an_image_for_each_prompt(model):
    prompts = pd.DataFrame({"prompt": ["a red circle", "a blue square"]}, index=[5, 6])
    images = model.predict(prompts, params={"seed": 1})["image"]
    assert list(images.index) == [5, 6]
    for image in images:
        opened = Image.open(io.BytesIO(image))
        assert (opened.format, opened.size, opened.mode) == ("PNG", (SIDE, SIDE), "RGB")
    assert list(model.predict(prompts, params={"seed": 1})["image"]) == list(images)
    assert list(model.predict(prompts)["image"]) != list(images)


def test_it_describes_images_of_any_size(model):
    captions = model.predict(pd.DataFrame({"image": [png(SIDE, SIDE), png(70, 90)]}))["caption"]
    assert len(captions) == 2 and all(isinstance(caption, str) and caption for caption in captions)
    again = model.predict(pd.DataFrame({"image": [png(SIDE, SIDE)]}))["caption"]
    assert again[0] == captions[0]


def test_what_is_no_image_is_refused(model):
    with pytest.raises(DataError, match="cannot be decoded"):
        model.predict(pd.DataFrame({"image": [b"no image"]}))


def test_it_is_linked_to_its_run_with_params_and_figures(run):
    client = mlflow.MlflowClient()
    (output,) = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.name, str(logged.status), logged.source_run_id) == ("model", "READY", run.info.run_id)
    assert logged.params["training.beta"] == "0.2"
    assert {metric.key: metric.value for metric in logged.metrics} == {"gap/paper/gap": 0.25, "fid": 2.0}
    assert mlflow.pyfunc.load_model(f"models:/{output.model_id}").metadata.signature.params.to_dict()


def test_it_refers_to_the_weights_and_has_no_copy(run, layout):
    folder = layout.root.parent / "mlartifacts"
    files = [path for path in folder.rglob("*") if path.is_file() and "models" in path.parts]
    assert {"MLmodel", "checkpoint.json"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) < 10_000


def test_samples_are_a_picture_and_a_table(run):
    client = mlflow.MlflowClient()
    picture = Image.open(client.download_artifacts(run.info.run_id, "samples.png"))
    assert picture.size == (8 * SIDE, SIDE)
    table = pd.read_json(Path(client.download_artifacts(run.info.run_id, "samples.json")), orient="split")
    assert list(table.columns) == ["id", "prompt"] and len(table) == 8
    assert list(table["prompt"]) == ["a " + name for name in table["id"]]


def test_the_licence_line_of_the_pictures_is_a_tag_of_their_run(run, layout):
    assert "hermesflow.credit" not in run.data.tags  # of the micro world nobody is to be named
    folder = layout.checkpoint(0, "pair-2")
    shutil.copytree(layout.checkpoint(0, "pair-1") / "evaluation", folder / "evaluation", dirs_exist_ok=True)
    settings = {**params_of(CONFIG, "evaluate", "pair-2"), "data.source": "pictures"}
    write_manifest(folder / "evaluation", config=settings, inputs=[layout.data("pairs")], seed=0)
    runs.log_results(layout, seed=0, checkpoint="pair-2")
    logged = runs_of(Store(layout.root.parent).client)["pair-2, seed 0"]
    assert logged.data.tags["hermesflow.credit"] == WORLD.credit


def test_weights_that_are_gone_or_trained_again_are_an_error(run, layout):
    folder = layout.checkpoint(0, "pair-1") / "model"
    kept, manifest = shutil.copytree(folder, folder.with_name("kept")), (folder / "manifest.json").read_bytes()
    try:
        write_json(folder / "manifest.json", {"config": {}, "inputs": {}, "seed": 0})
        with pytest.raises(ArtifactError, match="trained again"):
            mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
        shutil.rmtree(folder)
        with pytest.raises(ArtifactError, match="is missing"):
            mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        kept.rename(folder)
    assert (folder / "manifest.json").read_bytes() == manifest
