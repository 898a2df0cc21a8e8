"""What a script calls: read a config, build its model, predict with it, count it, export it."""
