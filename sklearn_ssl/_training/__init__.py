"""The training loop and its parts: network, optimizer, schedule, batches and checkpoints."""
