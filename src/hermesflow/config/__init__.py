"""One YAML file as frozen, validated sections."""
