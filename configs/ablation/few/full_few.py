# PerViT-nano on few images: the same number of each class, drawn by a seed.
_base_ = '../full.py'

custom_imports = dict(imports=['pervit_mm', 'pervit_mm.selfsup'], allow_failed_imports=False)
train_dataloader = dict(
    dataset=dict(
        _delete_=True, type='PerViTFewLabels', shots=600, seed=0, dataset=_base_.train_dataloader.dataset))
