# Homologous pairs, the image tokenizer, real images as the model reads and generates them.
SPLITS = ("base", "pairs", "gap", "understanding", "prompts")
ENCODED = ("base", "pairs", "gap", "understanding")


rule data:
    input:
        selection(),
    output:
        expand("{root}/data/{split}.parquet", root=ROOT, split=SPLITS),
        REAL_DATA,
        f"{ROOT}/data/rejected.csv",
        f"{ROOT}/data/manifest.json",
    log:
        f"{ROOT}/logs/data.log",
    threads: 1
    resources:
        mem_mb=memory(20000 if REAL_DATA else 2000),
        runtime=growing(2880 if REAL_DATA else 60),
        gpu=GPU if getattr(CONFIG.data, "questions", None) else 0,
    params:
        settings=settings("data"),
        code=code("data"),
    message:
        "Homologous pairs of every split"
    shell:
        "{STEP} data --config {CONFIG_FILE} --threads {threads} 2>&1 | tee {log}"


rule tokenizer:
    input:
        f"{ROOT}/data/base.parquet",
    output:
        f"{ROOT}/tokenizer/model.safetensors",
        f"{ROOT}/tokenizer/config.json",
        f"{ROOT}/tokenizer/history.csv",
        f"{ROOT}/tokenizer/manifest.json",
    log:
        f"{ROOT}/logs/tokenizer.log",
    priority: urgency
    threads: CONFIG.runtime.tokenizer_threads
    resources:
        mem_mb=memory(4000),
        runtime=growing(240),
        gpu=GPU,
    params:
        settings=settings("tokenizer"),
        code=code("tokenizer"),
    message:
        "Image tokenizer"
    shell:
        "{STEP} tokenizer --config {CONFIG_FILE} --threads {threads} 2>&1 | tee {log}"


rule encode:
    input:
        expand("{root}/data/{split}.parquet", root=ROOT, split=ENCODED),
        multiext(f"{ROOT}/tokenizer/", "model.safetensors", "config.json"),
    output:
        [images(f"{ROOT}/images/seen/{split}") for split in ENCODED],
        images(f"{ROOT}/images/generated/base"),
    log:
        f"{ROOT}/logs/encode.log",
    priority: urgency
    threads: CONFIG.runtime.tokenizer_threads
    resources:
        mem_mb=memory(4000),
        runtime=growing(120),
        gpu=GPU,
    params:
        settings=settings("encode"),
        code=code("encode"),
    message:
        "Real images as they are seen and generated"
    shell:
        "{STEP} encode --config {CONFIG_FILE} --threads {threads} 2>&1 | tee {log}"
