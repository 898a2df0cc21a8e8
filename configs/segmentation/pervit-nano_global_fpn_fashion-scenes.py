# Control: global attention in every block instead of windows.
_base_ = 'pervit-nano_fpn_fashion-scenes.py'

# Scenes are padded to 16 sizes in testing. Φp of all of them, 6.3 GB at most, is made once and kept.
model = dict(backbone=dict(window_size=None, position_cache_bytes=7 * 2**30))
