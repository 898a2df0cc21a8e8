"""demo/web_demo.py's page in headless Chromium: upload, click, choose a head, a broken file; and no call elsewhere."""
import shutil
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
from map_check import check_cells, framed, recorded
from small_classifiers import write_images, write_model

from pervit_mm.apis.subject import open_subject
from pervit_mm.apis.token_page import ADDRESS, build_page, serve
from pervit_mm.utils.errors import UserError

HOW = 'make test-web installs it'
pytest.importorskip('mmpretrain')
pytest.importorskip('gradio', reason=f'no gradio, {HOW}')
sync_api = pytest.importorskip('playwright.sync_api', reason=f'no playwright, {HOW}')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = [pytest.mark.usefixtures('one_thread'),
              pytest.mark.skipif(CHROMIUM is None, reason=f'no chromium, {HOW}')]


@pytest.fixture
def calls(monkeypatch):
    """Addresses that this process connects to."""
    seen, connect = [], socket.socket.connect
    monkeypatch.setattr(socket.socket, 'connect', lambda self, to: (seen.append(to), connect(self, to))[1])
    return seen


class Visit:
    """The page in a browser, and what it asked for."""

    def __init__(self, page, address):
        self.page, self.requests = page, []
        page.on('request', lambda request: self.requests.append(request.url))
        page.goto(address)
        page.wait_for_selector('#shown img')

    def upload(self, path):
        self.page.locator('#drop').get_by_label('Remove').first.click()
        self.page.locator('#drop input[type=file]').set_input_files(str(path))

    def wait_for(self, caption, picture=''):
        """Until the maps have a caption, and the picture is another one."""
        self.page.wait_for_function('''([caption, picture]) =>
            document.querySelector('#maps p').textContent.includes(caption) &&
            document.querySelector('#shown img').src !== picture''', arg=[caption, picture])

    def picture_address(self):
        return self.page.locator('#shown img').get_attribute('src')

    def picture(self):
        data = self.page.request.get(self.picture_address()).body()
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    def maps(self):
        return {image.get_attribute('alt'): image.get_attribute('src')
                for image in self.page.locator('#maps img').all()}

    def click_token(self, row, col, grid=4):
        box = self.page.locator('#shown img').bounding_box()
        self.page.locator('#shown img').click(
            position=dict(x=box['width'] * (col + 0.5) / grid, y=box['height'] * (row + 0.5) / grid))


def test_a_visit(tmp_path, calls):
    data = write_images(tmp_path / 'data')
    subject = open_subject(*write_model(tmp_path, 'pervit', data=data), 'cpu')
    first, second = data / 'a/0.png', data / 'b/1.png'
    (tmp_path / 'broken.png').write_text('no image')
    blocks = build_page(subject, [str(first)])
    address = serve(blocks, block=False)
    try:
        assert address.startswith(f'http://{ADDRESS}:')
        port = int(address.rsplit(':', 1)[1].strip('/'))
        with pytest.raises(UserError, match=rf'port \(--port\) {port} cannot be served: give another one'):
            serve(build_page(subject, [str(first)]), port, block=False)
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
            follow(Visit(browser.new_page(), address), subject, first, second, Path(tmp_path / 'broken.png'))
            browser.close()
    finally:
        blocks.close()
    assert {to[0] for to in calls if isinstance(to, tuple)} <= {ADDRESS, 'localhost'}


def follow(visit, subject, first, second, broken):
    """Upload, click, choose a head and upload a broken file, and compare what is shown each time."""
    check_cells(visit.maps(), recorded(subject, first, (2, 2), None), (2, 2))
    before = visit.picture_address()
    visit.upload(second)
    visit.wait_for('Token in row 2, column 2', before)
    check_cells(visit.maps(), recorded(subject, second, (2, 2), None), (2, 2))
    old = visit.picture()

    before = visit.picture_address()
    visit.click_token(1, 3)
    visit.wait_for('Token in row 1, column 3, mean of all heads.', before)
    check_cells(visit.maps(), recorded(subject, second, (1, 3), None), (1, 3))
    new = visit.picture()
    assert new.shape == (448, 448, 3) and (new != old).any()
    side = 448 // 4
    assert np.abs(np.subtract(framed(new), (side, 3 * side, 2 * side - 1, 4 * side - 1))).max() <= 2

    visit.page.locator('#head input').click()
    visit.page.get_by_role('option', name='head 1').click()
    visit.wait_for('Token in row 1, column 3, head 1.')
    check_cells(visit.maps(), recorded(subject, second, (1, 3), 1), (1, 3))

    visit.upload(broken)
    visit.page.get_by_text("image 'broken.png' cannot be read as one: leave it out, or give another file").wait_for()
    assert {url.split('/')[2].split(':')[0] for url in visit.requests if url.startswith('http')} == {ADDRESS}
