# What pre-trainings on Fashion-MNIST without labels share. KNNHook alone sees labels, and nothing is chosen by it.
_base_ = ['../datasets/fashion-mnist.py', '../default_runtime.py']
custom_imports = dict(imports=['pervit_mm', 'pervit_mm.selfsup'], allow_failed_imports=False)

data_preprocessor = dict(_delete_=True, type='SelfSupDataPreprocessor', mean=[72.94], std=[90.02], to_rgb=False)
train_dataloader = dict(batch_size=128)
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None

optim_wrapper = dict(
    type='PerViTBFloat16OptimWrapper',
    modules=('backbone', ),
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='PerViTGroupedConstructor',
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=128)

# The hooks of every run, and k nearest neighbors at the end. `knn` names loaders of whole images with labels.
queries = _base_.test_dataloader
bank = dict(queries, dataset=dict(queries.dataset, split='train', test_mode=False))
knn = dict(type='KNNHook', bank=bank, queries=queries, k=(10, 20, 100, 200), before_training=False)
