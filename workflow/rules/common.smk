# What all rules share: paths, and what a step is made from besides its input files.
CHECKPOINTS = [BASE, *CONFIG.checkpoints]
SHARDS = CONFIG.runtime.shards
ROOT = Path("results") / CONFIG.name
NODE = f"{ROOT}/seed{{seed}}/{{checkpoint}}"  # folder of one checkpoint of one seed
STEP = f"{shlex.quote(sys.executable)} -m hermesflow"
SHARD = "shards/{shard}-of-{shards}"
GPU = 0 if CONFIG.runtime.device == "cpu" else 1


wildcard_constraints:
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",
    checkpoint="|".join(CHECKPOINTS),


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


def code(stage):
    """Digest of the modules behind a stage: Snakemake cannot see code behind a shell command."""
    return provenance.code_of(stage)


def settings(stage):
    """The values of the config keys a stage reads, for the checkpoint of a job."""

    def of(wildcards):
        read = provenance.params_of(CONFIG, stage, wildcards.get("checkpoint"))
        return json.dumps(read, sort_keys=True)

    return of


def urgency(wildcards):
    """Priority of a job on the way to later checkpoints; what nothing waits for (`evaluate`) has 0."""
    return 1 + CONFIG.generations_after(wildcards.get("checkpoint", BASE))


def real_data(*names):
    """Files that only pairs of real images leave or need; none for the micro world."""
    return list(names) if CONFIG.data.source in ("journeydb", "folder") else []


def selection():
    """The choice of another site that the data is to repeat, if any."""
    return [path] if (path := getattr(CONFIG.data, "selection", None)) else []


def growing(amount):
    """A resource of which every retry gets more."""
    return lambda wildcards, attempt: amount * attempt


def previous_preferences(wildcards):
    """The preferences the parent was trained on; base has none."""
    if CONFIG.checkpoints[wildcards.checkpoint].parent == BASE:
        return []
    return multiext(f"{parent(wildcards)}/preferences/", "captions.parquet", "images.parquet")


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
