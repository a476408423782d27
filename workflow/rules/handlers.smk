# Before the first job and after the last: MLflow is made ready and gets what it missed, DVC is told.
def start_tracking():
    """Make MLflow's database and runs; steps that track wait for it. Under `dvc repro` they make what they need."""
    if "DVC_STAGE" not in os.environ:
        track = [sys.executable, "-m", "hermesflow", "track", "--config", CONFIG_FILE, "--seeds"]
        subprocess.Popen([*track, *map(str, SEEDS)])


def send_spooled():
    """Send what MLflow could not take during the run. If it is still away, the run says so and is none the worse."""
    if spool.waiting(ROOT.parent):
        subprocess.run([sys.executable, "-m", "hermesflow", "sync"], stdout=subprocess.DEVNULL)


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


onstart:
    start_tracking()


onsuccess:
    send_spooled()
    record_in_dvc()


onerror:
    send_spooled()
