# mask-rcnn_pervit-tiny_fpn_1x_coco with four global blocks, spread evenly among the windowed ones as in ViTDet. In a
# global block Φp spans the whole map, and the reach of its heads grows with the map (distance_scale='grid', the
# default).
_base_ = 'mask-rcnn_pervit-tiny_fpn_1x_coco.py'

# 1333 x 800 px are 84 x 50 tokens, so Φp of one block takes 4 heads x 4200² x 4 bytes = 282 MB. The blocks are
# recomputed in backward, so that only one block's Φp is in memory at a time.
model = dict(backbone=dict(global_attn_indexes=(2, 5, 8, 11), with_cp=True))
