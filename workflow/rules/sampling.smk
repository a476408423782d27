# Candidates of a checkpoint: sampled in shards, which go when they are gathered into one artifact.
rule sample:
    input:
        pairs=f"{ROOT}/data/pairs.parquet",
        seen=images(f"{ROOT}/images/seen/pairs"),
        model=model(NODE),
    output:
        captions=temp(f"{NODE}/candidates/{SHARD}/captions.parquet"),
        images=[temp(path) for path in images(f"{NODE}/candidates/{SHARD}/images")],
    log:
        f"{ROOT}/logs/sample-seed{{seed}}-{{checkpoint}}-{{shard}}-of-{{shards}}.log",
    priority: urgency
    threads: CONFIG.runtime.shard_threads
    resources:
        mem_mb=memory(3000),
        runtime=growing(480),
        gpu=GPU,
    params:
        settings=settings("sample"),
        code=code("sample"),
    message:
        "Sample candidates from {wildcards.checkpoint} (seed {wildcards.seed}), shard {wildcards.shard}"
    shell:
        "{STEP} sample --config {CONFIG_FILE} --threads {threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} --shard {wildcards.shard} --shards {wildcards.shards} 2>&1 | tee {log}"


rule gather_candidates:
    input:
        shards_of(f"{NODE}/candidates/{SHARD}/captions.parquet"),
        shards_of(f"{NODE}/candidates/{SHARD}/images.npy"),
        shards_of(f"{NODE}/candidates/{SHARD}/images.json"),
        pairs=f"{ROOT}/data/pairs.parquet",
        seen=images(f"{ROOT}/images/seen/pairs"),
        model=model(NODE),
    output:
        f"{NODE}/candidates/captions.parquet",
        f"{NODE}/candidates/images.npy",
        f"{NODE}/candidates/images.json",
        f"{NODE}/candidates/manifest.json",
    log:
        f"{ROOT}/logs/gather_candidates-seed{{seed}}-{{checkpoint}}.log",
    priority: urgency
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=growing(30),
        gpu=0,
    params:
        settings=settings("gather_candidates"),
        code=code("gather_candidates"),
    message:
        "Join the candidates of {wildcards.checkpoint} (seed {wildcards.seed})"
    shell:
        "{STEP} gather_candidates --config {CONFIG_FILE} --threads {threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} --shards {SHARDS} 2>&1 | tee {log}"
