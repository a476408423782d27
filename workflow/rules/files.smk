# The files of artifacts that several rules name.
def model(folder):
    """Files of one language model."""
    return multiext(f"{folder}/model/", "model.safetensors", "config.json", "tokenizer.json")


def shards_of(pattern, shards=SHARDS):
    """One file of every shard of a checkpoint; seed, checkpoint and benchmark stay wildcards."""
    return [pattern.replace("{shard}", str(k)).replace("{shards}", str(shards)) for k in range(shards)]


def images(path):
    """Files of one array of images."""
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
    folder = f"{parent(wildcards)}/preferences/"
    return multiext(folder, "captions.parquet", "images.parquet", "images.npy", "images.json")


def draw_shards(benchmark):
    """Shards a benchmark's images are drawn in."""
    return benchmarks.shards_of(benchmark, SHARDS)


def already(*paths):
    """Those files of other people that are there: a dry run does without them, and a job says where to get them."""
    return [path for path in paths if Path(path).is_file()]


def benchmark_prompts(wildcards):
    """What the prompts of a benchmark are read from."""
    if wildcards.benchmark == "gap":
        return [f"{ROOT}/data/gap.parquet"]
    own = getattr(CONFIG.benchmarks, wildcards.benchmark)
    return already(own.captions if wildcards.benchmark == "coco" else own.prompts)


def fid_reference(wildcards):
    """The reference statistics of the Frechet distance."""
    return already(CONFIG.benchmarks.coco.reference) if wildcards.benchmark == "coco" else []


def of_benchmarks(*names):
    """The same files of every benchmark the config has, all checkpoints and seeds."""
    wanted = (*CONFIG.benchmarks.drawn, *CONFIG.benchmarks.columns) if CONFIG.benchmarks else ()
    return of_all(CHECKPOINTS, *(f"benchmarks/{own}/{name}" for own in wanted for name in names))


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
