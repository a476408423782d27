# Scores of a checkpoint's candidates: made in shards, gathered, compared with the independent judge.
rule score:
    input:
        pairs=f"{ROOT}/data/pairs.parquet",
        captions=f"{NODE}/candidates/captions.parquet",
        images=images(f"{NODE}/candidates/images"),
        tokenizer=multiext(f"{ROOT}/tokenizer/", "model.safetensors", "config.json"),
        model=model(NODE),
    output:
        captions=f"{NODE}/scores/{SHARD}/captions.parquet",
        images=f"{NODE}/scores/{SHARD}/images.parquet",
    log:
        f"{ROOT}/logs/score-seed{{seed}}-{{checkpoint}}-{{shard}}-of-{{shards}}.log",
    priority: urgency
    threads: CONFIG.runtime.shard_threads
    resources:
        mem_mb=memory(3000),
        runtime=growing(480),
        gpu=GPU,
    params:
        settings=settings("score"),
        code=code("score"),
    message:
        "Score the candidates of {wildcards.checkpoint} (seed {wildcards.seed}), shard {wildcards.shard}"
    shell:
        "{STEP} score --config {CONFIG_FILE} --threads {threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} --shard {wildcards.shard} --shards {wildcards.shards} 2>&1 | tee {log}"


rule gather_scores:
    input:
        shards_of(f"{NODE}/scores/{SHARD}/captions.parquet"),
        shards_of(f"{NODE}/scores/{SHARD}/images.parquet"),
        pairs=f"{ROOT}/data/pairs.parquet",
        candidates=multiext(f"{NODE}/candidates/", "captions.parquet", "images.npy"),
    output:
        f"{NODE}/scores/captions.parquet",
        f"{NODE}/scores/images.parquet",
        f"{NODE}/scores/manifest.json",
    log:
        f"{ROOT}/logs/gather_scores-seed{{seed}}-{{checkpoint}}.log",
    priority: urgency
    group:
        "choose-seed{seed}-{checkpoint}"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=growing(30),
        gpu=0,
    params:
        settings=settings("gather_scores"),
        code=code("gather_scores"),
    message:
        "Join the scores of {wildcards.checkpoint} (seed {wildcards.seed})"
    shell:
        "{STEP} gather_scores --config {CONFIG_FILE} --threads {threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} --shards {SHARDS} 2>&1 | tee {log}"


rule agreement:
    input:
        pairs=f"{ROOT}/data/pairs.parquet",
        tokenizer=multiext(f"{ROOT}/tokenizer/", "model.safetensors", "config.json"),
        model=model(f"{ROOT}/seed{{seed}}/{BASE}"),
        captions=f"{ROOT}/seed{{seed}}/{BASE}/candidates/captions.parquet",
        images=images(f"{ROOT}/seed{{seed}}/{BASE}/candidates/images"),
        scores=multiext(f"{ROOT}/seed{{seed}}/{BASE}/scores/", "captions.parquet", "images.parquet"),
    output:
        f"{ROOT}/seed{{seed}}/{BASE}/scores/agreement.json",
    log:
        f"{ROOT}/logs/agreement-seed{{seed}}.log",
    threads: CONFIG.runtime.shard_threads
    resources:
        mem_mb=memory(3000),
        runtime=growing(120),
        gpu=GPU,
    params:
        settings=settings("agreement"),
        code=code("agreement"),
    message:
        "Agreement of the scores with the judge (seed {wildcards.seed})"
    shell:
        "{STEP} agreement --config {CONFIG_FILE} --seed {wildcards.seed} --threads {threads} 2>&1 | tee {log}"
