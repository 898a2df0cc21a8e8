# Scenes of up to 320 px: python tools/prepare_fashion_scenes.py --max-side 320 --root data/fashion_scenes_320
_base_ = 'pervit-nano_fpn_fashion-scenes.py'

data_root = 'data/fashion_scenes_320/'
# Crops of 48 x 48 tokens, 7 x 7 windows. A batch has as many pixels as one of smaller crops.
crop_size = (192, 192)
train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root, pipeline=[
    *_base_.train_pipeline[:3], dict(type='RandomCrop', crop_size=crop_size), *_base_.train_pipeline[4:]]))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))

model = dict(data_preprocessor=dict(size=crop_size))
auto_scale_lr = dict(base_batch_size=8)  # two processes
