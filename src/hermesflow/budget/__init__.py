"""What a config costs before it runs: forward passes, tokens, FLOPs, time, memory, disk and files of every rule."""
