# After the last job DVC is told. MLflow needs nothing: each step logs its results, and `hermesflow sync` all of them.
def record_in_dvc():
    """Tell DVC about results made by a direct run. `dvc repro` does it itself (and holds DVC's lock)."""
    if "DVC_STAGE" in os.environ or not is_mirror(Path("dvc.yaml"), Path(CONFIG_FILE), SEEDS):
        return
    file = digests_file(CONFIG)
    subprocess.run(
        [sys.executable, "-m", "hermesflow", "digests", "--config", CONFIG_FILE, "--steps", file], check=True
    )
    if read_json(file) == STEPS:
        subprocess.run([sys.executable, "-m", "dvc", "commit", "--force", "--quiet"])
    else:  # of what is in the files now
        print(
            "Code or settings were changed while it ran, so DVC is not told of the results. Run it again.",
            file=sys.stderr,
        )


onsuccess:
    record_in_dvc()
