# Control: global attention in every block instead of windows.
_base_ = 'mask-rcnn_pervit-nano_fashion-scenes.py'

# In testing, padding leaves 16 sizes of scenes. Φp of each size is computed once and kept, 6.3 GB in all at most.
model = dict(backbone=dict(window_size=None, position_cache_bytes=7 * 2**30))
