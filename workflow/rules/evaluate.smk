# All benchmarks of one checkpoint (one row per item: the raw material of every interval), and how good the judge is.
rule evaluate:
    input:
        data=expand(
            "{root}/data/{split}.parquet",
            root=ROOT,
            split=("gap", "understanding", "prompts"),
        ),
        seen=[images(f"{ROOT}/images/seen/{split}") for split in ("gap", "understanding")],
        tokenizer=multiext(f"{ROOT}/tokenizer/", "model.safetensors", "config.json"),
        clip=[] if REAL_DATA else multiext(f"{ROOT}/clip/", "model.safetensors", "config.json"),
        model=model(NODE),
    output:
        multiext(f"{NODE}/evaluation/", "answers.parquet", "captions.parquet", "images.parquet", "dense.parquet"),
        multiext(f"{NODE}/evaluation/", "gap.parquet", "units.parquet"),
        f"{NODE}/evaluation/features.safetensors",
        f"{NODE}/evaluation/metrics.json",
        images(f"{NODE}/evaluation/samples"),
        f"{NODE}/evaluation/manifest.json",
    log:
        f"{ROOT}/logs/evaluate-seed{{seed}}-{{checkpoint}}.log",
    threads: CONFIG.runtime.shard_threads
    resources:
        mem_mb=memory(4000),
        runtime=growing(480),
        gpu=GPU,
    params:
        settings=settings("evaluate"),
        code=code("evaluate"),
    message:
        "Benchmarks of {wildcards.checkpoint} (seed {wildcards.seed})"
    shell:
        "{STEP} evaluate --config {CONFIG_FILE} --threads {threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} 2>&1 | tee {log}"


rule judge:
    input:
        f"{ROOT}/data/gap.parquet",
        multiext(f"{ROOT}/tokenizer/", "model.safetensors", "config.json"),
    output:
        f"{ROOT}/judge/judge.json",
    log:
        f"{ROOT}/logs/judge.log",
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=growing(60),
        gpu=0,
    params:
        settings=settings("judge"),
        code=code("judge"),
    message:
        "Accuracy of the independent judge"
    shell:
        "{STEP} judge --config {CONFIG_FILE} --threads {threads} 2>&1 | tee {log}"
