# The paper's tables and figures, and the answer. `snakemake --report` shows those marked with report().
REPORT = f"{ROOT}/report"
PAPER_TABLES = (
    "table1_understanding",
    "table2_generation",
    "table3_fidelity",
    "table4_gap",
    "table5_ablation",
)
EXTRA_CAPTIONS = {table.name: caption(table) for table in (BENCHMARKS[name].table for name in MEASURED) if table}
TRUST_TABLES = (
    "table_agreement",
    "table_judge",
    "table_preferences",
    "table_rejected",
    "statistics",
)
FIGURES = (
    "fig2b_gap",
    "fig4_samples",
    "before_after",
    "fig6_candidates",
    "training_curves",
    "preference_examples",
)


rule report:
    input:
        rejected=f"{ROOT}/data/rejected.csv",
        real=(
            [
                *REAL_DATA,
                *multiext(f"{ROOT}/data/", "base.parquet", "gap.parquet"),
                *model(f"{ROOT}/seed{SEEDS[0]}/{BASE}"),
            ]
            if REAL_DATA
            else []
        ),
        pairs=f"{ROOT}/data/pairs.parquet",
        prompts=f"{ROOT}/data/prompts.parquet",
        judge=f"{ROOT}/judge/judge.json",
        tokenizer=multiext(f"{ROOT}/tokenizer/", "model.safetensors", "config.json"),
        agreement=of_all([BASE], "scores/agreement.json"),
        preferences=of_all(
            CONFIG.checkpoints,
            "preferences/preferences.parquet",
            "preferences/counts.json",
            *("preferences/images.npy", "preferences/images.json"),
        ),
        histories=of_all(CONFIG.checkpoints, "model/history.csv"),
        evaluations=of_all(
            CHECKPOINTS,
            *("evaluation/units.parquet", "evaluation/features.safetensors", "evaluation/metrics.json"),
            *("evaluation/samples.npy", "evaluation/samples.json"),
        ),
        benchmarks=of_benchmarks("units.parquet", "values.json", "facts.json"),
        quoted=expand("config/paper_tables/{table}.csv", table=PAPER_TABLES),
    output:
        tables((*PAPER_TABLES, *EXTRA_CAPTIONS), ("md", "tex"), "Tables"),
        tables(TRUST_TABLES, ("md",), "Trust"),
        [shown(f"{REPORT}/figures/{name}.png", "Figures") for name in FIGURES],
        shown(f"{REPORT}/answer.md", "Answer"),
        f"{REPORT}/summary.json",
    log:
        f"{ROOT}/logs/report.log",
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=growing(60),
        gpu=0,
    params:
        settings=settings("report"),
        code=code("report"),
        seeds=SEEDS,
    message:
        "Tables, figures and the answer"
    shell:
        "{STEP} report --config {CONFIG_FILE} --seeds {params.seeds} --threads {threads} 2>&1 | tee {log}"
