"""The part that setup.cfg cannot express: where mim, OpenMMLab's package manager, finds configs and tools.

OpenMMLab's packages have them in the folder ``.mim`` of the package. A wheel carries copies in ``pervit_mm/.mim``. They
are copied only into the build, so the clone keeps one copy of each file. An editable installation uses the clone's
files: ``pervit_mm/.mim`` of the clone has links to them.
"""
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
#: Folders that mim searches.
SEARCHED = ('configs', 'tools', 'demo')
#: What is copied from the top level. A clone may lack some of it.
CARRIED = ('README.md', 'model-index.yml', 'checkpoints', *SEARCHED)
#: Larger checkpoints stay out, because a package index limits the size of a wheel. pervit_mm/publishing/publish.py has
#: the same limit.
MAX_BYTES = 10_000_000


def is_carried(path: Path) -> bool:
    """Whether a file goes into the wheel. Leftovers of Python, editors or killed runs and large checkpoints don't."""
    hidden = any(part.startswith('.') or part == '__pycache__' for part in path.relative_to(ROOT).parts)
    return path.is_file() and not hidden and path.suffix != '.pyc' and (
        path.suffix != '.pth' or path.stat().st_size <= MAX_BYTES)


class BuildWithMim(build_py):
    """setuptools' ``build_py``, which then lets mim find configs and tools."""

    def run(self) -> None:
        """Build the package, and copy or link the files."""
        super().run()
        if self.editable_mode:
            self.link()
        else:
            self.copy()

    def copy(self) -> None:
        """Fill ``pervit_mm/.mim`` of the build."""
        target = Path(self.build_lib) / 'pervit_mm' / '.mim'
        shutil.rmtree(target, ignore_errors=True)  # an earlier build may have files that are gone by now
        for source in (ROOT / name for name in CARRIED):
            for path in sorted([source, *source.rglob('*')]):
                if is_carried(path):
                    copy = target / path.relative_to(ROOT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, copy)

    def link(self) -> None:
        """Fill ``pervit_mm/.mim`` of the clone, and tell mim where the clone is.

        mim joins the folder of the installed metadata with the first line of ``top_level.txt``. In an editable
        installation the package isn't in that folder. So the first line is the package's whole path, which a join
        leaves as it is, and the second line is the package's name.
        """
        package = ROOT / 'pervit_mm'
        (package / '.mim').mkdir(exist_ok=True)
        for name in SEARCHED:
            link = package / '.mim' / name
            if (ROOT / name).is_dir() and not link.is_symlink():
                link.symlink_to(Path('..', '..', name))
        unpacked = Path(self.get_finalized_command('install').install_lib)
        for file in unpacked.glob('*.dist-info/top_level.txt'):
            file.write_text(f'{package}\npervit_mm\n')


setup(cmdclass=dict(build_py=BuildWithMim))
