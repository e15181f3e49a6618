"""Only in a process of its own: PyTorch cannot forget a device that it was told of."""

import os

import pytest

OWN_PROCESS = "LORANK_TEST_ELSEWHERE" in os.environ
collect_ignore_glob = [] if OWN_PROCESS else ["*"]

if OWN_PROCESS:
    from elsewhere.device import elsewhere, register

    register()

    @pytest.fixture
    def there():
        with elsewhere() as device:
            yield device
