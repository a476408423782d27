# What all rules share: paths, what a step is made from besides its input files, and what it needs.
CHECKPOINTS = [BASE, *CONFIG.checkpoints]
SHARDS = CONFIG.runtime.shards
ROOT = Path("results") / CONFIG.name
LAYOUT = Layout(ROOT)
NODE = f"{ROOT}/seed{{seed}}/{{checkpoint}}"  # folder of one checkpoint of one seed
# Inside the container it is the image's python that runs this folder's code.
CONTAINED = "apptainer" in map(str, workflow.deployment_settings.deployment_method)
PYTHON = "PYTHONPATH=src python" if CONTAINED else shlex.quote(sys.executable)
STEP = f"{PYTHON} -m hermesflow"
SHARD = "shards/{shard}-of-{shards}"
GPU = 0 if CONFIG.runtime.device == "cpu" else 1
NODES, PROCESSES = CONFIG.runtime.train_nodes, CONFIG.runtime.train_processes  # of a Pair-DPO job; processes per node
TRAIN_THREADS = CONFIG.runtime.train_threads * PROCESSES
LAUNCH = f"{STEP} launch" if CONFIG.runtime.accelerate or NODES * PROCESSES > 1 else STEP
if NODES > 1:  # one launcher per node, from inside the job
    LAUNCH = f"srun --nodes={NODES} --ntasks={NODES} --ntasks-per-node=1 --cpus-per-task={TRAIN_THREADS} {LAUNCH}"
# What the Slurm executor must know of a job that calls srun itself: it is called an MPI job, whoever meets in it.
# GPUs are asked for per node (`gpu` counts those of the whole job); with tasks_per_gpu on, `tasks` would be per GPU.
SPREAD = {"nodes": NODES} if NODES * PROCESSES > 1 else {}
SPREAD |= {"tasks": NODES, "mpi": "srun", "tasks_per_gpu": -1} if NODES > 1 else {}
SPREAD |= {"gres": f"gpu:{PROCESSES}"} if NODES > 1 and GPU else {}
TRAIN_GPUS = GPU * PROCESSES if NODES == 1 else 0
ADAPTER = multiext(f"{NODE}/model/adapter/", "adapter_model.safetensors", "adapter_config.json")
ADAPTER = ADAPTER if CONFIG.training.lora else []
# Files that only pairs of real images leave; none for the micro world.
REAL_DATA = multiext(f"{ROOT}/data/", "questions.csv", "selection.json")
REAL_DATA = [] if has_judge(CONFIG) else REAL_DATA
MEASURED = CONFIG.benchmarks.names if CONFIG.benchmarks else ()
BENCHMARK_FILES = ("units.parquet", "values.json", "facts.json", "rows.parquet", "manifest.json")


wildcard_constraints:
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",
    checkpoint="|".join(CHECKPOINTS),


def code(stage):
    """Digest of the code behind a stage: Snakemake cannot see code behind a shell command."""
    return lambda wildcards: digests.code_of(stage, CONFIG, wildcards.get("benchmark"), wildcards.get("checkpoint"))


def settings(stage):
    """The values of the config keys a stage reads, for the checkpoint of a job."""

    def of(wildcards):
        read = params_of(CONFIG, stage, wildcards.get("checkpoint"), wildcards.get("benchmark"))
        return json.dumps(read, sort_keys=True)

    return of


def urgency(wildcards):
    """Priority of a job on the way to later checkpoints; what nothing waits for (`evaluate`) has 0."""
    return 1 + generations_after(CONFIG, wildcards.get("checkpoint", BASE))


def growing(amount):
    """A resource of which every retry gets more."""
    return lambda wildcards, attempt: amount * attempt


def memory(mb, processes=1):
    """Megabytes of a job's processes; each holds more where images are real or weights released. Retries get more."""
    large = REAL_DATA or CONFIG.weights.language_model
    return growing((mb + (12000 if large else 0)) * processes)
