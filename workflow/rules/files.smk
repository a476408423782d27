# The files of artifacts that several rules name.
def model(folder):
    """Files of one language model."""
    return multiext(f"{folder}/model/", "model.safetensors", "config.json", "tokenizer.json")


def shards_of(pattern):
    """One file of every shard of a checkpoint; seed and checkpoint stay wildcards."""
    return [pattern.replace("{shard}", str(k)).replace("{shards}", str(SHARDS)) for k in range(SHARDS)]


def tokens(path):
    """Files of one store of image tokens."""
    return multiext(f"{path}.", "npy", "json")


def parent(wildcards):
    """Folder of the checkpoint this one grows from."""
    return f"{ROOT}/seed{wildcards.seed}/{CONFIG.checkpoints[wildcards.checkpoint].parent}"


def selection():
    """The choice of another site that the data is to repeat, if any."""
    return [path] if (path := getattr(CONFIG.data, "selection", None)) else []


def previous_preferences(wildcards):
    """The preferences the parent was trained on; base has none."""
    if CONFIG.checkpoints[wildcards.checkpoint].parent == BASE:
        return []
    return multiext(f"{parent(wildcards)}/preferences/", "captions.parquet", "images.parquet")


def smaller_images(wildcards):
    """What the official defect of that name needs to make images smaller."""
    if "smaller_images" not in CONFIG.defects_of(wildcards.checkpoint):
        return []
    return [f"{ROOT}/data/pairs.parquet", *multiext(f"{ROOT}/tokenizer/", "model.safetensors", "config.json")]


def shown(path, category):
    """A file that `snakemake --report` shows with its caption."""
    return report(path, caption=f"{CAPTIONS}{Path(path).stem}.rst", category=category)


def tables(names, suffixes, category):
    """Files of some tables; the CSV ones are shown."""
    files = [shown(f"{REPORT}/tables/{name}.csv", category) for name in names]
    return files + [f"{REPORT}/tables/{name}.{suffix}" for name in names for suffix in suffixes]


def of_all(checkpoints, *names):
    """The same files of several checkpoints, all seeds."""
    return [f"{ROOT}/seed{seed}/{c}/{name}" for seed in SEEDS for c in checkpoints for name in names]
