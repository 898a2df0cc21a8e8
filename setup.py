"""What setup.cfg cannot say: a wheel carries configs, tools, index and checkpoints in ``pervit_mm/.mim``.

That is where OpenMMLab's packages have them, and mim looks for them. They are copied into the build alone, so the clone
keeps one copy of each file; an editable installation uses that one.
"""
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
#: What is copied, below the top level; a clone may lack some.
CARRIED = ('README.md', 'model-index.yml', 'configs', 'tools', 'checkpoints', 'demo')
#: Larger checkpoints stay out, as pervit_mm/publishing/publish.py has it: a package index has its limits.
MAX_BYTES = 10_000_000


def is_carried(path: Path) -> bool:
    """Whether a file goes into the wheel: no leftovers of Python, editors and interrupted runs, no large checkpoint."""
    hidden = any(part.startswith('.') or part == '__pycache__' for part in path.relative_to(ROOT).parts)
    return path.is_file() and not hidden and path.suffix != '.pyc' and (
        path.suffix != '.pth' or path.stat().st_size <= MAX_BYTES)


class BuildWithMim(build_py):
    """setuptools' ``build_py``, and ``pervit_mm/.mim`` after it."""

    def run(self) -> None:
        """Build; an editable installation gets no copies."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / 'pervit_mm' / '.mim'
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build, with files that are gone since
        for source in (ROOT / name for name in CARRIED):
            for path in sorted([source, *source.rglob('*')]):
                if is_carried(path):
                    copy = target / path.relative_to(ROOT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, copy)


setup(cmdclass=dict(build_py=BuildWithMim))
