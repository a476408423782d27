"""What families share that write texts and images token by token, on decoders of transformers."""
