# The base model of each seed, and the fixed image-text extractor of the benchmarks.
rule base:
    input:
        pairs=f"{ROOT}/data/base.parquet",
        seen=images(f"{ROOT}/images/seen/base"),
        generated=images(f"{ROOT}/images/generated/base"),
    output:
        model(f"{ROOT}/seed{{seed}}/{BASE}"),
        f"{ROOT}/seed{{seed}}/{BASE}/model/history.csv",
        f"{ROOT}/seed{{seed}}/{BASE}/model/manifest.json",
    log:
        f"{ROOT}/logs/base-seed{{seed}}.log",
    priority: urgency
    threads: CONFIG.runtime.train_threads
    resources:
        mem_mb=memory(4000),
        runtime=growing(720),
        gpu=GPU,
    params:
        settings=settings("base"),
        code=code("base"),
    message:
        "Base model of seed {wildcards.seed}"
    shell:
        "{STEP} base --config {CONFIG_FILE} --seed {wildcards.seed} --threads {threads} 2>&1 | tee {log}"


rule clip:
    input:
        f"{ROOT}/data/base.parquet",
        f"{ROOT}/data/gap.parquet",
    output:
        f"{ROOT}/clip/model.safetensors",
        f"{ROOT}/clip/config.json",
        f"{ROOT}/clip/metrics.json",
        f"{ROOT}/clip/manifest.json",
    log:
        f"{ROOT}/logs/clip.log",
    threads: CONFIG.runtime.shard_threads
    resources:
        mem_mb=memory(3000),
        runtime=growing(120),
        gpu=GPU,
    params:
        settings=settings("clip"),
        code=code("clip"),
    message:
        "Train the fixed image-text extractor"
    shell:
        "{STEP} clip --config {CONFIG_FILE} --threads {threads} 2>&1 | tee {log}"
