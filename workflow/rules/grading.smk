# Real benchmarks of one checkpoint: verdicts on what it drew, and its answers through lmms-eval.
rule grade:
    input:
        images=images(f"{BENCH}/images"),
        prompts=benchmark_prompts,
        files=grading_files,
        real=seen_images,
        tokenizer=multiext(f"{ROOT}/tokenizer/", "model.safetensors", "config.json"),
        model=model(NODE),
    output:
        multiext(f"{BENCH}/", *BENCHMARK_FILES),
    log:
        f"{ROOT}/logs/grade-{{benchmark}}-seed{{seed}}-{{checkpoint}}.log",
    wildcard_constraints:
        benchmark="|".join(IMAGE_BENCHMARKS),
    threads: CONFIG.runtime.shard_threads
    resources:
        mem_mb=lambda w, attempt: memory(BENCHMARKS[w.benchmark].memory)(w, attempt),
        runtime=growing(720),
        gpu=GPU,
        judge=lambda w: int(BENCHMARKS[w.benchmark].one_at_a_time),
    params:
        settings=settings("grade"),
        code=code("grade"),
    message:
        "Grade {wildcards.benchmark} of {wildcards.checkpoint} (seed {wildcards.seed})"
    shell:
        "{STEP} grade --config {CONFIG_FILE} --threads {threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} --benchmark {wildcards.benchmark} 2>&1 | tee {log}"


rule understand:
    input:
        tokenizer=multiext(f"{ROOT}/tokenizer/", "model.safetensors", "config.json"),
        model=model(NODE),
    output:
        multiext(f"{BENCH}/", *BENCHMARK_FILES),
        directory(f"{BENCH}/lmms"),
    log:
        f"{ROOT}/logs/understand-{{benchmark}}-seed{{seed}}-{{checkpoint}}.log",
    wildcard_constraints:
        benchmark="|".join(COLUMNS),
    threads: CONFIG.runtime.shard_threads
    resources:
        mem_mb=memory(8000),
        runtime=growing(1440),
        gpu=GPU,
    params:
        settings=settings("understand"),
        code=code("understand"),
    message:
        "Benchmark {wildcards.benchmark} of {wildcards.checkpoint} (seed {wildcards.seed})"
    shell:
        "{STEP} understand --config {CONFIG_FILE} --threads {threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} --benchmark {wildcards.benchmark} 2>&1 | tee {log}"
