STOPPING = [  # captions that its prompts must not be among, and what makes pixels of images for the judge
    *(f"{ROOT}/data/{split}.parquet" for split in ("understanding", "prompts")),
    *multiext(f"{ROOT}/tokenizer/", "model.safetensors", "config.json"),
]


# Pair-DPO: one checkpoint from its parent.
rule train:
    input:
        preferences=f"{NODE}/preferences/preferences.parquet",
        reference=lambda w: LAYOUT.reference(
            w.seed, CONFIG.checkpoints[w.checkpoint].parent, reference_of(CONFIG, w.checkpoint).variant
        ),
        pairs=f"{ROOT}/data/pairs.parquet",
        images=images(f"{NODE}/preferences/images"),
        seen=images(f"{ROOT}/images/seen/pairs"),
        model=lambda w: model(parent(w)),
        stopping=lambda w: STOPPING if training_of(CONFIG, w.checkpoint).stopping else [],
    output:
        model(NODE),
        ADAPTER,
        f"{NODE}/model/history.csv",
        f"{NODE}/model/manifest.json",
    log:
        f"{ROOT}/logs/train-seed{{seed}}-{{checkpoint}}.log",
    wildcard_constraints:
        checkpoint="|".join(CONFIG.checkpoints),
    priority: urgency
    threads: TRAIN_THREADS
    resources:
        **SPREAD,
        mem_mb=memory(4000, PROCESSES),
        runtime=growing(720),
        gpu=TRAIN_GPUS,
    params:
        settings=settings("train"),
        code=code("train"),
    message:
        "Pair-DPO: train {wildcards.checkpoint} (seed {wildcards.seed})"
    # Slurm warns every process of a job: this shell and tee wait for the training, which saves its state.
    shell:
        "trap : TERM USR1;"
        " {LAUNCH} train --config {CONFIG_FILE} --threads {CONFIG.runtime.train_threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} 2>&1 | (trap '' TERM USR1; exec tee {log})"
