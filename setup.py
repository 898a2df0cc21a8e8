"""The part that setup.cfg cannot express: a wheel carries configs, tools, index and checkpoints in ``pervit_mm/.mim``.

OpenMMLab's packages have them in this folder, and mim looks for them there. They are copied only into the build, so the
clone keeps one copy of each file. An editable installation uses the clone's copy.
"""
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
#: What is copied from the top level. A clone may lack some of it.
CARRIED = ('README.md', 'model-index.yml', 'configs', 'tools', 'checkpoints', 'demo')
#: Larger checkpoints stay out, because a package index limits the size of a wheel. pervit_mm/publishing/publish.py has
#: the same limit.
MAX_BYTES = 10_000_000


def is_carried(path: Path) -> bool:
    """Whether a file goes into the wheel. Leftovers of Python, editors or killed runs and large checkpoints don't."""
    hidden = any(part.startswith('.') or part == '__pycache__' for part in path.relative_to(ROOT).parts)
    return path.is_file() and not hidden and path.suffix != '.pyc' and (
        path.suffix != '.pth' or path.stat().st_size <= MAX_BYTES)


class BuildWithMim(build_py):
    """setuptools' ``build_py``, which then fills ``pervit_mm/.mim`` of the build."""

    def run(self) -> None:
        """Build the package and copy the files. An editable installation gets no copies."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / 'pervit_mm' / '.mim'
        shutil.rmtree(target, ignore_errors=True)  # an earlier build may have files that are gone by now
        for source in (ROOT / name for name in CARRIED):
            for path in sorted([source, *source.rglob('*')]):
                if is_carried(path):
                    copy = target / path.relative_to(ROOT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, copy)


setup(cmdclass=dict(build_py=BuildWithMim))
