# Images of the benchmarks' prompts as tokens: drawn in shards, which go when they are gathered into one store.
BENCH = f"{NODE}/benchmarks/{{benchmark}}"  # folder of one benchmark of one checkpoint


rule draw:
    input:
        prompts=benchmark_prompts,
        model=model(NODE),
    output:
        [temp(path) for path in images(f"{BENCH}/{SHARD}/images")],
    log:
        f"{ROOT}/logs/draw-{{benchmark}}-seed{{seed}}-{{checkpoint}}-{{shard}}-of-{{shards}}.log",
    wildcard_constraints:
        benchmark="|".join(IMAGE_BENCHMARKS),
    threads: CONFIG.runtime.shard_threads
    resources:
        mem_mb=memory(3000),
        runtime=growing(480),
        gpu=GPU,
    params:
        settings=settings("draw"),
        code=code("draw"),
    message:
        "Draw for {wildcards.benchmark} by {wildcards.checkpoint} (seed {wildcards.seed}), shard {wildcards.shard}"
    shell:
        "{STEP} draw --config {CONFIG_FILE} --threads {threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} --benchmark {wildcards.benchmark}"
        " --shard {wildcards.shard} --shards {wildcards.shards} 2>&1 | tee {log}"


rule gather_drawn:
    input:
        lambda w: shards_of(f"{BENCH}/{SHARD}/images.npy", draw_shards(w)),
        lambda w: shards_of(f"{BENCH}/{SHARD}/images.json", draw_shards(w)),
        prompts=benchmark_prompts,
    output:
        images(f"{BENCH}/images"),
    log:
        f"{ROOT}/logs/gather_drawn-{{benchmark}}-seed{{seed}}-{{checkpoint}}.log",
    wildcard_constraints:
        benchmark="|".join(IMAGE_BENCHMARKS),
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=growing(30),
        gpu=0,
    params:
        settings=settings("gather_drawn"),
        code=code("gather_drawn"),
        shards=draw_shards,
    message:
        "Join the images for {wildcards.benchmark} by {wildcards.checkpoint} (seed {wildcards.seed})"
    shell:
        "{STEP} gather_drawn --config {CONFIG_FILE} --threads {threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} --benchmark {wildcards.benchmark}"
        " --shards {params.shards} 2>&1 | tee {log}"
