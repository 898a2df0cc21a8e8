# Control: MMPretrain's VisionTransformer with the same images, schedule and token grid.
_base_ = '../vit.py'

custom_imports = dict(imports=['pervit_mm', 'pervit_mm.selfsup'], allow_failed_imports=False)
train_dataloader = dict(
    dataset=dict(
        _delete_=True, type='PerViTFewLabels', shots=600, seed=0, dataset=_base_.train_dataloader.dataset))
