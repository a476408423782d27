# After the last job DVC is told. MLflow needs nothing: each step logs its results, and `hermesflow sync` all of them.
def record_in_dvc():
    """Tell DVC about results made by a direct run. `dvc repro` does it itself (and holds DVC's lock)."""
    if "DVC_STAGE" in os.environ or not Path("dvc.yaml").is_file():
        return
    source, targets = CONFIG_FILE, []  # all stages
    if not is_mirror(Path("dvc.yaml"), Path(CONFIG_FILE), SEEDS):
        source, targets = mirrored_stages(Path(CONFIG_FILE), SEEDS)
        if not targets:
            return
        targets = ["digests", *targets]
    file = digests_file(CONFIG)
    subprocess.run([sys.executable, "-m", "hermesflow", "digests", "--config", source, "--steps", file], check=True)
    now = read_json(file)
    if all(now[name] == digest for name, digest in STEPS.items() if not (targets and name == "report")):
        subprocess.run([sys.executable, "-m", "dvc", "commit", "--force", "--quiet", *targets])
    else:  # of what is in the files now
        print(
            "Code or settings were changed while it ran, so DVC is not told of the results. Run it again.",
            file=sys.stderr,
        )


onsuccess:
    record_in_dvc()
