# What keeps a run safe, in every config: see docs/reliability.md.
# Resumes from whole files and takes no weights of another model.
runner_type = 'PerViTRunner'
custom_hooks = [
    # Saves the random state, so that a resumed run repeats the undisturbed one.
    dict(type='PerViTRandomStateHook'),
    # Averages BatchNorm's statistics over processes; without it those of one are saved.
    dict(type='PerViTSyncBuffersHook'),
    # Stops a run that computes NaN.
    dict(type='PerViTNonFiniteHook'),
    # Ends a run in good order when the machine is taken away.
    dict(type='PerViTPreemptionHook')]
