"""A data set of labels without images, for tests of what chooses by label."""
import numpy as np
from mmengine.dataset import BaseDataset


class Labeled(BaseDataset):
    """Thirty images whose class is the rest by three, except that class 2 lacks ten of them."""

    def load_data_list(self):
        return [dict(img_path=str(i), gt_label=i % 3) for i in range(60) if not (i % 3 == 2 and i > 30)]

    def get_gt_labels(self):
        return np.array([self.get_data_info(i)['gt_label'] for i in range(len(self))])

    def get_cat_ids(self, idx):
        return [self.get_data_info(idx)['gt_label']]
