"""Entries of metafile.yml are made from logs."""
import pytest
import yaml

from pervit_mm.apis.flops import FlopCount
from pervit_mm.publishing.metafile import metafile_entry, read_log
from pervit_mm.utils.errors import UserError


def test_logs_of_a_resumed_run_are_joined(tmp_path):
    (tmp_path / 'a').write_text('{"coco/bbox_mAP": 0.1, "coco/segm_mAP": 0.2}\n')
    (tmp_path / 'b').write_text('{"coco/bbox_mAP": 0.337, "coco/bbox_mAP_50": 0.5}')
    content, measured = read_log([tmp_path / 'a', tmp_path / 'b'])
    assert content == (b'{"coco/bbox_mAP": 0.1, "coco/segm_mAP": 0.2}\n'
                       b'{"coco/bbox_mAP": 0.337, "coco/bbox_mAP_50": 0.5}\n')
    assert measured == {'coco/bbox_mAP': 0.337, 'coco/bbox_mAP_50': 0.5, 'coco/segm_mAP': 0.2}
    entry = yaml.safe_load(metafile_entry(
        'x_fashion-scenes', 'configs/x.py', 'x.pth', None, FlopCount(1, 2, ''), measured, 'make x'))[0]
    assert entry['Results'] == [
        dict(Task='Object Detection', Dataset='FashionScenes', Metrics={'box AP': 33.7, 'box AP50': 50.0}),
        dict(Task='Instance Segmentation', Dataset='FashionScenes', Metrics={'mask AP': 20.0})]
    assert 'Training log' not in entry and entry['Metadata']['Training Command'] == 'make x'


def test_results_are_those_of_the_checkpoint(tmp_path):
    """The best checkpoint is of an earlier epoch than the last line."""
    (tmp_path / 'log').write_text(''.join(
        f'{{"accuracy/top1": {value}, "step": {step}}}\n' for step, value in ((1, 80.), (2, 90.), (3, 85.))))
    assert read_log([tmp_path / 'log'])[1] == {'accuracy/top1': 85.}
    assert read_log([tmp_path / 'log'], {2, 186})[1] == {'accuracy/top1': 90.}
    with pytest.raises(UserError, match=r'of the steps \[1, 2, 3\], and the checkpoint is of 4 or 372: test it'):
        read_log([tmp_path / 'log'], {4, 372})
    (tmp_path / 'tested').write_text('{"accuracy/top1": 91.0}\n')  # by tools/test.py, without a step
    assert read_log([tmp_path / 'log', tmp_path / 'tested'], {4, 372})[1] == {'accuracy/top1': 91.}


@pytest.mark.parametrize('line', ['11/22 - INFO - loss: 1', '{"config": "/home/me"}', '[1]', '{"loss": 1.0'])
def test_logs_of_another_kind_are_refused(tmp_path, line):
    (tmp_path / 'a').write_text(f'{{"loss": 1.0}}\n{line}\n')
    with pytest.raises(ValueError, match='must be a vis_data/scalars.json, a dict of numbers in each line, got '):
        read_log([tmp_path / 'a'])
