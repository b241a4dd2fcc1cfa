"""Folders of images to read: tiny files that begin like images, and differ."""

import pytest

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def lay(tmp_path):
    """``lay({"cat": 3, "dog": 2})`` makes a folder of so many images a class; its path."""

    def lay(classes, root="images"):
        folder = tmp_path / root
        for name, count in classes.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                (folder / name / f"{number:03d}.png").write_bytes(PNG + f"{name} {number}".encode())
        return folder

    lay.png = PNG
    return lay
