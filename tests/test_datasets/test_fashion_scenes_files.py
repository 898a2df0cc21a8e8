"""The files of FashionScenes agree with each other, are written all or none, and the configs read them as written."""
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_items import make_fashion_mnist
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, DefaultScope
from mmengine.runner import Runner

from pervit_mm.datasets.fashion_scenes import FASHION_CLASSES, SOURCES, SPLITS, FashionScenes
from pervit_mm.datasets.fashion_scenes_canvas import read_idx
from pervit_mm.datasets.fashion_scenes_files import prepare_fashion_scenes
from pervit_mm.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COUNTS = dict(train=10, test=3, val=2)


def prepare(source, root, train=COUNTS['train'], test=COUNTS['test'], seed=0, val=COUNTS['val'], **settings):
    folder, files = source
    return prepare_fashion_scenes(
        root, folder, train, test, seed, files, log=lambda sentence: None, val=val, **settings)


def contents(root):
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A folder that stands in for Fashion-MNIST, and its md5 sums."""
    folder = tmp_path_factory.mktemp('source') / 'fashion_mnist'
    return folder, make_fashion_mnist(folder, train_count=200)


@pytest.fixture(scope='module')
def scenes(source, tmp_path_factory):
    """A small set that no test changes."""
    root = tmp_path_factory.mktemp('scenes') / 'fashion_scenes'
    assert prepare(source, root) is True
    return root


def coco(scenes, split):
    return pytest.importorskip('pycocotools.coco').COCO(str(scenes / 'annotations' / f'{split}.json'))


@pytest.mark.parametrize('split', COUNTS)
def test_files_agree_with_each_other(scenes, source, split):
    run_lengths = pytest.importorskip('pycocotools.mask')
    api, labels = coco(scenes, split), read_idx(source[0] / SPLITS[SOURCES[split]][1])
    assert [category['name'] for category in api.loadCats(range(1, 11))] == list(FASHION_CLASSES)
    assert sorted(api.anns) == list(range(1, len(api.anns) + 1))
    assert sorted(api.imgs) == list(range(COUNTS[split]))
    for folder in (scenes / split, scenes / 'labels' / split):
        assert sorted(path.name for path in folder.iterdir()) == [f'{i:06d}.png' for i in range(COUNTS[split])]
    for index, image in api.imgs.items():
        assert image['file_name'] == f'{index:06d}.png'
        pixels = cv2.imread(str(scenes / split / image['file_name']), cv2.IMREAD_UNCHANGED)
        label_map = cv2.imread(str(scenes / 'labels' / split / image['file_name']), cv2.IMREAD_UNCHANGED)
        assert pixels.shape == (image['height'], image['width'], 3)
        assert label_map.shape == pixels.shape[:2] and label_map.dtype == np.uint8
        if split != 'val':  # whose items depend on the training scenes
            scene = FashionScenes.from_folder(source[0], split).scene(index)
            np.testing.assert_array_equal(pixels[..., ::-1], scene.image)

        united, covered = np.zeros_like(label_map), np.zeros(label_map.shape, int)
        for annotation in api.loadAnns(api.getAnnIds(index)):
            mask = api.annToMask(annotation)
            united[mask == 1] = annotation['category_id']
            covered += mask
            assert isinstance(annotation['segmentation']['counts'], str) and annotation['iscrowd'] == 0
            assert annotation['area'] == mask.sum() == run_lengths.area(annotation['segmentation'])
            assert annotation['bbox'] == run_lengths.toBbox(annotation['segmentation']).tolist()
            x, y, width, height = annotation['bbox']
            box = mask[y:y + height, x:x + width]
            assert box.sum() == mask.sum() and box[0].any() and box[-1].any() and box[:, 0].any() and box[:, -1].any()
            assert annotation['category_id'] == labels[annotation['item']] + 1
        np.testing.assert_array_equal(united, label_map)
        assert covered.max() == 1


def test_the_number_of_scenes_changes_none_of_them(scenes, source, tmp_path):
    prepare(source, tmp_path / 'few', train=2, test=1, val=0)
    few, many = contents(tmp_path / 'few'), contents(scenes)
    pictures = [name for name in few if name.endswith('.png')]
    assert len(pictures) == 6 and all(few[name] == many[name] for name in pictures)
    few, many = (json.loads((root / 'annotations' / 'train.json').read_text()) for root in (tmp_path / 'few', scenes))
    assert few['images'] == many['images'][:2]
    assert few['annotations'] == [item for item in many['annotations'] if item['image_id'] < 2]
    assert not (tmp_path / 'few' / 'val').exists() and not (tmp_path / 'few' / 'annotations' / 'val.json').exists()
    assert prepare(source, tmp_path / 'few', train=2, test=1, val=0) is False


def items_of(root, split):
    return {one['item'] for one in json.loads((root / 'annotations' / f'{split}.json').read_text())['annotations']}


def test_validation_scenes_have_training_items_that_no_training_scene_has(scenes, source, tmp_path):
    train, val = items_of(scenes, 'train'), items_of(scenes, 'val')
    assert len(val) > 4 and not train & val and max(val) >= 30, 'the test split has 30 items'
    left = sorted(set(range(200)) - train)
    images, labels = (read_idx(source[0] / name) for name in SPLITS['train'])
    assert val <= set(left)
    drawn = FashionScenes(images, labels, 'val', items=left).scene(1)
    np.testing.assert_array_equal(cv2.imread(str(scenes / 'val' / '000001.png'))[..., ::-1], drawn.image)
    few = tmp_path / 'few', make_fashion_mnist(tmp_path / 'few')
    with pytest.raises(UserError, match='train=30 must leave items for validation.*all 30 of them.*--val 0'):
        prepare(few, tmp_path / 'none', train=30, test=1)
    assert not (tmp_path / 'none').exists()


def test_larger_scenes_have_more_items(source, tmp_path):
    root = tmp_path / 'large'
    assert prepare(source, root, train=8, test=1, max_side=320) is True
    assert prepare(source, root, train=8, test=1, max_side=320) is False
    content = json.loads((root / 'annotations' / 'train.json').read_text())
    sides = [image[key] for image in content['images'] for key in ('height', 'width')]
    numbers = [sum(one['image_id'] == index for one in content['annotations']) for index in range(8)]
    assert 128 <= min(sides) and 224 < max(sides) <= 320
    assert max(numbers) > 12
    assert prepare(source, root, train=8, test=1) is True, 'another size is another set'


def test_each_split_is_made_of_its_own_items_alone(scenes, tmp_path):
    """Other test items change nothing in the training and validation scenes, and the reverse."""
    for changed, kept in (('test', 'train'), ('train', 'test')):
        folder = tmp_path / f'other_{changed}'
        files = make_fashion_mnist(folder, train_count=200, **{f'{changed}_seed': 7})
        prepare((folder, files), tmp_path / changed)
        for name, content in contents(scenes).items():
            if name.endswith('.png'):
                same = contents(tmp_path / changed)[name] == content
                # Label maps may be the same by chance, but images may not.
                is_kept = kept in name or changed == 'test' and 'val' in name
                assert same if is_kept else not same or name.startswith('labels'), name
        assert coco(tmp_path / changed, kept).anns == coco(scenes, kept).anns


def test_nothing_is_done_twice(source, tmp_path):
    root = tmp_path / 'data' / 'fashion_scenes'
    assert prepare(source, root) is True
    before, times = contents(root), {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert prepare(source, root) is False
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == times
    for lost in ('labels/test/000002.png', 'train/000000.png', 'annotations/test.json', 'fashion_scenes.json'):
        if lost == 'fashion_scenes.json':
            (root / lost).write_text('{')
        else:
            (root / lost).unlink()
        assert prepare(source, root) is True
        assert contents(root) == before
    assert [path.name for path in root.parent.iterdir()] == ['fashion_scenes']


def test_other_settings_replace_the_set(source, tmp_path):
    root = tmp_path / 'fashion_scenes'
    prepare(source, root, train=3, test=1)
    before = contents(root)
    assert prepare(source, root, train=2, test=1) is True
    assert not (root / 'train' / '000002.png').exists()
    assert prepare(source, root, train=2, test=1, seed=1) is True
    after = contents(root)
    assert after['train/000000.png'] != before['train/000000.png']
    assert json.loads(after['fashion_scenes.json']) == dict(
        format=2, train=2, test=1, val=2, seed=1, max_side=224, fashion_mnist=source[1])


@pytest.mark.parametrize('there', [False, True])
def test_interruption_leaves_what_was_there(source, tmp_path, monkeypatch, there):
    root = tmp_path / 'fashion_scenes'
    if there:
        prepare(source, root, train=1, test=1, seed=5)
    before, write, calls = contents(tmp_path), cv2.imwrite, []

    def interrupt(path, pixels):
        calls.append(path)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return write(path, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(cv2, 'imwrite', interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, root)
    assert contents(tmp_path) == before
    # A run that was killed cleans up nothing; the next one does.
    for word in ('partial', 'replaced'):
        (tmp_path / f'.fashion_scenes.{word}' / 'train').mkdir(parents=True)
    assert prepare(source, root) is True
    assert [path.name for path in tmp_path.iterdir()] == ['fashion_scenes']


def test_a_folder_that_cannot_be_moved_keeps_its_set(source, tmp_path, monkeypatch):
    prepare(source, tmp_path / 'fashion_scenes', train=1, test=1)
    before = contents(tmp_path)

    def busy(old, new):
        raise OSError('Device or resource busy')  # the error for a mount point

    monkeypatch.setattr(os, 'rename', busy)
    with pytest.raises(UserError, match='busy'):
        prepare(source, tmp_path / 'fashion_scenes')
    assert contents(tmp_path) == before


def test_a_link_to_the_set_stays_one(source, tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'link').symlink_to('disk')
    assert prepare(source, tmp_path / 'link', train=1, test=1) is True
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'disk' / 'train' / '000000.png').is_file()
    assert prepare(source, tmp_path / 'link', train=1, test=1) is False


def test_a_folder_of_something_else_is_left_alone(source, tmp_path):
    (tmp_path / 'coco' / 'train').mkdir(parents=True)
    (tmp_path / 'file').touch()
    for name in ('coco', 'file'):
        with pytest.raises(ValueError, match=f"root='.*{name}' holds something else than scenes"):
            prepare(source, tmp_path / name)
    assert (tmp_path / 'coco' / 'train').is_dir()


def test_a_full_disk_is_reported(source, tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, 'imwrite', lambda path, pixels: False)
    with pytest.raises(UserError, match='000000.png cannot be written'):
        prepare(source, tmp_path / 'fashion_scenes')
    assert list(tmp_path.iterdir()) == []


def test_the_tool_fails_with_sentences(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'prepare_fashion_scenes.py'), '--fashion-mnist', 'absent'],
        cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)
    assert result.returncode == 1
    assert "fashion_mnist='absent' lacks train-images-idx3-ubyte" in result.stderr
    assert 'make data' in result.stderr and 'Traceback' not in result.stderr
    assert list(tmp_path.iterdir()) == []


def read_config(toolbox, task, scenes):
    """The config with the small set of scenes instead of the real one, whose three splits are named alike."""
    pytest.importorskip(toolbox)
    with DefaultScope.overwrite_default_scope(toolbox):
        METRICS.get('IoUMetric' if toolbox == 'mmseg' else 'CocoMetric')  # imports the toolbox
        cfg = Config.fromfile(str(ROOT / 'configs' / '_base_' / 'datasets' / f'fashion-scenes_{task}.py'))
    for split in COUNTS:
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.data_root == 'data/fashion_scenes/'
        assert dataset.data_prefix == (dict(img=f'{split}/') if task == 'detection' else
                                       dict(img_path=split, seg_map_path=f'labels/{split}'))
        if task == 'detection':
            assert dataset.ann_file == f'annotations/{split}.json'
            assert split == 'train' or cfg[f'{split}_evaluator'].ann_file == dataset.data_root + dataset.ann_file
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
        dataset.data_root = f'{scenes}/'
    return cfg


def pixels_and_labels(scenes, split, index):
    """An image as the toolboxes load it, ``(3, H, W)`` in BGR, and its label map."""
    image, labels = (cv2.imread(str(scenes / folder / f'{index:06d}.png'), cv2.IMREAD_UNCHANGED)
                     for folder in (split, f'labels/{split}'))
    return image.transpose(2, 0, 1), labels


def test_mmdetection_reads_what_was_written(scenes):
    cfg = read_config('mmdet', 'detection', scenes)
    assert cfg.test_dataloader.dataset.metainfo.classes == FASHION_CLASSES
    cfg.test_evaluator.ann_file = cfg.test_evaluator.ann_file.replace('data/fashion_scenes', str(scenes))
    with DefaultScope.overwrite_default_scope('mmdet'):
        train = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        test, metric = DATASETS.build(cfg.test_dataloader.dataset), METRICS.build(cfg.test_evaluator)
        batches = iter(train)
        flips = []
        for batch in (next(batches) for _ in range(6)):
            for image, sample in zip(batch['inputs'], batch['data_samples']):
                instances = sample.gt_instances
                expected, labels = pixels_and_labels(scenes, 'train', sample.img_id)
                if sample.flip:
                    expected, labels = expected[..., ::-1], labels[:, ::-1]
                flips.append(sample.flip)
                np.testing.assert_array_equal(image.numpy(), expected)
                united = np.zeros_like(labels)
                for mask, label in zip(instances.masks.masks, instances.labels):
                    united[mask == 1] = label + 1
                np.testing.assert_array_equal(united, labels)
                np.testing.assert_array_equal(instances.masks.get_bboxes('hbox').tensor, instances.bboxes.tensor)
        assert set(flips) == {False, True} and len(flips) > COUNTS['train'], 'the sampler does not end'

        # The ground truth as a prediction scores 1, so sizes and category numbers are right.
        metric.dataset_meta = test.metainfo
        for batch in map(test.__getitem__, range(COUNTS['test'])):
            sample = batch['data_samples']
            assert sample.scale_factor == (1, 1) and sample.ori_shape == sample.img_shape == batch['inputs'].shape[1:]
            truth = sample.gt_instances
            found = dict(bboxes=truth.bboxes.tensor, labels=truth.labels, masks=truth.masks.to_tensor(bool, 'cpu'),
                         scores=truth.labels.new_ones(len(truth.labels), dtype=float))
            metric.process({}, [dict(sample.to_dict(), pred_instances=found)])
        results = metric.evaluate(COUNTS['test'])
    assert results['coco/bbox_mAP'] == results['coco/segm_mAP'] == 1


def test_mmsegmentation_reads_what_was_written(scenes):
    cfg = read_config('mmseg', 'segmentation', scenes)
    assert cfg.test_dataloader.dataset.metainfo.classes == ('background', *FASHION_CLASSES)
    assert len({tuple(color) for color in cfg.test_dataloader.dataset.metainfo.palette}) == 11
    with DefaultScope.overwrite_default_scope('mmseg'):
        batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
        test, metric = DATASETS.build(cfg.test_dataloader.dataset), METRICS.build(cfg.test_evaluator)
        assert len(batch['inputs']) == cfg.train_dataloader.batch_size
        for image, sample in zip(batch['inputs'], batch['data_samples']):
            expected, labels = pixels_and_labels(scenes, 'train', int(Path(sample.img_path).stem))
            image, truth = image.numpy(), sample.gt_sem_seg.data[0].numpy()
            padding = tuple((0, -length % 32) for length in labels.shape)
            expected = np.pad(expected, ((0, 0), *padding), constant_values=73)
            labels = np.pad(labels, padding, constant_values=0)
            if sample.flip:
                image, truth = image[..., ::-1], truth[:, ::-1]
            assert image.shape == (3, 128, 128) and truth.shape == (128, 128)
            # Find the place of the crop by its pixels. The labels must come from the same place.
            rows, columns = (length - 127 for length in labels.shape)
            places = [(y, x) for y in range(rows) for x in range(columns) if (expected[:, y, x] == image[:, 0, 0]).all()
                      and (expected[:, y:y + 128, x:x + 128] == image).all()]
            assert len(places) == 1
            y, x = places[0]
            np.testing.assert_array_equal(truth, labels[y:y + 128, x:x + 128])

        metric.dataset_meta = test.metainfo
        for index, batch in enumerate(map(test.__getitem__, range(COUNTS['test']))):
            expected, labels = pixels_and_labels(scenes, 'test', index)
            np.testing.assert_array_equal(batch['inputs'].numpy(), expected)
            truth = batch['data_samples'].gt_sem_seg
            np.testing.assert_array_equal(truth.data[0], labels)
            metric.process({}, [dict(pred_sem_seg=dict(data=truth.data), gt_sem_seg=dict(data=truth.data))])
        assert metric.evaluate(COUNTS['test'])['mIoU'] == 100
