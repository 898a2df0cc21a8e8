# Leopart (Ziegler and Asano 2022) for PerViT-S: as for PerViT-T. Never run.
_base_ = 'leopart_pervit-tiny_2xb32-amp-coslr-50e_in1k.py'

checkpoint = 'work_dirs/dino_pervit-small_8xb64-amp-coslr-100e_in1k/epoch_100.pth'

model = dict(backbone=dict(arch='small', init_cfg=dict(checkpoint=checkpoint)), neck=dict(in_channels=464))
