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


def own_preferences(wildcards, checkpoint=None):
    """The pairs that a checkpoint was trained on; base has none."""
    if (checkpoint or wildcards.checkpoint) == BASE:
        return []
    folder = f"{ROOT}/seed{wildcards.seed}/{checkpoint or wildcards.checkpoint}/preferences/"
    return multiext(folder, "captions.parquet", "images.parquet", "images.npy", "images.json")


def of_benchmark(wildcards):
    """A benchmark with images, and its section."""
    return BENCHMARKS[wildcards.benchmark], getattr(CONFIG.benchmarks, wildcards.benchmark)


def draw_shards(wildcards):
    """Shards a benchmark's images are generated in."""
    return SHARDS if BENCHMARKS[wildcards.benchmark].sharded else 1


def already(section, keys):
    """Files of other people that a section names, if they are there: a job says where to get those that are not."""
    return [path for path in (getattr(section, key) for key in keys) if Path(path).is_file()]


def benchmark_prompts(wildcards):
    """What the prompts of a benchmark are read from."""
    one, section = of_benchmark(wildcards)
    pairs = [f"{ROOT}/data/{one.split}.parquet"] if one.split else []
    return pairs + already(section, one.prompt_files)


def grading_files(wildcards):
    """What grading a benchmark reads beside its prompts and images."""
    one, section = of_benchmark(wildcards)
    return already(section, one.grading_files)


def seen_images(wildcards):
    """The real images that a benchmark asks about, as understanding reads them."""
    one, _ = of_benchmark(wildcards)
    return images(f"{ROOT}/images/seen/{one.split}") if one.split else []


def of_benchmarks(*names):
    """The same files of every benchmark the config has, all checkpoints and seeds."""
    return of_all(CHECKPOINTS, *(f"benchmarks/{own}/{name}" for own in MEASURED for name in names))


def caption(table):
    """The caption of a benchmark's own table, as a file that `snakemake --report` can read."""
    path = Path(".snakemake") / "captions" / f"{table.name}.rst"
    with atomic(path) as temporary:
        temporary.write_text(f"{table.caption}\n")
    return str(path.absolute())


def shown(path, category):
    """A file that `snakemake --report` shows with its caption."""
    name = Path(path).stem
    return report(path, caption=EXTRA_CAPTIONS.get(name, f"../report/{name}.rst"), category=category)


def tables(names, suffixes, category):
    """Files of some tables; the CSV ones are shown."""
    files = [shown(f"{REPORT}/tables/{name}.csv", category) for name in names]
    return files + [f"{REPORT}/tables/{name}.{suffix}" for name in names for suffix in suffixes]


def of_all(checkpoints, *names):
    """The same files of several checkpoints, all seeds."""
    return [f"{ROOT}/seed{seed}/{c}/{name}" for seed in SEEDS for c in checkpoints for name in names]
