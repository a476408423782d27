# The self-play chain: a checkpoint's preferences come from its parent's candidates and, from the second iteration
# on, from its parent's own preferences (Eq. 10).
rule prefer:
    input:
        captions=lambda w: f"{parent(w)}/candidates/captions.parquet",
        images=lambda w: images(f"{parent(w)}/candidates/images"),
        scores=lambda w: multiext(f"{parent(w)}/scores/", "captions.parquet", "images.parquet"),
        previous=lambda w: own_preferences(w, CONFIG.checkpoints[w.checkpoint].parent),
    output:
        multiext(
            f"{NODE}/preferences/",
            "preferences.parquet",
            "captions.parquet",
            "images.parquet",
        ),
        images(f"{NODE}/preferences/images"),
        f"{NODE}/preferences/counts.json",
        f"{NODE}/preferences/manifest.json",
    log:
        f"{ROOT}/logs/prefer-seed{{seed}}-{{checkpoint}}.log",
    priority: urgency
    group:
        lambda w: f"choose-seed{w.seed}-{CONFIG.checkpoints[w.checkpoint].parent}"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=growing(30),
        gpu=0,
    params:
        settings=settings("prefer"),
        code=code("prefer"),
    message:
        "Chosen and rejected pairs for {wildcards.checkpoint} (seed {wildcards.seed})"
    shell:
        "{STEP} prefer --config {CONFIG_FILE} --threads {threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} 2>&1 | tee {log}"


# Belongs to what it is made from, a checkpoint's candidates: trainings on the same pairs share it, whoever comes first.
rule reference:
    input:
        captions=f"{NODE}/candidates/captions.parquet",
        images=images(f"{NODE}/candidates/images"),
        scores=multiext(f"{NODE}/scores/", "captions.parquet", "images.parquet"),
        previous=own_preferences,
        pairs=f"{ROOT}/data/pairs.parquet",
        seen=images(f"{ROOT}/images/seen/pairs"),
        model=model(NODE),
    output:
        LAYOUT.reference("{seed}", "{checkpoint}", "{variant}"),
    log:
        f"{ROOT}/logs/reference-seed{{seed}}-{{checkpoint}}-{{variant}}.log",
    wildcard_constraints:
        variant=r"[^/]+",
    priority: urgency
    threads: TRAIN_THREADS
    resources:
        **SPREAD,
        mem_mb=memory(4000, PROCESSES),
        runtime=growing(240),
        gpu=TRAIN_GPUS,
    params:
        settings=settings("reference"),
        code=code("reference"),
    message:
        "Log-probs under {wildcards.checkpoint} (seed {wildcards.seed}): {wildcards.variant}"
    shell:
        "{LAUNCH} reference --config {CONFIG_FILE} --threads {CONFIG.runtime.train_threads}"
        " --seed {wildcards.seed} --checkpoint {wildcards.checkpoint}"
        " --variant {wildcards.variant} 2>&1 | tee {log}"
