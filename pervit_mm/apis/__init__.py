"""What scripts call: read a config, build its model, predict with the model, count its FLOPs, export it."""
